import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefenvs import PrefenvsError, Query, Segment, Trajectories
from prefenvs.oracles import TEACHERS, PartialReturnOracle, Teacher, find_teacher
from prefenvs.oracles.contract import ContractBroken, check_oracle
from prefenvs.preferences import Oracle, Preference

LENGTH = 4


def segment(rewards: np.ndarray | list[float] | None, length: int = LENGTH, mark: float = 0.0) -> Segment:
    steps = length if rewards is None else len(rewards)
    observations = np.full((steps, 2), mark, np.float32)
    return Segment(observations, np.zeros((steps, 1), np.float32), None if rewards is None else np.asarray(rewards))


def queries(rewards: np.ndarray) -> list[Query]:
    """Queries of rewards [Q, K, T]; each segment looks different."""
    return [Query(tuple(segment(r, mark=10 * i + k) for k, r in enumerate(rows))) for i, rows in enumerate(rewards)]


def answers(oracle: Oracle, asked: list[Query]) -> list[np.ndarray | None]:
    oracle.ask(asked)
    return [answer.probabilities for answer in oracle.collect()]


def episodes(mean_reward: float, steps: int = 20, count: int = 12) -> Trajectories:
    total = steps * count
    rewards = np.full(total, mean_reward)
    # The mean of the last 10 episodes counts; the two before are far off.
    rewards[: 2 * steps] += 100.0
    ends = np.arange(steps, total + 1, steps)
    return Trajectories(np.zeros((total, 2)), np.zeros((total, 1)), ends, rewards)


def plain_answer(teacher: Teacher, pair: np.ndarray, m: float) -> list[float] | None:
    """B-Pref's order of operations for one pair, without chance, as plainly as it can be said."""
    sums = [sum(rewards) for rewards in pair]
    if teacher.skip * m > 0 and not max(sums) > teacher.skip * m:
        return None
    discounted = []
    for rewards in pair:
        total = 0.0
        for reward in rewards:
            total = total * teacher.gamma + reward
        discounted.append(total)
    if abs(sums[0] - sums[1]) < teacher.equal * m:
        return [0.5, 0.5]
    return [0.0, 1.0] if discounted[0] < discounted[1] else [1.0, 0.0]


@settings(max_examples=60, deadline=None)
@given(st.floats(0.1, 1.0), st.floats(0.0, 1.5), st.floats(0.0, 1.5), st.floats(-1.0, 2.0), st.integers(0, 10_000))
def test_follows_bpref_order(gamma, skip, equal, rate, seed) -> None:
    rewards = np.random.default_rng(seed).normal(0.5, 1.0, (30, 2, LENGTH))
    teacher = Teacher(gamma=gamma, skip=skip, equal=equal, exact_ties="first")
    oracle = PartialReturnOracle(teacher)
    oracle.observe(episodes(rate))
    if rate <= 0 and max(skip, equal) > 0:
        with pytest.warns(UserWarning, match="not above 0"):
            found = answers(oracle, queries(rewards))
    else:
        found = answers(oracle, queries(rewards))
    for pair, answer in zip(rewards, found, strict=True):
        expected = plain_answer(teacher, pair, rate * LENGTH)
        assert (answer is None and expected is None) or answer.tolist() == expected


@pytest.mark.parametrize("name", TEACHERS)
def test_every_teacher_keeps_the_contract(name) -> None:
    rewards = np.random.default_rng(0).normal(1.0, 1.0, (10, 2, LENGTH))

    def make_oracle() -> Oracle:
        oracle = PartialReturnOracle(name, seed=0)
        oracle.observe(episodes(1.0))
        return oracle

    check_oracle(make_oracle, queries(rewards))


