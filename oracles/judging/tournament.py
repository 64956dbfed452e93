"""Judge whole policies against each other: who meets whom next, the questions, and what the answers come to."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from prefenvs.errors import PrefenvsError
from prefenvs.internal.seeding import derive_seed, sequence
from prefenvs.oracles.judging.ranking import DRAWS, Matches, Ranking, information, rank
from prefenvs.oracles.make import RaterContext, make_rater, read_spec
from prefenvs.oracles.simulated.partial_return import PartialReturnOracle
from prefenvs.preferences import Oracle, Preference, Query
from prefenvs.segments import Array, Segment
from prefenvs.store import Store

Pairing = Literal["balanced", "informative"]
# Enough draws to choose a pair by; a report takes more.
FEW_DRAWS = 200


@dataclass(frozen=True)
class Match:
    """One episode of two agents, by number, to be compared; `query` is the id of the question in the store."""

    query: str
    first: int
    second: int
    episode: int


class Tournament:
    """N agents that played the same E episodes, the questions asked about them in a store, and their answers.

    Two agents meet in an episode that began alike for both. Who met whom is written to a file before a question is
    asked; segments in the store tell nothing of their agents, and the page shows nothing but two clips.
    """

    def __init__(
        self,
        names: Sequence[str],
        episodes: Sequence[Sequence[Segment]],
        store: Store,
        run: str,
        matches: Path,
        pairing: Pairing = "balanced",
        seed: int = 0,
    ) -> None:
        """Take up the matches that have been arranged, and ask again what a crash kept from being asked.

        episodes: the E episodes of each agent, [N][E]. run: name of the judging in the store. matches: file of the
        matches, one JSON object a line. pairing: "balanced" lets all pairs meet equally often; "informative" prefers
        the pair whose next answer is expected to tell most. Raises PrefenvsError for agents that cannot be compared.
        """
        if len(names) < 2:
            raise PrefenvsError(f"a judging takes at least 2 agents, got {len(names)}")
        counts = {len(played) for played in episodes}
        if len(counts) != 1 or 0 in counts:
            raise PrefenvsError(f"the agents have played {sorted(counts)} episodes; each must have played the same")
        if pairing not in ("balanced", "informative"):
            raise PrefenvsError(f"pairing={pairing!r} is unknown: choose balanced or informative")
        self.names, self.episodes, self.store, self.run = tuple(names), episodes, store, run
        self.pairing, self.seed, self._file = pairing, seed, matches
        self.matches = _read(matches)
        self._ask(self.matches)

    @property
    def possible(self) -> int:
        """Number of different matches: pairs of agents times episodes, without those of two equal clips."""
        return int(self._open().sum()) + len(self.matches)

    def arrange(self, count: int) -> list[Match]:
        """Ask up to `count` further questions and return their matches; fewer if no other match is left."""
        agents = len(self.names)
        rng = np.random.default_rng(sequence(self.seed, "pairing", len(self.matches)))
        unanswered = self._met(self._waiting())
        met, still = self._met(self.matches), self._open()
        informative = self.pairing == "informative"
        gain = information(self.ranking(FEW_DRAWS).draws) if informative else np.zeros((agents, agents))
        made = []
        for _ in range(count):
            free = still.any(axis=2)
            if not free.any():
                break
            # What waits for an answer will tell part of what the next answer of the same pair could.
            merit = gain / (1 + unanswered) if informative else -met.astype(float)
            merit = np.where(free, merit, -np.inf)
            first, second = _draw(np.argwhere(merit >= merit.max() - 1e-12), rng)
            (episode,) = _draw(np.argwhere(still[first, second]), rng)
            still[first, second, episode] = False
            for a, b in ((first, second), (second, first)):
                met[a, b] += 1
                unanswered[a, b] += 1
            if rng.random() < 0.5:
                first, second = second, first
            made.append(Match(self._query(first, second, episode).id, first, second, episode))
        with self._file.open("a") as file:
            file.writelines(json.dumps(asdict(match)) + "\n" for match in made)
        self._ask(made)
        self.matches += made
        return made

    def answer(self, rater: str, seed: int = 0) -> int:
        """Have a rater answer all open questions (see `judge_by_rater`), and return how many it answered."""
        waiting = [self._query(match.first, match.second, match.episode) for match in self._waiting()]
        answers = judge_by_rater(waiting, rater, derive_seed(seed, "answers", len(self.matches)))
        self.store.add_preferences(answers, run=self.run)
        return len(answers)

    def samples(self) -> dict[str, str]:
        """Return the hash of a clip of each agent that has been asked about, by name."""
        found: dict[str, str] = {}
        for match in self.matches:
            for agent in (match.first, match.second):
                found.setdefault(self.names[agent], self.episodes[agent][match.episode].hash)
        return found

    def waiting(self) -> int:
        """Number of matches without an answer."""
        return len(self._waiting())

    def outcomes(self) -> Matches:
        """Return the answers that stand, skips left out."""
        by_query: dict[str, list[Match]] = {}
        for match in self.matches:
            by_query.setdefault(match.query, []).append(match)
        numbers = {query: number for number, query in enumerate(by_query)}
        rows = []
        for answer in self.store.preferences(run=self.run, queries=by_query):
            if answer.probabilities is not None:
                score = float(answer.probabilities[0])
                # Two matches share a question where an agent met two whose clips are equal.
                rows += [
                    (match.first, match.second, score, numbers[match.query]) for match in by_query[answer.query.id]
                ]
        first, second, scores, questions = zip(*rows, strict=True) if rows else ((), (), (), ())
        return Matches(
            np.array(first, np.int64), np.array(second, np.int64), np.array(scores), np.array(questions, np.int64)
        )

    def ranking(self, draws: int = DRAWS) -> Ranking:
        """Rank the agents by the answers so far."""
        return rank(self.names, self.outcomes(), draws, self.seed)

    def _query(self, first: int, second: int, episode: int) -> Query:
        return Query((self.episodes[first][episode], self.episodes[second][episode]))

    def _ask(self, matches: Iterable[Match]) -> None:
        queries = [self._query(match.first, match.second, match.episode) for match in matches]
        for match, query in zip(matches, queries, strict=True):
            if match.query != query.id:
                raise PrefenvsError(f"{self._file} tells of other episodes than those at hand; choose another folder")
        self.store.add_queries(queries, run=self.run)

    def _waiting(self) -> list[Match]:
        """Matches without an answer; a skip is one."""
        answered = {answer.query.id for answer in self.store.preferences(run=self.run)}
        return [match for match in self.matches if match.query not in answered]

    def _met(self, matches: Iterable[Match]) -> Array:
        """How often each two agents have met, [N, N]."""
        met = np.zeros((len(self.names), len(self.names)), np.int64)
        for match in matches:
            met[match.first, match.second] += 1
            met[match.second, match.first] += 1
        return met

    def _open(self) -> Array:
        """Which matches i < j could still be arranged, [N, N, E]."""
        hashes = np.array([[segment.hash for segment in played] for played in self.episodes])
        still: Array = hashes[:, None] != hashes[None]
        still &= np.triu(np.ones(still.shape[:2], bool), 1)[:, :, None]
        for match in self.matches:
            still[min(match.first, match.second), max(match.first, match.second), match.episode] = False
        return still


def make_judge(spec: str, seed: int = 0) -> Oracle:
    """Return the rater of a line as `make_rater` takes it; raises PrefenvsError for one that cannot judge at once."""
    rater = read_spec(spec).rater
    if rater.late or rater.needs:
        raise PrefenvsError(
            f"whole episodes are judged by people, or at once by a simulated rater or module:NAME, not by {spec}"
        )
    return make_rater(spec, RaterContext(seed=seed))


def judge_by_rater(queries: Sequence[Query], spec: str = "oracle", seed: int = 0) -> list[Preference]:
    """Let a rater (see `make_judge`) compare whole episodes of any lengths; teachers go by true return."""
    oracle = make_judge(spec, seed)
    if isinstance(oracle, PartialReturnOracle):
        oracle.ask([_padded(query) for query in queries])
        return [replace(answer, query=query) for query, answer in zip(queries, oracle.collect(), strict=True)]
    oracle.ask(queries)
    answers = oracle.collect()
    while oracle.pending:
        answers += oracle.collect()
    return answers


def _padded(query: Query) -> Query:
    """The same true returns in segments of one length: an episode earns nothing after its end."""
    length = max(len(segment) for segment in query.segments)
    padded = []
    for segment in query.segments:
        if segment.true_rewards is None:
            raise PrefenvsError("an episode carries no true rewards, so no simulated teacher can judge it")
        rewards = np.zeros(length)
        rewards[: len(segment)] = segment.true_rewards
        empty = np.zeros((length, 0))
        padded.append(Segment(empty, empty, rewards, task=segment.task))
    return Query(tuple(padded))


def report(tournament: Tournament, returns: Sequence[float] | None = None) -> dict[str, Any]:
    """Return a ranking as JSON holds it, best agent first; `returns` are mean true returns to set beside it."""
    ranking = tournament.ranking()
    agents = []
    for place, agent in enumerate(ranking.order.tolist(), 1):
        agents.append(
            {
                "place": place,
                "name": ranking.names[agent],
                "win_rate": float(ranking.win_rates[agent]),
                "win_rate_interval": ranking.win_rate_intervals[agent].tolist(),
                "strength": float(ranking.strengths[agent]),
                "strength_interval": ranking.intervals[agent].tolist(),
                "probability_best": float(ranking.best[agent]),
                "answers": int(ranking.answers[agent]),
                "wins": float(ranking.wins[agent].sum()),
                "ties": int(ranking.ties[agent]),
                "better_than": {
                    ranking.names[other]: float(ranking.better[agent, other])
                    for other in ranking.order.tolist()
                    if other != agent
                },
                "true_return": None if returns is None else float(returns[agent]),
            }
        )
    return {
        "model": "Bradley-Terry, 95% intervals by Bayesian bootstrap over questions",
        "matches": len(tournament.matches),
        "waiting": tournament.waiting(),
        "answers": len(tournament.outcomes()),
        "agents": agents,
    }


def _draw(options: Array, rng: np.random.Generator) -> tuple[int, ...]:
    """One of the rows, at random."""
    return tuple(int(value) for value in options[rng.integers(len(options))])


def _read(path: Path) -> list[Match]:
    """The matches in a file; a last line that a crash cut short was never asked."""
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    try:
        return [Match(**json.loads(line)) for line in whole.splitlines()]
    except (ValueError, TypeError) as error:
        raise PrefenvsError(f"{path} is damaged: {error}") from None
