"""Two raters as one: who is asked, what is handed out, and what it is worth."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefenvs.agents import RewardConfig
from prefenvs.agents.rewards.ensemble import RewardEnsemble
from prefenvs.errors import PrefenvsError
from prefenvs.oracles import HybridOracle, PartialReturnOracle, Teacher
from prefenvs.oracles.contract import check_oracle
from prefenvs.oracles.hybrid.routing import LearnedRouter, Quota, measure_uncertainty
from prefenvs.preferences import Oracle, Preference, Query
from prefenvs.segments import Segment


def make_queries(count: int, seed: int = 0, steps: int = 6) -> list[Query]:
    """Pairs whose true reward is the first coordinate, at all distances from a tie to a clear difference."""
    rng = np.random.default_rng(seed)
    gap = rng.uniform(0, 2, count)[:, None, None] * np.array([1, -1])[:, None] * rng.choice([-1, 1], (count, 1, 1))
    observations = rng.normal(size=(count, 2, steps, 3)).astype(np.float32) * 0.3
    observations[..., 0] += gap
    actions = rng.normal(size=(count, 2, steps, 2)).astype(np.float32)
    return [
        Query(tuple(Segment(o, a, o[:, 0].astype(np.float64), task="line") for o, a in zip(os, acts, strict=True)))
        for os, acts in zip(observations, actions, strict=True)
    ]


def truth(query: Query) -> int:
    return int(np.argmax([segment.true_rewards.sum() for segment in query.segments]))


class Late(Oracle):
    """A rater that answers when the test says so; `wrong` is where it errs, `unsure` where it skips."""

    def __init__(self, name: str, wrong: Sequence[str] = (), unsure: Sequence[str] = ()) -> None:
        self.name, self.wrong, self.unsure = name, set(wrong), set(unsure)
        self.asked: list[Query] = []
        self._open: list[Query] = []
        self.failing: str | None = None

    def ask(self, queries: Sequence[Query]) -> None:
        self.asked += queries
        self._open += queries

    def collect(self) -> list[Preference]:
        if self.failing:
            raise PrefenvsError(self.failing)
        now, self._open = self._open, []
        return [self._answer(query) for query in now]

    def _answer(self, query: Query) -> Preference:
        if query.id in self.unsure:
            return Preference(query, None, self.name, self.name)
        best = truth(query) if query.id not in self.wrong else 1 - truth(query)
        return Preference(query, np.eye(2)[best], self.name, self.name)

    @property
    def pending(self) -> int:
        return len(self._open)


class Slow(Late):
    """The same, but `collect` returns nothing until `released`."""

    released = False

    def collect(self) -> list[Preference]:
        return super().collect() if self.released else []


def spread(queries: Sequence[Query]) -> np.ndarray:
    """A simulated ensemble: close calls have the greatest disagreement."""
    gaps = [abs(q.segments[0].observations[:, 0].mean() - q.segments[1].observations[:, 0].mean()) for q in queries]
    return 1.0 / (1.0 + np.array(gaps))


@pytest.mark.parametrize("route", ["disagreement", "uncertainty", "learned", "random"])
def test_keeps_the_contract(route) -> None:
    def fresh() -> HybridOracle:
        raters = PartialReturnOracle("noisy", 0), PartialReturnOracle("oracle", 0)
        return HybridOracle(*raters, disagreement=spread, route=route, share=0.4, audit=0.3, seed=1)

    check_oracle(fresh, make_queries(12))


def test_keeps_the_contract_with_raters_that_answer_late() -> None:
    def release(oracle: Oracle) -> None:
        assert isinstance(oracle, HybridOracle)
        oracle.cheap.released = oracle.costly.released = True

    for route in ("random", "learned"):
        check_oracle(
            lambda route=route: HybridOracle(Slow("a"), Slow("b"), route=route, share=0.5, audit=0.3, seed=0),
            make_queries(12),
            release,
        )


@given(st.floats(0, 1), st.lists(st.lists(st.floats(0, 1), max_size=12), max_size=30))
def test_no_more_than_the_share_is_chosen(share, batches) -> None:
    quota, sent, seen = Quota(share), 0, 0
    for batch in batches:
        scores = np.array(batch)
        chosen = quota.choose(scores)
        sent, seen = sent + int(chosen.sum()), seen + len(batch)
        assert sent <= share * seen + 1e-6
        if chosen.any() and not chosen.all():
            assert scores[chosen].min() >= scores[~chosen].max() - 1e-12 or (scores[~chosen] <= 0).all()
    assert not quota.choose(np.zeros(5)).any()


def test_scores_that_come_one_by_one_are_chosen_by_rank_too() -> None:
    quota, rng = Quota(0.1), np.random.default_rng(0)
    scores = rng.random(2000)
    chosen = np.array([quota.choose(scores[i : i + 1])[0] for i in range(len(scores))])
    assert 0.07 < chosen.mean() <= 0.1
    assert scores[chosen].mean() > 0.9


@settings(max_examples=40)
@given(
    st.sampled_from(["disagreement", "uncertainty", "learned", "random"]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.one_of(st.none(), st.integers(0, 8)),
    st.lists(st.integers(1, 8), min_size=1, max_size=5),
)
def test_each_query_is_answered_once_by_whom_the_log_says(route, share, audit, limit, sizes) -> None:
    queries = make_queries(sum(sizes))
    cheap, costly = Late("cheap", unsure=[q.id for q in queries[::3]]), Late("costly")
    oracle = HybridOracle(
        cheap, costly, disagreement=spread, route=route, share=share, audit=audit, limit=limit, seed=0
    )
    answers: list[Preference] = []
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        oracle.ask(queries[end - size : end])
        answers += oracle.collect()
    assert oracle.pending == 0
    assert sorted(a.query.id for a in answers) == sorted(q.id for q in queries)
    for answer in answers:
        assert (answer.annotator, answer.oracle) == (oracle.log[answer.query.id].by, "hybrid")
    asked = {query.id for query in costly.asked}
    assert len(asked) == len(costly.asked) == oracle.asked_costly
    assert asked == {key for key, entry in oracle.log.items() if entry.reason}
    assert limit is None or len(asked) <= limit
    routed = [key for key in asked if oracle.log[key].reason == route]
    assert len(routed) <= share * len(queries) + 1e-6
    if audit == 1 and limit is None:
        assert asked == {query.id for query in queries}


def test_the_costly_rater_has_the_last_word_and_agreement_is_measured_on_audits() -> None:
    queries = make_queries(400)
    wrong = [query.id for query in queries[:100]]
    oracle = HybridOracle(Late("cheap", wrong=wrong), Late("costly"), route="random", share=0.2, audit=0.5, seed=0)
    oracle.ask(queries)
    answers = {a.query.id: a for a in oracle.collect()}
    for key, entry in oracle.log.items():
        right = answers[key].best == truth(answers[key].query)
        assert right == (entry.by == "costly" or key not in wrong)
        assert (entry.cheap is None) == (entry.reason == "random")
    low, high = oracle.agreement.interval
    assert low < 0.75 < high
    assert oracle.agreement.count == sum(entry.reason == "audit" for entry in oracle.log.values())
    told = oracle.summary()
    assert "of 400 queries" in told[0]
    assert f"{oracle.agreement.value:.1%}" in told[1]


def test_audits_are_drawn_apart_from_the_raters_mistakes() -> None:
    """All three have the same seed."""
    oracle = HybridOracle(PartialReturnOracle("mistake", 0), PartialReturnOracle("oracle", 0), disagreement=spread,
                          audit=0.3, seed=0)  # fmt: skip
    oracle.ask(make_queries(1000))
    oracle.collect()
    low, high = oracle.agreement.interval
    assert low < 0.9 < high


def test_what_the_cheap_rater_skips_goes_to_the_costly_one() -> None:
    queries = make_queries(20)
    unsure = [query.id for query in queries[:4]]
    costly = Late("costly")
    oracle = HybridOracle(Late("cheap", unsure=unsure), costly, route="uncertainty", share=0.25, audit=0.0)
    oracle.ask(queries)
    answers = oracle.collect()
    assert {query.id for query in costly.asked} == set(unsure)
    assert not any(answer.skipped for answer in answers)


def test_a_run_goes_on_from_its_checkpoint_and_nobody_is_asked_anew() -> None:
    queries = make_queries(30)

    def make() -> HybridOracle:
        unsure = [query.id for query in queries[:10]]
        return HybridOracle(Late("cheap", unsure=unsure), Slow("costly"), route="uncertainty", audit=0.2, seed=3)

    first = make()
    first.ask(queries)
    early = first.collect()
    assert 0 < first.pending < 30
    state = json.loads(json.dumps(first.state_dict()))
    second = make()
    second.load_state_dict(state)
    assert second.pending == first.pending
    answered = {answer.query.id for answer in early}
    second.ask([query for query in queries if query.id not in answered])
    assert second.cheap.asked == []
    assert {q.id for q in second.costly.asked} == {q.id for q in first.costly.asked}
    for oracle in (first, second):
        oracle.costly.released = True
    late = [{a.query.id: a.probabilities.tolist() for a in oracle.collect()} for oracle in (first, second)]
    assert late[0] == late[1]
    assert first.log == second.log
    more = make_queries(20, seed=9)
    for oracle in (first, second):
        oracle.ask(more)
        oracle.collect()
    new = {query.id for query in more}
    asked = [[q.id for q in oracle.costly.asked if q.id in new] for oracle in (first, second)]
    assert asked[0] == asked[1] != []


def test_a_rater_in_trouble_does_not_hold_back_the_others_answers() -> None:
    queries = make_queries(40)
    oracle = HybridOracle(Late("cheap"), Late("costly"), route="random", share=0.5, audit=0.0, seed=0)
    oracle.costly.failing = "the quota is used up"
    oracle.ask(queries)
    assert len(oracle.collect()) == 20 == oracle.pending
    with pytest.raises(PrefenvsError, match="quota is used up"):
        oracle.collect()
    oracle.costly.failing = None
    assert len(oracle.collect()) == 20
    assert oracle.pending == 0


def test_routing_by_disagreement_gives_better_labels_than_chance_at_the_same_cost() -> None:
    """A rater that errs on close calls; an ensemble that is sure of the clear ones, from 200 labels of its own."""
    config = RewardConfig(width=32, layers=2, epochs=100, learning_rate=3e-3, stop_accuracy=1.0)
    ensemble = RewardEnsemble(3, 2, config=config, seed=0)
    lessons = PartialReturnOracle("oracle", 0)
    lessons.ask(make_queries(200, seed=1))
    ensemble.fit(lessons.collect())
    queries = make_queries(600, seed=2)

    def accuracy(rater: Oracle) -> float:
        rater.ask(queries)
        return float(np.mean([answer.best == truth(answer.query) for answer in rater.collect()]))

    for seed in range(3):
        found = {}
        for route in ("disagreement", "random"):
            erring, sure = PartialReturnOracle(Teacher(beta=0.2), seed=seed), PartialReturnOracle("oracle", 0)
            oracle = HybridOracle(erring, sure, route=route, audit=0.0, model=ensemble, seed=seed)
            found[route] = accuracy(oracle)
            assert oracle.asked_costly == 150
        alone = accuracy(PartialReturnOracle(Teacher(beta=0.2), seed=seed))
        assert alone < found["random"] < found["disagreement"] - 0.015, (alone, found)


def test_a_learned_router_finds_where_the_cheap_rater_errs() -> None:
    """It errs where the second action is large; nothing but the audits tells that."""
    queries = make_queries(500)
    size = np.array([sum(np.square(s.actions).mean() for s in query.segments) for query in queries])
    wrong = [query.id for query, large in zip(queries, size > np.quantile(size, 0.8), strict=True) if large]
    errors = {}
    for route in ("learned", "random"):
        oracle = HybridOracle(Late("a", wrong=wrong), Late("b"), route=route, share=0.2, audit=0.1, seed=0)
        answers = []
        for i in range(0, 500, 25):
            oracle.ask(queries[i : i + 25])
            answers += oracle.collect()
        errors[route] = sum(answer.best != truth(answer.query) for answer in answers[250:])
    assert errors["learned"] < 0.5 * errors["random"], errors


def test_the_router_is_calibrated_and_takes_new_features() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(800, 2))
    chance = 1 / (1 + np.exp(2 - 2 * features[:, 0]))
    router = LearnedRouter()
    for row, drawn in zip(features, rng.random(800) < chance, strict=True):
        router.add(row, bool(drawn))
    assert np.abs(router.predict(features) - chance).mean() < 0.07
    router.add(np.zeros(3), True)
    assert not router.ready


def test_uncertainty() -> None:
    (query,) = make_queries(1)
    for chances, expected in (((1, 0), 0), ((0.5, 0.5), 1), ((0.2, 0.8), 0.4), (None, 1)):
        answer = Preference(query, None if chances is None else np.array(chances))
        assert measure_uncertainty(answer) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"route": "luck"}, "choose disagreement"),
        ({"share": 1.5}, "share must be at most 1"),
        ({"audit": -0.1}, "audit must be at least 0"),
        ({"share": "half"}, "share must be a number"),
        ({"limit": -1}, "limit"),
        ({"limit": 2.5}, "limit must be a whole number"),
        ({"shares": 0.1}, "'shares' is unknown"),
        ({"route": "inconsistency"}, "--vlm-order both"),
    ],
    ids=str,
)
def test_bad_settings_are_named(arguments, told) -> None:
    with pytest.raises(PrefenvsError, match=told):
        HybridOracle(Late("a"), Late("b"), **arguments)


def test_a_missing_ensemble_is_told_and_nobody_is_asked() -> None:
    oracle = HybridOracle(Late("a"), Late("b"))
    with pytest.raises(PrefenvsError, match="needs the reward ensemble"):
        oracle.ask(make_queries(3))
    assert oracle.pending == len(oracle.cheap.asked) == len(oracle.costly.asked) == 0


@pytest.mark.parametrize("given", [[1.0], None, [[1.0]] * 4, [float("nan")] * 4, ["much"] * 4], ids=str)
def test_a_disagreement_that_is_none_is_told_and_nobody_is_asked(given) -> None:
    oracle = HybridOracle(Late("a"), Late("b"), disagreement=lambda _: given, audit=0.0)
    with pytest.raises(PrefenvsError, match="return one finite number for each"):
        oracle.ask(make_queries(4))
    assert oracle.pending == len(oracle.cheap.asked) == len(oracle.costly.asked) == 0


def test_what_the_cheap_rater_answers_is_handed_out_where_the_costly_one_refuses() -> None:
    class Refusing(Late):
        def ask(self, queries: Sequence[Query]) -> None:
            if self.failing:
                raise PrefenvsError(self.failing)
            super().ask(queries)

    queries = make_queries(40)
    costly = Refusing("costly")
    costly.failing = "not these"
    oracle = HybridOracle(Late("cheap"), costly, route="random", share=0.5, audit=0.2, seed=0)
    with pytest.raises(PrefenvsError, match="not these"):
        oracle.ask(queries)
    taken = {query.id for query in oracle.cheap.asked}
    assert 0 < len(taken) == oracle.pending < 40
    assert oracle.asked_costly == 0
    costly.failing = None
    oracle.ask(queries)
    answers = oracle.collect()
    assert taken <= {answer.query.id for answer in answers if answer.annotator == "cheap"}
    assert sorted(a.query.id for a in answers) == sorted(q.id for q in queries)
    assert oracle.pending == 0
    assert len({query.id for query in oracle.cheap.asked}) == len(oracle.cheap.asked)


def test_a_reward_model_that_fails_costs_no_answer() -> None:
    queries = make_queries(8)

    class Failing:
        def predict(self, observations: object, actions: object) -> None:
            raise PrefenvsError("the model is broken")

    cheap, costly = Late("cheap"), Late("costly")
    oracle = HybridOracle(cheap, costly, route="learned", share=1.0, audit=1.0, model=Failing(), seed=0)  # type: ignore[arg-type]
    oracle.ask(queries)
    assert [a.query.id for a in oracle.collect()] == [q.id for q in queries]
    with pytest.raises(PrefenvsError, match="the model is broken"):
        oracle.collect()
    assert oracle.pending == 0