@pytest.mark.parametrize("beta", [0.3, 1.0])
@pytest.mark.parametrize("count", [2, 3])
def test_noise_is_boltzmann(beta, count) -> None:
    worth = np.zeros((count, LENGTH))
    worth[:, 0] = np.arange(count)
    expected = np.exp(beta * np.arange(count)) / np.exp(beta * np.arange(count)).sum()
    asked = queries(worth[None]) * 20_000
    hard = np.array(answers(PartialReturnOracle(Teacher(beta=beta), seed=1), asked))
    assert np.all(np.sort(hard, axis=1)[:, -1] == 1.0)
    assert np.allclose(hard.mean(axis=0), expected, atol=0.015)
    soft = np.array(answers(PartialReturnOracle(Teacher(beta=beta), soft=True), asked[:1]))
    assert np.allclose(soft, expected)


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 4), st.sampled_from([-1.0, 0.5]), st.floats(0.0, 1.0), st.integers(0, 1000))
def test_soft_labels_are_the_mean_of_hard_ones(count, beta, mistake, seed) -> None:
    rewards = np.random.default_rng(seed).normal(size=(1, count, LENGTH))
    teacher = Teacher(beta=beta, mistake=mistake)
    hard = np.array(answers(PartialReturnOracle(teacher, seed=seed), queries(rewards) * 2000))
    soft = answers(PartialReturnOracle(teacher, soft=True), queries(rewards))[0]
    assert np.allclose(hard.mean(axis=0), soft, atol=0.055)


def test_ties_overwrite_mistakes() -> None:
    rewards = np.array([[[1.0, 0, 0, 0], [1.05, 0, 0, 0]], [[1.0, 0, 0, 0], [3.0, 0, 0, 0]]])
    oracle = PartialReturnOracle(Teacher(mistake=1.0, equal=0.1, threshold_scale=1.0))
    assert [row.tolist() for row in answers(oracle, queries(rewards))] == [[0.5, 0.5], [1.0, 0.0]]


def test_the_unsure_guess_between_close_segments_and_never_err_elsewhere() -> None:
    """m = 0.5 * 4 = 2: half as far apart as 0.3 m is a fair coin, just beyond it the better one is always preferred."""
    oracle = PartialReturnOracle("unsure", seed=0)
    oracle.observe(episodes(0.5))
    close, far = [[0.0] * 4, [0.3, 0.0, 0.0, 0.0]], [[0.0] * 4, [0.61, 0.0, 0.0, 0.0]]
    chosen = np.array(answers(oracle, queries(np.array([close, far])) * 4_000)).reshape(4_000, 2, 2)
    assert set(np.unique(chosen)) == {0.0, 1.0}
    assert chosen[:, 0, 1].mean() == pytest.approx(0.5, abs=0.03)
    assert (chosen[:, 1, 1] == 1.0).all()
    shares = PartialReturnOracle(Teacher(unsure=1.0, threshold_scale=1.0), soft=True)
    three = np.zeros((1, 3, LENGTH))
    three[0, :, 0] = (5.0, 5.5, 1.0)
    assert answers(shares, queries(three))[0].tolist() == [0.5, 0.5, 0.0]


def test_exact_ties_are_ties_unless_bpref_is_asked_for() -> None:
    asked = queries(np.ones((1, 3, LENGTH)))
    assert np.allclose(answers(PartialReturnOracle(), asked)[0], 1 / 3)
    assert answers(PartialReturnOracle(Teacher(exact_ties="first")), asked)[0].tolist() == [1.0, 0.0, 0.0]


def test_three_segments_tie_at_the_top_only() -> None:
    rewards = np.zeros((1, 3, LENGTH))
    rewards[0, :, 0] = (5.0, 5.5, 1.0)
    oracle = PartialReturnOracle(Teacher(equal=1.0, threshold_scale=1.0))
    assert answers(oracle, queries(rewards))[0].tolist() == [0.5, 0.5, 0.0]


