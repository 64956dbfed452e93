"""The labelling server: questions, clips and answers over HTTP, for one person or many."""

from __future__ import annotations

from prefenvs.oracles.labelling.access import Access
from prefenvs.oracles.labelling.clips import Clips
from prefenvs.oracles.labelling.demo import fill_demo
from prefenvs.oracles.labelling.server import Form, create_app
from prefenvs.oracles.labelling.serving import serve

__all__ = ["Access", "Clips", "Form", "create_app", "fill_demo", "serve"]
