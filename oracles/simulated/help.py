"""Which kind of help to ask a person for: the one that tells most for each second it takes (after REALM, 2025).

Hagenow and Shah, "REALM: real-time estimates of assistance for learned models in human-robot interaction", compare
kinds of help by the expected entropy of what is believed after them, and a cost of effort. There the belief is about
actions; here it is about a reward that is linear in features of segments, and information is divided by seconds, so
that effort needs no price.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from scipy.special import entr, logsumexp, ndtr, ndtri, softmax
from tyro.conf import arg

from prefenvs.envs import make
from prefenvs.envs.spaces import action_vectors
from prefenvs.envs.states import goes_on
from prefenvs.errors import PrefenvsError
from prefenvs.internal.seeding import sequence
from prefenvs.limits import AtLeastTwo, Fraction, NonNegativeFloat, PositiveFloat, check_settings
from prefenvs.oracles.simulated.immediate import ImmediateOracle
from prefenvs.oracles.simulated.partial_return import true_rewards
from prefenvs.preferences import Preference, Query
from prefenvs.protocols import Policy
from prefenvs.segments import Array, Segment
from prefenvs.tasks import find_task

Kind = Literal["pair", "best", "rating", "takeover"]
LEVELS, PARTNERS, MEMORY = 5, 3, 200
"""Levels of a rating; rated clips that each is compared with; clips that a person and the belief remember."""


@dataclass(frozen=True)
class HelpOptions:
    """What a person may be asked for, and how long that takes them."""

    kinds: tuple[Kind, ...] = ("pair", "best", "rating")
    """Kinds of help to choose from: which of two is better (pair), which of several is best, a rating from 1 to 5 of
    both, or to take over from the first clip's start, which needs an expert."""
    pair: Annotated[PositiveFloat, arg(name="help-pair-seconds")] = 8.0
    """Seconds that a comparison of two takes."""
    best: Annotated[PositiveFloat, arg(name="help-best-seconds")] = 15.0
    """Seconds that the choice of the best takes."""
    rating: Annotated[PositiveFloat, arg(name="help-rating-seconds")] = 10.0
    """Seconds that two ratings take."""
    takeover: Annotated[PositiveFloat, arg(name="help-takeover-seconds")] = 45.0
    """Seconds that a takeover takes."""
    best_of: AtLeastTwo = 5
    """Clips of which the best is chosen, the question's two among them."""
    expert: str = ""
    """Run folder of the policy that takes over."""
    beta: NonNegativeFloat = 0.0
    """Inverse temperature of the person's choices by true return; 0: without errors."""
    rating_noise: Fraction = 0.2
    """Chance that a rating is one level off."""

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise PrefenvsError(f"kinds of help are some of pair, best, rating and takeover, got {self.kinds}")


class Helper(Protocol):
    """A person who helps at once."""

    annotator: str

    def choose(self, segments: Sequence[Segment]) -> int:
        """Return which is best."""

    def rate(self, segment: Segment) -> int:
        """Return 1 to 5."""

    def take_over(self, segment: Segment) -> Segment:
        """Return what they do from the segment's first state, as long as it is."""