def test_thresholds_are_scaled_once_and_twice_only_on_request() -> None:
    """m = 0.5 * 4 = 2: the threshold is 0.2, or 0.02 from the second session on under B-Pref's double scaling."""
    rewards = np.zeros((1, 2, LENGTH))
    rewards[0, 1, 0] = 0.1
    expected = {False: [[0.5, 0.5], [0.5, 0.5]], True: [[0.5, 0.5], [0.0, 1.0]]}
    for double, rows in expected.items():
        oracle = PartialReturnOracle(replace(TEACHERS["equal"], double_scale=double))
        found = []
        for _ in range(2):
            oracle.observe(episodes(0.5))
            found.append(answers(oracle, queries(rewards))[0].tolist())
        assert found == rows


@settings(max_examples=30, deadline=None)
@given(st.floats(0.1, 100.0), st.floats(-50.0, 50.0), st.integers(0, 1000))
def test_quantile_thresholds_ignore_shift_and_scale(scale, shift, seed) -> None:
    rewards = np.random.default_rng(seed).normal(size=(50, 2, LENGTH))
    teacher = Teacher(skip=0.5, equal=0.3, threshold_scale="quantile")
    first = answers(PartialReturnOracle(teacher), queries(rewards))
    second = answers(PartialReturnOracle(teacher), queries(scale * rewards + shift))
    for a, b in zip(first, second, strict=True):
        assert (a is None and b is None) or np.array_equal(a, b)
    skipped = np.mean([row is None for row in first])
    tied = np.mean([row is not None and row[0] == 0.5 for row in first])
    assert 0.05 < skipped < 0.5
    assert 0.02 < tied <= 0.3


@settings(max_examples=20, deadline=None)
@given(st.floats(1e-3, 1e3), st.floats(-5.0, 5.0))
def test_standard_units_ignore_the_scale_of_rewards(scale, shift) -> None:
    rewards = np.random.default_rng(0).normal(size=(20, 2, LENGTH))
    teacher = Teacher(beta=1.0, units="standardised")
    first = answers(PartialReturnOracle(teacher, soft=True), queries(rewards))
    second = answers(PartialReturnOracle(teacher, soft=True), queries(scale * (rewards + shift)))
    assert np.allclose(first, second, atol=1e-6)
    assert np.std(first) > 0.1


def test_unobserved_policy_is_estimated_and_says_so() -> None:
    rewards = np.full((1, 2, LENGTH), 1.0)
    rewards[0, 1, 0] = 1.2
    with pytest.warns(UserWarning, match=r"observe\(\) was never called"):
        found = answers(PartialReturnOracle("equal"), queries(rewards))
    assert found[0].tolist() == [0.5, 0.5]


def test_same_seed_same_answers_and_state_resumes() -> None:
    rewards = np.random.default_rng(0).normal(1.0, 1.0, (60, 2, LENGTH))
    teacher = Teacher(beta=0.5, mistake=0.2, skip=0.3, equal=0.2, threshold_scale="quantile", units="standardised")
    asked = queries(rewards)
    oracle = PartialReturnOracle(teacher, seed=3)
    answers(oracle, asked[:30])
    state = json.loads(json.dumps(oracle.state_dict()))
    rest = answers(oracle, asked[30:])
    resumed = PartialReturnOracle(teacher, seed=99)
    resumed.load_state_dict(state)
    again = answers(resumed, asked[30:])
    assert all((a is None and b is None) or np.array_equal(a, b) for a, b in zip(rest, again, strict=True))
    whole = PartialReturnOracle(teacher, seed=4)
    other = answers(whole, asked[30:])
    assert any(a is None or b is None or not np.array_equal(a, b) for a, b in zip(rest, other, strict=True))


def test_state_is_not_saved_over_open_answers() -> None:
    oracle = PartialReturnOracle()
    oracle.ask(queries(np.ones((2, 2, LENGTH))))
    with pytest.raises(PrefenvsError, match="2 answers"):
        oracle.state_dict()


