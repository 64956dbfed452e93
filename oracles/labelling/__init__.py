"""The labelling server: questions, clips and answers over HTTP, for one person or many."""

from __future__ import annotations

from oracles.labelling.access import Access
from oracles.labelling.clips import Clips
from oracles.labelling.demo import fill_demo
from oracles.labelling.server import create_app

__all__ = ["Access", "Clips", "create_app", "fill_demo"]