class Belief:
    """A Gaussian N(m, S) over the weights w of a reward w . f(segment), from N(0, I).

    f: means over the segment's steps of observations, actions and their squares, standardised by the first ones seen.
    """

    def __init__(self) -> None:
        self.shift: Array = np.zeros(0)
        self.scale: Array = np.zeros(0)
        self.mean: Array = np.zeros(0)
        self.covariance: Array = np.zeros(0)
        self.seen: list[list[float]] = []

    def features(self, segments: Sequence[Segment]) -> Array:
        """Return f [N, d]; the first call sets the scale."""
        steps = [np.concatenate([s.observations.reshape(len(s), -1), s.actions], 1) for s in segments]
        raw = np.stack([np.concatenate([x.mean(0), np.square(x).mean(0)]) for x in steps]).astype(np.float64)
        if not len(self.mean):
            self.shift, self.scale = raw.mean(0), raw.std(0) + 1e-6
            self.mean, self.covariance = np.zeros(raw.shape[1]), np.eye(raw.shape[1])
        found: Array = np.clip((raw - self.shift) / self.scale, -5.0, 5.0)
        self.seen = [*self.seen, *found.tolist()][-MEMORY:]
        return found

    @property
    def spread(self) -> float:
        """The root mean square of scores that are believed in."""
        seen = np.array(self.seen)
        squares = np.square(seen @ self.mean) + np.einsum("nd,de,ne->n", seen, self.covariance, seen)
        return float(np.sqrt(squares.mean()))

    def draw_scores(self, features: Array) -> Array:
        """Return scores w . f [256, K] of segments [K, d] by as many w, the same in each call but for the belief."""
        draws = np.random.default_rng(0).normal(size=(256, len(features)))
        values, vectors = np.linalg.eigh(features @ self.covariance @ features.T)
        scores: Array = features @ self.mean + draws @ (vectors * np.sqrt(np.maximum(values, 0.0))).T
        return scores

    def choice_information(self, features: Array) -> float:
        """Return what the choice of the best of K [K, d], P(k) ~ exp(w . f_k / temperature), tells of w, in nats."""
        return mutual_information(softmax(self.draw_scores(features) / self.temperature, axis=1))

    def rating_information(self, features: Array) -> float:
        """Return what ratings of two segments [2, d] tell of w, in nats.

        A rating is the fifth of N(0, spread^2) in which the score falls, with an error of N(0, noise^2).
        """
        bounds = np.concatenate([[-np.inf], ndtri(np.arange(1, LEVELS) / LEVELS), [np.inf]]) * self.spread
        levels = np.diff(ndtr((bounds - self.draw_scores(features)[:, :, None]) / self.noise), axis=2)
        return mutual_information((levels[:, 0, :, None] * levels[:, 1, None, :]).reshape(len(levels), -1))

    @property
    def noise(self) -> float:
        """Standard deviation of a rating's error: half of the spread of scores."""
        return 0.5 * self.spread

    @property
    def temperature(self) -> float:
        """Temperature of choices: a quarter of the spread of scores, since two clips are told apart more finely."""
        return 0.25 * self.spread

    def choose(self, features: Array, best: int) -> None:
        """Learn that the segment `best` of K [K, d] was chosen: Laplace's approximation by Newton's method."""
        before, features = np.linalg.inv(self.covariance), features / self.temperature
        mean: Array = self.mean
        for _ in range(8):
            chances = softmax(features @ mean)
            average = chances @ features
            curvature = (features * chances[:, None]).T @ features - np.outer(average, average) + before
            mean = mean + np.linalg.solve(curvature, features[best] - average - before @ (mean - self.mean))
        self.mean, self.covariance = mean, np.linalg.inv(curvature)

    def rate(self, features: Array, levels: Array) -> None:
        """Learn ratings [N] from 1 to 5 of segments [N, d], each taken for the normal score of its level."""
        scores, noise = ndtri((levels - 0.5) / LEVELS) * self.spread, self.noise
        before = np.linalg.inv(self.covariance)
        after = before + features.T @ features / noise**2
        self.mean = np.linalg.solve(after, before @ self.mean + features.T @ scores / noise**2)
        self.covariance = np.linalg.inv(after)

    def state_dict(self) -> dict[str, Any]:
        """Return all of it, fit for JSON."""
        names = ("shift", "scale", "mean", "covariance")
        return {name: getattr(self, name).tolist() for name in names} | {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.seen = state["seen"]
        for name in ("shift", "scale", "mean", "covariance"):
            setattr(self, name, np.array(state[name], np.float64))


def mutual_information(chances: Array) -> float:
    """Return the expected fall of entropy by an outcome, H(E P) - E H(P), for its chances [draws, outcomes]."""
    return float(entr(chances.mean(0)).sum() - entr(chances).sum(1).mean())


class HelpOracle(ImmediateOracle):
    """Ask for the kind of help about each query that promises most information for each second of a person.

    What comes back are preferences between two segments, more than were asked: of the best of K over all others, of
    clips by their ratings, of what the person did over what they took over from. A query that its help does not decide
    is a skip. `count`: how often each kind was asked for; `seconds`: what it took. Only people who help at once: the
    page in the browser asks one kind of question at a time.
    """

    name = "help"
    most_segments = 2

    def __init__(self, helper: Helper, options: HelpOptions | None = None, seed: int | None = None) -> None:
        super().__init__()
        self.helper, self.options, self.belief = helper, options or HelpOptions(), Belief()
        self.count: dict[str, int] = dict.fromkeys(self.options.kinds, 0)
        self.seconds = 0.0
        self._rng = np.random.default_rng(None if seed is None else sequence(seed, "help"))

    def ask(self, queries: Sequence[Query]) -> None:
        """Get help; raises PrefenvsError for queries of other than two segments, and then asks for none."""
        for query in queries:
            if len(query.segments) != 2:
                raise PrefenvsError(
                    f"help is about 2 segments, query {query.id} has {len(query.segments)}: choose a selector of pairs"
                )
        if not queries:
            return
        clips = [segment for query in queries for segment in query.segments]
        features = self.belief.features(clips)
        rated: list[tuple[Segment, int]] = []
        for i, query in enumerate(queries):
            # The question's two first, then others of the same length.
            others = [
                j for j in self._rng.permutation(len(clips)) if j // 2 != i and len(clips[j]) == len(clips[2 * i])
            ]
            group = [2 * i, 2 * i + 1, *others[: self.options.best_of - 2]]
            kind = self.choose_kind(features[group])
            told = self._help(kind, [clips[j] for j in group], features[group], rated)
            seconds = float(getattr(self.options, kind))
            self.count[kind] += 1
            self.seconds += seconds
            self._answer(query, told, seconds)

    def choose_kind(self, features: Array) -> Kind:
        """Return the kind of help that tells most for each second, for the features [K, d] of a question's clips."""
        gains = {kind: self.information(kind, features) / getattr(self.options, kind) for kind in self.options.kinds}
        return max(gains, key=lambda kind: gains[kind])

    def information(self, kind: Kind, features: Array) -> float:
        """Return what a kind of help tells, in nats.

        What a person does who takes over counts as the best of the first clip and up to 16 that were seen before.
        """
        if kind == "rating":
            return self.belief.rating_information(features[:2])
        if kind == "takeover":
            features = np.concatenate([features[:1], np.array(self.belief.seen[-16:])])
        elif kind == "pair":
            features = features[:2]
        return self.belief.choice_information(features)

    def _help(
        self, kind: Kind, clips: list[Segment], features: Array, rated: list[tuple[Segment, int]]
    ) -> list[tuple[Segment, Segment, float]]:
        """Get help about the first two clips; return pairs and the chance that the first of each is better."""
        if kind == "rating":
            levels = [self.helper.rate(clip) for clip in clips[:2]]
            self.belief.rate(features[:2], np.array(levels))
            pairs = [(clips[0], levels[0], clips[1], levels[1])]
            for clip, level in zip(clips[:2], levels, strict=True):
                picks = self._rng.permutation(len(rated))[:PARTNERS]
                pairs += [(clip, level, *rated[j]) for j in picks if len(rated[j][0]) == len(clip)]
            rated += list(zip(clips[:2], levels, strict=True))
            return [(one, other, 0.5 + 0.5 * float(np.sign(a - b))) for one, a, other, b in pairs]
        if kind == "takeover":
            shown = self.helper.take_over(clips[0])
            clips = [shown, *clips[:2]]
            self.belief.choose(np.concatenate([self.belief.features([shown]), features[:2]]), 0)
            best = 0
        else:
            clips = clips[:2] if kind == "pair" else clips
            best = self.helper.choose(clips)
            self.belief.choose(features[: len(clips)], best)
        return [(clips[best], clip, 1.0) for j, clip in enumerate(clips) if j != best]

    def _answer(self, query: Query, told: list[tuple[Segment, Segment, float]], seconds: float) -> None:
        answered = False
        for one, other, chance in told:
            if one is query.segments[1] and other is query.segments[0]:
                one, other, chance = other, one, 1.0 - chance
            asked = one is query.segments[0] and other is query.segments[1]
            pair = query if asked else Query((one, other))
            answer = Preference(pair, np.array([chance, 1.0 - chance]), self.helper.annotator, self.name)
            self._answers.append(replace(answer, seconds=seconds if asked else 0.0))
            answered |= asked
        if not answered:
            self._answers.append(Preference(query, None, self.helper.annotator, self.name, seconds=seconds))

    def summary(self) -> list[str]:
        """Say in lines what was asked for."""
        counts = ", ".join(f"{kind} {count}" for kind, count in self.count.items())
        return [f"kinds of help: {counts}; {self.seconds / 60.0:.1f} minutes of a person"]

    def state_dict(self) -> dict[str, Any]:
        """Return what later choices depend on, fit for JSON."""
        state = {"belief": self.belief.state_dict(), "count": self.count, "seconds": self.seconds}
        own: dict[str, Any] = getattr(self.helper, "state_dict", dict)()
        return state | {"rng": self._rng.bit_generator.state, "helper": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.belief.load_state_dict(state["belief"])
        self.count, self.seconds = dict(state["count"]), float(state["seconds"])
        self._rng.bit_generator.state = state["rng"]
        if state["helper"]:
            self.helper.load_state_dict(state["helper"])  # type: ignore[attr-defined]


class SimulatedHelper:
    """A person who knows the true reward, and takes over by an expert's policy."""

    annotator = "simulated"

    def __init__(
        self, task: str = "", options: HelpOptions | None = None, expert: Policy | None = None, seed: int | None = None
    ) -> None:
        self.task, self.options, self.expert = task, options or HelpOptions(), expert
        if "takeover" in self.options.kinds and expert is None:
            raise PrefenvsError("somebody takes over by a policy: give an expert, or leave takeover out of the kinds")
        self._rng = np.random.default_rng(None if seed is None else sequence(seed, "helper"))
        self._returns: list[float] = []

    def choose(self, segments: Sequence[Segment]) -> int:
        """Return the segment of the highest true return, or with `beta` one drawn by exp(beta return)."""
        returns = np.array([float(np.sum(true_rewards([segment]))) for segment in segments])
        if not self.options.beta:
            return int(returns.argmax())
        chances = np.exp(self.options.beta * returns - logsumexp(self.options.beta * returns))
        return int(self._rng.choice(len(returns), p=chances / chances.sum()))

    def rate(self, segment: Segment) -> int:
        """Return the fifth of all that were rated lately in which the true return lies, sometimes one off."""
        worth = float(np.sum(true_rewards([segment])))
        self._returns = [*self._returns, worth][-MEMORY:]
        below = np.mean(np.array(self._returns) < worth) + 0.5 * np.mean(np.array(self._returns) == worth)
        level = 1 + min(int(LEVELS * below), LEVELS - 1)
        if self._rng.random() < self.options.rating_noise:
            level += self._rng.choice([-1, 1])
        return int(np.clip(level, 1, LEVELS))

    def take_over(self, segment: Segment) -> Segment:
        """Play the expert from the segment's first state, as long as the segment is.

        Raises PrefenvsError where the simulator cannot go on from recorded states, or the episode ends before.
        """
        assert self.expert is not None
        task, rows = find_task(self.task), list[tuple[Array, Array, float, Array]]()
        env: Any
        with closing(make(task.id)) as env:
            env.reset(seed=0)
            if segment.states is None or not goes_on(env, segment):
                raise PrefenvsError(f"nobody can take over in {task.id}: its states do not hold all of the simulator")
            env.restore(segment.states[0], segment.scene)
            observation, state = segment.observations[0], segment.states[0]
            for _ in range(len(segment)):
                action = self.expert.predict(np.asarray(observation)[None], deterministic=True)[0][0]
                following, _, ended, _, info = env.step(action)
                vector = np.ravel(action_vectors(env.action_space, action))
                rows.append((np.ravel(observation), vector, float(info["true_reward"]), np.array(state)))
                observation, state = following, info["state"]
                if ended and len(rows) < len(segment):
                    raise PrefenvsError(
                        f"the expert's episode of {task.id} ended before the segment: leave takeover out"
                    )
        observations, actions, rewards, states = (np.array(column) for column in zip(*rows, strict=True))
        return replace(
            segment,
            observations=observations.astype(segment.observations.dtype),
            actions=actions.astype(segment.actions.dtype),
            true_rewards=rewards,
            states=states,
            episode=-1,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what later answers depend on, fit for JSON."""
        return {"rng": self._rng.bit_generator.state, "returns": self._returns}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._rng.bit_generator.state, self._returns = state["rng"], list(state["returns"])
