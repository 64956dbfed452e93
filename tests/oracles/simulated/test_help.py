"""Kinds of help: what each is expected to tell, what a belief makes of it, and the preferences that come back."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from scipy.stats import norm

from prefenvs.errors import PrefenvsError
from prefenvs.oracles.make import RaterContext, make_rater
from prefenvs.oracles.simulated.help import Belief, HelpOptions, HelpOracle, SimulatedHelper
from prefenvs.preferences import Query
from prefenvs.segments import Segment


def clip(worth: float, seed: int) -> Segment:
    rng = np.random.default_rng(seed)
    seen = rng.normal(size=(4, 2)).astype(np.float32) + np.float32(worth)
    return Segment(seen, rng.normal(size=(4, 1)).astype(np.float32), np.full(4, worth))


def pairs(count: int = 8) -> list[Query]:
    worths = np.random.default_rng(0).permutation(2 * count) / 4.0
    return [Query((clip(worths[2 * i], 2 * i), clip(worths[2 * i + 1], 2 * i + 1))) for i in range(count)]


class Person:
    """Always the last, always a 4 and then a 2, and a clip of their own."""

    annotator = "person"

    def __init__(self) -> None:
        self.ratings = 0

    def choose(self, segments: Sequence[Segment]) -> int:
        return len(segments) - 1

    def rate(self, segment: Segment) -> int:
        self.ratings += 1
        return 4 if self.ratings % 2 else 2

    def take_over(self, segment: Segment) -> Segment:
        return clip(9.0, 99)


def believe() -> tuple[Belief, np.ndarray]:
    belief, rng = Belief(), np.random.default_rng(1)
    features = belief.features([clip(float(i), i) for i in range(6)])
    root = rng.normal(size=(6, 6)) / 3.0
    belief.mean, belief.covariance = rng.normal(size=6), root @ root.T + 0.1 * np.eye(6)
    return belief, features


def test_what_choices_and_ratings_tell_is_their_mutual_information() -> None:
    belief, features = believe()
    rng = np.random.default_rng(2)
    scores = rng.multivariate_normal(belief.mean, belief.covariance, 40_000) @ features.T
    # Written anew: the information about w in an outcome, E_w sum P log P - sum P_bar log P_bar.
    two = 1.0 / (1.0 + np.exp((scores[:, 1] - scores[:, 0]) / (0.25 * belief.spread)))
    chances = np.stack([two, 1.0 - two], 1)
    expected = float((chances * np.log(chances + 1e-300)).sum(1).mean() - chances.mean(0) @ np.log(chances.mean(0)))
    assert belief.choice_information(features[:2]) == pytest.approx(expected, abs=0.03)
    levels = []
    for k in (0, 1):
        edges = norm.ppf(np.arange(6) / 5) * belief.spread
        cut = norm.cdf((edges[None] - scores[:, k : k + 1]) / (0.5 * belief.spread))
        levels.append(np.diff(cut, axis=1))
    both = (levels[0][:, :, None] * levels[1][:, None]).reshape(-1, 25)
    expected = float((both * np.log(both + 1e-300)).sum(1).mean() - both.mean(0) @ np.log(both.mean(0)))
    assert belief.rating_information(features[:2]) == pytest.approx(expected, abs=0.05)


def test_a_choice_moves_the_belief_to_its_most_probable_weights() -> None:
    belief, features = believe()
    before, precision, temperature = belief.mean, np.linalg.inv(belief.covariance), belief.temperature
    belief.choose(features[:3], 1)

    def loss(w: np.ndarray) -> float:
        scores = features[:3] @ w / temperature
        return float(np.log(np.exp(scores).sum()) - scores[1] + 0.5 * (w - before) @ precision @ (w - before))

    for k in range(6):
        step = 1e-5 * np.eye(6)[k]
        assert (loss(belief.mean + step) - loss(belief.mean - step)) / 2e-5 == pytest.approx(0.0, abs=1e-5)
        assert np.linalg.eigvalsh(np.linalg.inv(belief.covariance) - precision).min() > -1e-8


@pytest.mark.parametrize(
    ("kind", "count"), [("pair", 8), ("best", 8 * 4), ("rating", 8 + 2 * 3 * 6 + 2 * 2), ("takeover", 16)]
)
def test_each_kind_of_help_becomes_preferences_between_two(kind: str, count: int) -> None:
    asked = pairs()
    oracle = HelpOracle(Person(), HelpOptions(kinds=(kind,)), seed=0)  # type: ignore[arg-type]
    oracle.ask(asked)
    answers = oracle.collect()
    assert {query.id for query in asked} <= {answer.query.id for answer in answers}
    told = [answer for answer in answers if not answer.skipped]
    assert len(told) == pytest.approx(count, abs=0 if kind != "rating" else 2)
    assert sum(answer.seconds or 0.0 for answer in answers) == oracle.seconds == 8 * getattr(oracle.options, kind)
    if kind == "takeover":
        assert all(answer.query.segments[0].true_rewards[0] == 9.0 for answer in told)
    if kind in ("pair", "rating"):
        # The second of two, and the first, rated higher.
        assert all(answer.best == (kind == "pair") for answer in answers if answer.query.id in {q.id for q in asked})


def test_the_kind_is_the_one_that_tells_most_for_each_second() -> None:
    belief, features = believe()
    for price, chosen in ((1e-3, "takeover"), (1e6, "pair")):
        options = HelpOptions(kinds=("pair", "takeover"), takeover=price)
        oracle = HelpOracle(Person(), options, seed=0)
        oracle.belief = belief
        assert oracle.choose_kind(features) == chosen


def test_it_goes_on_from_its_state_as_if_never_stopped() -> None:
    asked = pairs()
    one, other = (make_rater("help", RaterContext("Pendulum-v1", 0)) for _ in range(2))
    one.ask(asked[:4])
    one.collect()
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    answers = []
    for oracle in (one, other):
        oracle.ask(asked[4:])
        answers.append([(answer.query.id, answer.best, answer.seconds) for answer in oracle.collect()])
    assert answers[0] == answers[1]
    assert one.summary() == other.summary()  # type: ignore[attr-defined]


def test_what_cannot_be_asked_for_is_refused_in_a_line() -> None:
    with pytest.raises(PrefenvsError, match="give an expert"):
        SimulatedHelper(options=HelpOptions(kinds=("takeover",)))
    with pytest.raises(PrefenvsError, match="some of pair, best, rating and takeover"):
        HelpOptions(kinds=())
    with pytest.raises(PrefenvsError, match="about 2 segments"):
        HelpOracle(Person()).ask([Query((clip(0, 0), clip(1, 1), clip(2, 2)))])
