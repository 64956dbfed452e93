"""Prompts: plain text files with fields in braces, which a user copies and edits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefenvs.errors import PrefenvsError

SHIPPED = Path(__file__).parent / "prompts"
FIELDS = {
    "analysis": {"task", "first", "second"},
    "verdict": {"analysis"},
    "combined": {"task", "first", "second"},
}
"""The prompts by name, and the fields that each of them has to hold."""
_FIELD = re.compile(r"\{(task|shown|first|second|analysis)\}")


def read_prompts(folder: Path | str | None = None) -> dict[str, str]:
    """Return the prompts by name, those in `folder` in place of the shipped ones.

    A folder holds any of analysis.txt, verdict.txt (the two stages) and combined.txt (one stage). Raises PrefenvsError
    if it holds none of them, or one that lacks a field.
    """
    found = {name: (SHIPPED / f"{name}.txt").read_text(encoding="utf-8") for name in FIELDS}
    if folder is not None:
        folder = Path(folder)
        own = [name for name in FIELDS if (folder / f"{name}.txt").is_file()]
        if not own:
            raise PrefenvsError(f"{folder} holds no prompt: it may have {', '.join(f'{name}.txt' for name in FIELDS)}")
        for name in own:
            try:
                found[name] = (folder / f"{name}.txt").read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise PrefenvsError(f"the prompt {folder / name}.txt cannot be read: {error}") from None
    for name, wanted in FIELDS.items():
        missing = wanted - set(_FIELD.findall(found[name]))
        if missing:
            fields = ", ".join(f"{{{field}}}" for field in sorted(missing))
            raise PrefenvsError(f"the prompt {name}.txt lacks {fields}: put the field where its content is to stand")
    return found


def copy_prompts(folder: Path | str) -> list[Path]:
    """Write the shipped prompts to a folder, to be edited there; files that exist are left as they are."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.txt" for name in FIELDS]
    for path in paths:
        if not path.exists():
            path.write_text((SHIPPED / path.name).read_text(encoding="utf-8"), encoding="utf-8")
    return paths


def fill(prompt: str, texts: Mapping[str, str], pictures: Mapping[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Return the parts of a message: the prompt with texts filled in, and pictures in the places of their fields."""
    parts: list[dict[str, Any]] = []
    text = ""
    for piece in _split(prompt):
        if isinstance(piece, str):
            text += piece
        elif piece[0] in pictures:
            parts += [{"type": "text", "text": text.strip()}] if text.strip() else []
            parts += pictures[piece[0]]
            text = ""
        else:
            text += texts.get(piece[0], "")
    return parts + ([{"type": "text", "text": text.strip()}] if text.strip() else [])


def _split(prompt: str) -> list[str | tuple[str]]:
    """Split a prompt into texts and one-tuples of field names."""
    pieces = _FIELD.split(prompt)
    return [piece if i % 2 == 0 else (piece,) for i, piece in enumerate(pieces)]
