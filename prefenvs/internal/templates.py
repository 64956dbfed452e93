"""HTML pages by Jinja2, with every text from outside escaped."""

from __future__ import annotations

from importlib.resources import files
from typing import Any


def render(package: str, name: str, **values: Any) -> str:
    """Return the page that a package's template makes of these values."""
    from jinja2 import Environment, StrictUndefined

    pages = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return pages.from_string(files(package).joinpath(name).read_text(encoding="utf-8")).render(values)
