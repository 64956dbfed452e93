"""A Griffe extension: lines `name: what it is` of a docstring become a list."""

from __future__ import annotations

import re
from typing import Any

import griffe

ENTRY = re.compile(r"^(\s*)([a-z_][\w.]*(?:, [a-z_][\w.]*)*): ")
SENTENCE = re.compile(r"^\s*(Raises |Returns? |Result: |Source: |`)")


class Entries(griffe.Extension):
    """Rewrites every docstring as it is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Make lists in the object's docstring."""
        if obj.docstring:
            obj.docstring.value = with_lists(obj.docstring.value)


def with_lists(text: str) -> str:
    """Return the text with a list entry for each line that tells what an argument or field is."""
    lines, inside = list[str](), False
    for line in text.splitlines():
        if ENTRY.match(line):
            lines += [] if inside else [""]
            line, inside = ENTRY.sub(r"\1- **`\2`**: ", line), True
        elif inside and (not line.strip() or SENTENCE.match(line)):
            lines, inside = [*lines, ""], False
        elif inside:
            line = "  " + line
        lines.append(line)
    return "\n".join(lines)
