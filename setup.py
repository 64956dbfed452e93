"""The text of the package's page: README, whose links lead into the repository.

A package page resolves no relative link. They become absolute as soon as pyproject.toml has a `Repository` among its
`[project.urls]`; until then they are left out, and their texts stay.
"""

import re
import tomllib
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).resolve().parent
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls", {}).get("Repository", "")
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)]+)\)")


def lead(match: re.Match[str]) -> str:
    """Return a link as the page shows it."""
    picture, text, path = match.groups()
    if not REPOSITORY:
        return "" if picture else text
    return f"{picture}[{text}]({REPOSITORY}/{'raw' if picture else 'blob'}/main/{path})"


setup(
    long_description=LINK.sub(lead, (ROOT / "README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