def test_mixed_queries_keep_their_order() -> None:
    rng = np.random.default_rng(0)
    asked = [
        Query(tuple(segment(rng.normal(size=length), mark=i + k / 8) for k in range(count)))
        for i, (count, length) in enumerate([(2, 3), (3, 5), (2, 5), (4, 3), (2, 3)] * 4)
    ]
    oracle = PartialReturnOracle()
    oracle.ask(asked)
    for query, answer in zip(asked, oracle.collect(), strict=True):
        assert answer.query is query
        assert answer.best == np.argmax([s.true_rewards.sum() for s in query.segments])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: find_teacher("mystake"), "Did you mean mistake"),
        (lambda: Teacher(mistake=1.5), "mistake must be at most 1"),
        (lambda: Teacher(mistake="often"), "mistake must be a number, got 'often'"),
        (lambda: Teacher(beta=None), "beta must be a number, got None"),
        (lambda: Teacher(threshold_scale=None), "policy, quantile or a number"),
        (lambda: Teacher(skip=-0.1), "at least 0"),
        (lambda: Teacher(gamma=1.1), "gamma"),
        (lambda: Teacher(threshold_scale="quantle"), "Did you mean quantile"),
        (lambda: Teacher(threshold_scale=-3.0), "above 0"),
        (lambda: Teacher(units="raw ", beta=1.0), "units"),
        (lambda: Teacher(double_scale=True, threshold_scale=1.0), "double_scale"),
    ],
)
def test_bad_teachers_are_refused(make, message) -> None:
    with pytest.raises(PrefenvsError, match=message):
        make()


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ((segment([1.0, 2.0]), segment(None, 2)), "no true rewards"),
        ((segment([1.0, 2.0]), segment([1.0])), "one length"),
        ((segment([1.0, math.nan]), segment([1.0, 2.0])), "NaN"),
    ],
)
def test_bad_segments_are_refused_and_nothing_is_answered(pair, message) -> None:
    oracle = PartialReturnOracle()
    good = queries(np.ones((1, 2, LENGTH)))
    with pytest.raises(PrefenvsError, match=message):
        oracle.ask([*good, Query(pair)])
    assert oracle.collect() == []


class _Faulty(PartialReturnOracle):
    """Breaks one part of the contract at a time."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def ask(self, asked: list[Query]) -> None:
        if self.fault == "blocks":
            time.sleep(0.3)
        super().ask(asked[1:] if self.fault == "forgets" else asked)

    def collect(self) -> list[Preference]:
        found = super().collect()
        if self.fault == "repeats":
            self._answers = list(found[:1])
        if self.fault == "nameless":
            found = [replace(answer, annotator="") for answer in found]
        if self.fault == "stranger":
            found = [
                Preference(Query(answer.query.segments[::-1]), answer.probabilities, "a", self.name) for answer in found
            ]
        return found


@pytest.mark.parametrize("fault", ["blocks", "forgets", "repeats", "nameless", "stranger"])
def test_contract_check_finds_faults(fault) -> None:
    rewards = np.random.default_rng(0).normal(size=(6, 2, LENGTH))
    with pytest.raises(ContractBroken):
        check_oracle(lambda: _Faulty(fault), queries(rewards), patience=2.0)


def test_contract_check_drives_raters_that_answer_late() -> None:
    class Late(Oracle):
        name = "late"

        def __init__(self) -> None:
            self.open: list[Query] = []
            self.done: list[Preference] = []

        def ask(self, asked) -> None:
            if any(len(query.segments) > 2 for query in asked):
                raise PrefenvsError("pairs only")
            self.open.extend(asked)

        def collect(self):
            out, self.done = self.done, []
            return out

        @property
        def pending(self) -> int:
            return len(self.open)

    def settle(oracle: Late) -> None:
        oracle.done += [Preference(query, None, "ann", "late") for query in reversed(oracle.open)]
        oracle.open.clear()

    asked = queries(np.random.default_rng(0).normal(size=(6, 2, LENGTH)))
    check_oracle(Late, asked, settle)
    with pytest.raises(ContractBroken, match="still pending"):
        check_oracle(Late, asked, patience=0.2)
