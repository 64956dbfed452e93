"""From what a model wrote to a verdict; whatever is no clear verdict becomes a skip with its reason."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prefenvs.segments import Array
from prefenvs.store.calls import IDENTICAL

UNSURE = "unsure"
REFUSED = "refused to answer"
CUT_OFF = "cut off at the limit of tokens"
WRONG_FORM = "answer in the wrong form"
FAILED = "no reply to this query alone"
DISAGREES = "verdict depends on the order"

UNREAD = (WRONG_FORM, REFUSED, CUT_OFF)
"""Reasons for which a reply is no verdict."""

SCHEMA: dict[str, Any] = {
    "name": "verdict",
    "strict": True,
    "schema": {
        "type": "object",
        "properties": {
            "analysis": {"type": "string"},
            "verdict": {"type": "string", "enum": ["first", "second", "unsure"]},
            "probability": {"type": "number"},
        },
        "required": ["analysis", "verdict", "probability"],
        "additionalProperties": False,
    },
}
"""The answer to the one-stage prompt."""

_CHANCES = {"first": 1.0, "second": 0.0, "unsure": None}
_LINE = re.compile(
    r"\W*(?:(?:final|my)\s+)?(?:(?:answer|verdict)\W+)?(?:the\s+)?(first|second|unsure)(?:\s+(?:one|attempt))?\W*", re.I
)
# Up to the last end, as some servers leave out the beginning; one without an end reaches to the end of the text.
_THOUGHTS = re.compile(r"^.*</think(?:ing)?>|<think(?:ing)?>.*$", re.S | re.I)
_FENCE = re.compile(r"\s*(?:```|~~~)\s*\w*\s*")
MOST_OBJECTS = 50
"""Openings of an object that are looked at in a reply."""


@dataclass(frozen=True)
class Opinion:
    """What a model said about one query shown in one order.

    shown: order of display, as indices into the query. chance: that the segment shown first is the better one, None
    where the model did not or would not tell, for the reason given. reply: its words, where they could not be read.
    """

    shown: tuple[int, ...]
    chance: float | None
    reason: str = ""
    reply: str = field(default="", compare=False)


@dataclass(frozen=True)
class Judgement:
    """All opinions about one query and what they cost: tokens and money of the calls made for it now.

    estimated: the server did not tell the tokens of a call, for which the most that it may have taken is counted.
    """

    query: str
    opinions: tuple[Opinion, ...]
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    cached: bool = False
    estimated: bool = False

    @property
    def chance(self) -> float | None:
        """Chance that the query's first segment is the better one, the mean over both orders; None for a skip."""
        chances = [
            opinion.chance if opinion.shown[0] == 0 else 1.0 - opinion.chance
            for opinion in self.opinions
            if opinion.chance is not None
        ]
        if len(chances) < len(self.opinions):
            return None
        mean = sum(chances) / len(chances)
        return None if abs(mean - 0.5) < 1e-9 else mean

    @property
    def probabilities(self) -> Array | None:
        """[2] probabilities in the order of the query; None for a skip."""
        return None if self.chance is None else np.array([self.chance, 1.0 - self.chance])

    @property
    def reason(self) -> str:
        """Why the query is skipped; empty where it is not."""
        if self.chance is not None:
            return ""
        reasons = [opinion.reason for opinion in self.opinions if opinion.chance is None]
        return reasons[0] if reasons else (DISAGREES if len(self.opinions) > 1 else UNSURE)

    @property
    def consistent(self) -> bool | None:
        """Whether both orders led to the same choice; None unless both were tried and had a verdict."""
        sides = [
            (opinion.chance > 0.5) == (opinion.shown[0] == 0)
            for opinion in self.opinions
            if opinion.chance is not None and opinion.chance != 0.5
        ]
        return sides[0] == sides[1] if len(sides) == 2 else None


def read_verdict(text: str, finish: str) -> tuple[float | None, str]:
    """Return (chance that the first is better or None, reason) for the one-word reply of the second stage.

    The last line counts, or else the first, and only if it holds nothing but a verdict; lines of a fence are none.
    """
    bad = _unusable(finish)
    if bad:
        return None, bad
    lines = [line for line in _THOUGHTS.sub("", text).splitlines() if line.strip() and not _FENCE.fullmatch(line)]
    for line in lines[-1:] + lines[:1]:
        match = _LINE.fullmatch(line.strip())
        if match:
            chance = _CHANCES[match[1].lower()]
            return chance, UNSURE if chance is None else ""
    return None, WRONG_FORM


def read_structured(text: str, finish: str, soft: bool) -> tuple[float | None, str]:
    """Return (chance that the first is better or None, reason) for a JSON reply; `soft` takes its probability.

    The object may stand in a fence or in prose; the last one with a verdict counts, if all others agree with it.
    """
    bad = _unusable(finish)
    if bad:
        return None, bad
    replies = [reply for reply in _objects(_THOUGHTS.sub("", text)) if "verdict" in reply]
    matches = [_LINE.fullmatch(reply["verdict"]) if isinstance(reply["verdict"], str) else None for reply in replies]
    words = {match[1].lower() if match else "" for match in matches}
    if len(words) != 1 or words == {""}:
        return None, WRONG_FORM
    chance = _CHANCES[words.pop()]
    if chance is None:
        return None, UNSURE
    if not soft:
        return chance, ""
    stated = replies[-1].get("probability")
    if not isinstance(stated, int | float) or isinstance(stated, bool) or not 0.0 <= stated <= 1.0:
        return None, WRONG_FORM
    return (None, WRONG_FORM) if (stated > 0.5) != (chance > 0.5) and stated != 0.5 else (float(stated), "")


def _objects(text: str) -> list[dict[str, Any]]:
    """Return the outermost JSON objects in a text, in order."""
    found: list[dict[str, Any]] = []
    end = 0
    for opening in itertools.islice(re.finditer(r"\{", text), MOST_OBJECTS):
        if opening.start() < end:
            continue
        try:
            value, end = json.JSONDecoder().raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            continue
        found.append(value)
    return found


def _unusable(finish: str) -> str:
    if finish in ("refusal", "content_filter"):
        return REFUSED
    if finish == "length":
        return CUT_OFF
    return finish if finish == IDENTICAL or finish.startswith(FAILED) else ""
