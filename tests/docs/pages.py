"""The pages of the docs and of the repository, and the code blocks in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    ROOT / "CHANGELOG.md",
    ROOT / "examples/README.md",
]
BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>slow|not run): (?P<reason>.+?) -->\n)?"
    r"^(?P<indent> *)```(?P<language>[\w-]*)\n(?P<code>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
COMMAND = re.compile(r"(?:\$ )?(?:python -m )?prefenvs (?!/)(.*)")


class Block(NamedTuple):
    """A fenced block: where it is, its language, its text, and how the comment above it marks it, with the reason."""

    page: Path
    line: int
    language: str
    code: str
    mark: str
    reason: str


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page."""
    text, found = page.read_text(), list[Block]()
    for match in BLOCK.finditer(text):
        indent = match["indent"]
        code = "".join(line.removeprefix(indent) for line in match["code"].splitlines(keepends=True))
        line = text[: match.start("code")].count("\n") + 1
        found.append(Block(page, line, match["language"], code, match["mark"] or "", match["reason"] or ""))
    return found


def commands(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the `prefenvs` command lines of a page's blocks: line number, and words behind `prefenvs`."""
    for block in blocks(page):
        if block.language not in ("", "bash", "sh", "console"):
            continue
        for line in re.sub(r"\\\n\s*", " ", block.code).splitlines():
            for part in line.split("&&"):
                if command := COMMAND.match(part.strip()):
                    yield block.line, shlex.split(command[1], comments=True)
