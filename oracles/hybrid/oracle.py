"""Two raters as one: a cheap one answers most queries, a costly one those where it pays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.internal.closing import Closing
from prefenvs.internal.seeding import sequence
from prefenvs.metrics.accuracy import Share
from prefenvs.oracles.hybrid.config import AFTER, AUDIT, Case, HybridConfig, Routed
from prefenvs.oracles.hybrid.routing import (
    LearnedRouter,
    Quota,
    describe_queries,
    measure_disagreement,
    measure_uncertainty,
)
from prefenvs.preferences import Oracle, Preference, Query
from prefenvs.protocols import Policy, RewardModel
from prefenvs.raters import AnyRater, as_oracle
from prefenvs.segments import Array
from prefenvs.trajectories import Trajectories


class HybridOracle(Oracle, Closing):
    """Put each query to the cheap rater or the costly one, and keep a record of who answered and why.

    Where both answer, the costly rater's answer counts, a skip included. `log` tells by query id what became of each,
    and `agreement` how often both preferred the same segment, measured on the audited queries alone: those were drawn
    by chance, the others because the cheap rater was doubted. Answers name the annotator who gave them.

    What either rater raises comes through once all answers at hand have been handed out.
    """

    name = "hybrid"
    most_segments = 2

    def __init__(
        self,
        cheap: AnyRater,
        costly: AnyRater,
        config: HybridConfig | None = None,
        *,
        disagreement: Callable[[Sequence[Query]], Array] | None = None,
        model: RewardModel | None = None,
        seed: int | None = None,
        **settings: Any,
    ) -> None:
        """Make one rater of two.

        disagreement: returns a score [Q] >= 0 of each query, for the route of that name. model: a reward ensemble that
        such scores are taken from, and that a learned router looks at; see `watch`. settings: fields of `HybridConfig`
        to be changed. Raises PrefenvsError for an inconsistency that the cheap rater does not measure.
        """
        unknown = settings.keys() - HybridConfig.__dataclass_fields__.keys()
        if unknown:
            known = ", ".join(HybridConfig.__dataclass_fields__)
            raise PrefenvsError(f"a hybrid's setting {sorted(unknown)[0]!r} is unknown: choose from {known}")
        self.cheap, self.costly = as_oracle(cheap), as_oracle(costly)
        self.config = dataclasses.replace(config or HybridConfig(), **settings)
        order = getattr(getattr(self.cheap, "config", None), "order", None)
        if self.config.route == "inconsistency" and order != "both":
            raise PrefenvsError(
                f"routing by inconsistency needs a model that is asked in both orders, which {self.cheap.name} is not: "
                "set its order to both (--vlm-order both), or choose another route"
            )
        self.disagreement = disagreement
        self.router = LearnedRouter()
        self.log: dict[str, Routed] = {}
        self.asked_costly = 0
        self._model: Callable[[], RewardModel] | None = None
        self._rng = np.random.default_rng(None if seed is None else sequence(seed, "routing"))
        self._quota = Quota(self.config.share)
        self._open: dict[str, Case] = {}
        self._restored: dict[str, dict[str, Any]] = {}
        self._ready: list[Preference] = []
        self._trouble: PrefenvsError | None = None
        if model is not None:
            self.watch(lambda: model)

    def watch(self, model: Callable[[], RewardModel]) -> None:
        """Take disagreement, and what a learned router sees of it, from the reward ensemble that `model` returns."""
        self._model = model
        self.disagreement = lambda queries: measure_disagreement(model(), queries)

    def ask(self, queries: Sequence[Query]) -> None:
        """Route queries of two segments; a route that goes by the cheap rater's answer decides when that has come.

        Raises PrefenvsError for what a rater refuses, and for a missing ensemble; then none of them is asked. Where the
        costly rater refuses, what the cheap one has been asked by then is left to it.
        """
        for query in queries:
            if len(query.segments) != 2:
                raise PrefenvsError(
                    f"a hybrid compares 2 segments, query {query.id} has {len(query.segments)}: choose a selector of "
                    "pairs, or let people answer (--oracle human, prefenvs label)"
                )
        fresh = {query.id: query for query in queries if query.id not in self._open}
        again = [Case.unpack(query, self._restored[key]) for key, query in fresh.items() if key in self._restored]
        new = [Case(query) for key, query in fresh.items() if key not in self._restored]
        before = self._rng.bit_generator.state, self._quota.state_dict()
        taken: list[Case] = []
        try:
            self._route_before(new)
            cases = new + again
            asked = [case for case in cases if case.cheap is None and case.reason in ("", AUDIT)]
            self.cheap.ask([case.query for case in asked])
            taken = asked
            self.costly.ask([case.query for case in cases if case.reason])
        except BaseException:
            self._rng.bit_generator.state = before[0]
            self._quota.load_state_dict(before[1])
            for case in taken:
                case.reason = ""
            self._open_cases(taken)
            raise
        self.asked_costly += sum(bool(case.reason) for case in new)
        self._open_cases(cases)

    def _open_cases(self, cases: Sequence[Case]) -> None:
        for case in cases:
            self._open[case.query.id] = case
            self._restored.pop(case.query.id, None)

    def collect(self) -> list[Preference]:
        """Return new answers, the costly rater's where it was asked."""
        for take in (self._take_cheap, self._take_costly):
            try:
                take()
            except PrefenvsError as error:
                self._trouble = self._trouble or error
        answers, self._ready = self._ready, []
        trouble, self._trouble = (self._trouble, None) if not answers else (None, self._trouble)
        if trouble is not None:
            raise trouble
        return answers

    @property
    def pending(self) -> int:
        """Number of asked queries whose answers have not been handed out."""
        return len(self._open) + len(self._restored) + len(self._ready)

    @property
    def waiting(self) -> bool:  # type: ignore[override]
        """Whether one of the raters blocks because the user asked for that."""
        return self.cheap.waiting or self.costly.waiting

    @property
    def trouble(self) -> Any:
        """Why queries stay unanswered at this moment, if a rater tells (see VLMOracle)."""
        return getattr(self.cheap, "trouble", None) or getattr(self.costly, "trouble", None)

    @property
    def tokens(self) -> float | None:
        """Tokens that the models among the raters have used; None where neither is one."""
        used = [rater.tokens for rater in (self.cheap, self.costly) if hasattr(rater, "tokens")]
        return sum(used) if used else None

    @property
    def cost(self) -> float:
        """What they have cost."""
        return sum(getattr(rater, "cost", 0.0) for rater in (self.cheap, self.costly))

    @property
    def agreement(self) -> Share:
        """How often both preferred the same segment, of the audited queries where both preferred one."""
        return _agree([entry for entry in self.log.values() if entry.reason == AUDIT])

    @property
    def routed_agreement(self) -> Share:
        """The same of the queries that were sent to the costly rater because of what the cheap one had answered."""
        return _agree([entry for entry in self.log.values() if entry.reason in AFTER])

    def summary(self) -> list[str]:
        """Say in lines who answered, how far the raters agree, and what each has to say."""
        by = [entry.by for entry in self.log.values()]
        audited = sum(entry.reason == AUDIT for entry in self.log.values())
        names = f"{self.cheap.name} answered {by.count('cheap')}, {self.costly.name} {by.count('costly')}"
        lines = [f"{names} of {len(by)} queries; {audited} were put to both by chance"]
        for share, about in ((self.agreement, "audited"), (self.routed_agreement, f"sent on by {self.config.route}")):
            if share.count:
                low, high = share.interval
                lines.append(f"agreement on {share.count} queries {about}: {share.value:.1%} ({low:.1%} to {high:.1%})")
        return lines + [line for rater in (self.cheap, self.costly) for line in getattr(rater, "summary", list)()]

    def follow(self, policy: Policy) -> None:
        """Pass on to both which policy is trained."""
        self.cheap.follow(policy)
        self.costly.follow(policy)

    def observe(self, trajectories: Trajectories) -> None:
        """Pass recent trajectories on to both."""
        self.cheap.observe(trajectories)
        self.costly.observe(trajectories)

    def report(self, status: Mapping[str, float | None]) -> None:
        """Pass the learner's status on to both."""
        self.cheap.report(status)
        self.costly.report(status)

    def settle(self, timeout: float | None = None) -> bool:
        """Wait until neither rater has a call under way, if it tells, each for at most `timeout` seconds."""
        settled = [getattr(rater, "settle", lambda _: True)(timeout) for rater in (self.cheap, self.costly)]
        return all(settled)

    def close(self) -> None:
        """Close the raters that can be closed."""
        for rater in (self.cheap, self.costly):
            getattr(rater, "close", lambda: None)()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of both raters, of the routing, the log, and who still owes which answer, fit for JSON.

        Open queries themselves are not kept: asked again, each goes to whoever owes its answer. Raises PrefenvsError
        while answers wait to be collected, since they would be lost.
        """
        if self._ready:
            raise PrefenvsError(f"{self.name} holds {len(self._ready)} answers: collect() them before saving its state")
        return {
            "cheap": self.cheap.state_dict(),
            "costly": self.costly.state_dict(),
            "rng": self._rng.bit_generator.state,
            "quota": self._quota.state_dict(),
            "asked_costly": self.asked_costly,
            "open": {key: case.pack() for key, case in self._open.items()} | self._restored,
            "log": {key: asdict(entry) for key, entry in self.log.items()},
            "examples": [list(example) for example in self.router.examples],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.cheap.load_state_dict(state["cheap"])
        self.costly.load_state_dict(state["costly"])
        self._rng.bit_generator.state = state["rng"]
        self._quota.load_state_dict(state["quota"])
        self.asked_costly = state["asked_costly"]
        self._open, self._restored = {}, dict(state["open"])
        self.log = {key: Routed(**entry) for key, entry in state["log"].items()}
        self.router = LearnedRouter()
        for features, changed in state["examples"]:
            self.router.add(np.asarray(features), changed)

    def _route_before(self, cases: list[Case]) -> None:
        """Give a reason to the cases that the costly rater is asked about at once."""
        for case, drawn in zip(cases, self._rng.random(len(cases)), strict=True):
            case.reason = AUDIT if drawn < self.config.audit else ""
        self._keep_limit([case for case in cases if case.reason])
        rest = [case for case in cases if not case.reason]
        if self.config.route in AFTER or not rest:
            return
        if self.config.route == "random":
            scores = self._rng.random(len(rest))
        elif self.disagreement is None:
            raise PrefenvsError(
                "routing by disagreement needs the reward ensemble: give model=... or disagreement=..., or call watch"
            )
        else:
            scores = _read_scores(self.disagreement([case.query for case in rest]), len(rest))
        audits = sum(bool(case.reason) for case in cases)
        self._choose(rest, scores, audits)

    def _choose(self, cases: Sequence[Case], scores: Array, marked: int = 0) -> list[Case]:
        """Give the cases of the highest scores their reason, within quota and limit, and return them.

        marked: cases that have one already and are not yet counted.
        """
        chosen = self._quota.choose(scores)
        for case, score, send in zip(cases, scores, chosen, strict=True):
            case.score, case.reason = float(score), self.config.route if send else ""
        sent = sorted((case for case in cases if case.reason), key=lambda case: -(case.score or 0.0))
        self._keep_limit(sent, marked)
        return [case for case in sent if case.reason]

    def _keep_limit(self, cases: Sequence[Case], marked: int = 0) -> None:
        """Take the reason back from those, last first, that the limit leaves no room for."""
        if self.config.limit is not None:
            for case in cases[max(self.config.limit - self.asked_costly - marked, 0) :]:
                case.reason = ""

    def _take_cheap(self) -> None:
        """Hear the cheap rater: what is doubtful goes on to the costly one, the rest is answered."""
        heard: list[Case] = []
        lessons: list[tuple[Preference, int | None]] = []
        for answer in self.cheap.collect():
            case, entry = self._find(answer.query), self.log.get(answer.query.id)
            if case is not None:
                case.cheap = answer
                if not case.reason:
                    heard.append(case)
            elif entry is not None and entry.by == "cheap":
                self._ready.append(replace(answer, oracle=self.name))
            elif entry is not None and entry.reason == AUDIT:
                # The costly rater was faster.
                self.log[answer.query.id] = replace(entry, cheap=answer.best)
                lessons.append((answer, entry.costly))
        doubtful: list[Case] = []
        try:
            self._learn(lessons)
            if self.config.route in AFTER and heard:
                doubtful = self._choose(heard, self._doubt(heard))
            self.costly.ask([case.query for case in doubtful])
            self.asked_costly += len(doubtful)
        except PrefenvsError:
            for case in doubtful:
                case.reason = ""
            raise
        finally:
            for case in heard:
                if not case.reason:
                    assert case.cheap is not None
                    self._settle(case, case.cheap, "cheap")

    def _take_costly(self) -> None:
        lessons: list[tuple[Preference, int | None]] = []
        for answer in self.costly.collect():
            case, entry = self._find(answer.query), self.log.get(answer.query.id)
            if case is not None:
                self._settle(case, answer, "costly")
                if case.cheap is not None:
                    lessons.append((case.cheap, answer.best))
                continue
            # Second thoughts, or an answer from a time that this object knows nothing of.
            if entry is not None:
                self.log[answer.query.id] = replace(entry, by="costly", costly=answer.best)
            self._ready.append(replace(answer, oracle=self.name))
        # Last, as a reward model that fails must not cost an answer.
        self._learn(lessons)

    def _find(self, query: Query) -> Case | None:
        """Return the open case of a query, also if it comes from a checkpoint and has not been asked again."""
        if query.id in self._restored:
            self._open[query.id] = Case.unpack(query, self._restored.pop(query.id))
        return self._open.get(query.id)

    def _settle(self, case: Case, answer: Preference, by: str) -> None:
        """Hand out the answer to a case and note who gave it."""
        self._open.pop(case.query.id, None)
        cheap = None if case.cheap is None else case.cheap.best
        costly = answer.best if by == "costly" else None
        self.log[case.query.id] = Routed(by, case.reason, case.score, cheap, costly)
        self._ready.append(replace(answer, oracle=self.name))

    def _doubt(self, cases: Sequence[Case]) -> Array:
        """Return how doubtful the cheap rater's answers are, [Q], by the route."""
        answers = [case.cheap for case in cases if case.cheap is not None]
        if self.config.route == "uncertainty":
            return np.array([measure_uncertainty(answer) for answer in answers])
        if self.config.route == "inconsistency":
            found = [getattr(self.cheap, "judgements", {}).get(case.query.id) for case in cases]
            return np.array([float(judgement is not None and judgement.consistent is False) for judgement in found])
        # Until it has seen enough, the router learns from queries drawn by chance.
        return self.router.predict(self._describe(answers)) if self.router.ready else self._rng.random(len(cases))

    def _describe(self, answers: Sequence[Preference]) -> Array:
        model = None if self._model is None else self._model()
        return describe_queries([answer.query for answer in answers], answers, model)

    def _learn(self, lessons: Sequence[tuple[Preference, int | None]]) -> None:
        """Let the learned router see where the costly rater, who preferred a segment, differs from the cheap one."""
        for cheap, costly in lessons:
            if self.config.route == "learned" and costly is not None:
                self.router.add(self._describe([cheap])[0], cheap.best != costly)


def _read_scores(given: Any, count: int) -> Array:
    """Return the disagreement about so many queries, [Q]; raises PrefenvsError for anything else."""
    try:
        scores = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        scores = np.zeros(())
    if scores.shape != (count,) or not np.all(np.isfinite(scores)):
        shown = " ".join(repr(given).split())[:60]
        raise PrefenvsError(f"disagreement returned {shown} for {count} queries: return one finite number for each")
    return scores


def _agree(entries: Sequence[Routed]) -> Share:
    both = [entry for entry in entries if entry.cheap is not None and entry.costly is not None]
    return Share(sum(entry.cheap == entry.costly for entry in both), len(both))
