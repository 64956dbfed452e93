"""Ranked lists: sequential questions that put segments in order, so that few answers give many labelled pairs.

`ListBuilder` asks one question at a time, and the next one depends on the answer; `rank_segments` lets a rater that
answers at once fill lists. Lists of another origin, a page's for one, become preferences by `pairs_of`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np

from prefenvs.errors import PrefenvsError, near_matches
from prefenvs.preferences import Oracle, Preference, Query
from prefenvs.segments import Array, Segment

ListMethod = Literal["lire", "seqrank"]
METHODS = ("lire", "seqrank")
Groups = list[list[Segment]]
"""A ranked list, worst group first; the segments of a group are equal."""


class ListBuilder:
    """Ranked lists from answers to pairs.

    lire (LiRE, ICML 2024): a new segment is put into the list by binary insertion. Each question compares it with a
    random member of the group in the middle of those still possible; better or worse halves them, a tie joins the
    group. Once `questions` have been asked for a list, the next segment begins another one.
    seqrank (Hwang et al. 2023, sequential pairwise): a new segment is compared with the one before it. If the answer
    goes the way of the list, better and better or worse and worse, it is put at its end; else the two begin a new list.

    A skipped question drops the segment that it was about.
    """

    def __init__(
        self, method: ListMethod = "lire", questions: int = 100, rng: np.random.Generator | None = None
    ) -> None:
        """questions: of one list of lire; with 1, pairs are independent. Raises PrefenvsError for an unknown method."""
        if method not in METHODS:
            raise PrefenvsError(
                f"ranked lists are made by {' or '.join(METHODS)}, not {method!r}.{near_matches(method, METHODS)}"
            )
        if not questions >= 1:
            raise PrefenvsError(f"a ranked list takes at least 1 question, got {questions}")
        self.method, self.questions = method, questions
        self.rng = np.random.default_rng() if rng is None else rng
        self.lists: list[Groups] = []
        self.asked = 0
        self._of_list = 0
        self._new: Segment | None = None
        self._low = self._high = self._middle = 0
        # Which way a list of seqrank goes, 1 to the better; 0 while it has one segment or equal ones only.
        self._direction = 0

    @property
    def begins(self) -> bool:
        """Whether the next segment begins a list, and needs no question."""
        return not self.lists or (self.method == "lire" and self._of_list >= self.questions)

    def add(self, segment: Segment) -> Query | None:
        """Take a new segment; return the first question about it, None where it begins a list and needs none.

        Raises PrefenvsError while a question is open.
        """
        if self._new is not None:
            raise PrefenvsError("a ranked list waits for the answer to its last question before it takes a new segment")
        if self.begins:
            self.lists.append([[segment]])
            self._of_list = 0
            return None
        self._new, self._low, self._high = segment, 0, len(self.lists[-1])
        return self._ask()

    def answer(self, probabilities: Array | None) -> Query | None:
        """Take the answer [2] to the last question, None for a skip; return the next one, None once the segment has its
        place. The second segment of each question is the new one."""
        if self._new is None:
            raise PrefenvsError("a ranked list has no open question to be answered")
        if probabilities is None:
            self._new = None
            return None
        better = float(probabilities[1] - probabilities[0])
        if self.method == "seqrank":
            self._append(self._new, int(np.sign(better)))
            return None
        groups = self.lists[-1]
        if better == 0.0:
            groups[self._middle].append(self._new)
            self._new = None
            return None
        if better > 0.0:
            self._low = self._middle + 1
        else:
            self._high = self._middle
        if self._low < self._high:
            return self._ask()
        groups.insert(self._low, [self._new])
        self._new = None
        return None

    def _ask(self) -> Query:
        assert self._new is not None
        groups = self.lists[-1]
        self._middle = (self._low + self._high) // 2
        if self.method == "seqrank":
            self._middle = len(groups) - 1 if self._direction >= 0 else 0
        group = groups[self._middle]
        other = group[-1] if self.method == "seqrank" else group[int(self.rng.integers(len(group)))]
        self.asked += 1
        self._of_list += 1
        return Query((other, self._new))

    def _append(self, segment: Segment, direction: int) -> None:
        """Put a segment at the end of the list that goes its way, or begin another one with the segment before it."""
        groups = self.lists[-1]
        last = groups[-1 if self._direction >= 0 else 0]
        self._new = None
        if direction == 0:
            last.append(segment)
            return
        if self._direction not in (0, direction):
            groups = [[last[-1]]]
            self.lists.append(groups)
        self._direction = direction
        groups.insert(len(groups) if direction > 0 else 0, [segment])


def rank_segments(
    segments: Iterable[Segment],
    oracle: Oracle,
    questions: int,
    builder: ListBuilder,
) -> list[Preference]:
    """Ask a rater `questions` questions about segments, one after the other, and return all pairs of their lists.

    The segment that the last question leaves without a place is left out. Raises PrefenvsError for a rater that does
    not answer at once, where the segments do not last, and for no question.
    """
    if questions < 1:
        raise PrefenvsError(f"a ranked list takes at least 1 question, got {questions}")
    answer: Preference | None = None
    for segment in segments:
        query = builder.add(segment)
        while query is not None:
            answer = ask_at_once(oracle, query)
            if builder.asked >= questions:
                builder.answer(answer.probabilities)
                return [one for groups in builder.lists for one in pairs_of(groups, answer, builder.rng)]
            query = builder.answer(answer.probabilities)
    raise PrefenvsError(f"the segments lasted for {builder.asked} of {questions} questions: give more of them")


def pairs_of(
    groups: Sequence[Sequence[Segment]], like: Preference, rng: np.random.Generator | None
) -> list[Preference]:
    """Return every pair of a ranked list, worst group first, as a preference: 0 and 1 across groups, equal within one.

    like: an answer whose annotator and oracle the pairs are of; rng: puts either segment first; None: the hash of their
    contents does, the same for a pair whatever the list becomes.
    """
    flat = [(rank, segment) for rank, group in enumerate(groups) for segment in group]
    made = []
    for (low, worse), (high, better) in itertools.combinations(flat, 2):
        chances = np.array([0.5, 0.5]) if low == high else np.array([0.0, 1.0])
        pair = (worse, better)
        if worse.hash > better.hash if rng is None else rng.integers(2):
            pair, chances = pair[::-1], chances[::-1]
        made.append(Preference(Query(pair), chances, like.annotator, like.oracle))
    return made


def ask_at_once(oracle: Oracle, query: Query) -> Preference:
    """Return a rater's answer to one query; raises PrefenvsError for a rater that does not answer at once."""
    oracle.ask([query])
    answers = oracle.collect()
    if len(answers) != 1 or oracle.pending:
        raise PrefenvsError(f"ranked lists need a rater that answers at once, which {oracle.name} does not")
    return answers[0]
