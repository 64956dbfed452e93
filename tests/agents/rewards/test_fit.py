from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prefenvs.agents.rewards.fit import JointFit
from prefenvs.agents.rewards.tables import QueryTable
from prefenvs.datasets.holdout import hold_out_queries
from prefenvs.errors import PrefenvsError
from prefenvs.metrics.accuracy import label_accuracy
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Segment

from ..worlds import make_preferences
from .small_ensemble import SMALL, make_model

# Sessions, skips, ties, weights


def test_ties_do_not_hold_up_the_stop() -> None:
    """Of 100 labels 50 are ties; counted as a class they would keep accuracy below 0.97 for ever."""
    preferences = make_preferences(100)
    mixed = [replace(p, probabilities=np.array([0.5, 0.5])) if i % 2 else p for i, p in enumerate(preferences)]
    metrics = make_model(replace(SMALL, epochs=400)).fit(mixed)
    assert metrics["decided"] == 50
    assert metrics["accuracy"] > 0.97
    assert metrics["epochs"] < 400


def test_a_session_uploads_only_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    model, preferences = make_model(replace(SMALL, epochs=1)), make_preferences(20)
    table, uploads, convert = model.trainer.labelled, [], QueryTable._convert

    def count(table: QueryTable, queries: list[Query]) -> tuple[np.ndarray, np.ndarray]:
        uploads.append(len(queries))
        return convert(table, queries)

    monkeypatch.setattr(QueryTable, "_convert", count)
    model.fit(preferences[:15])
    assert (uploads, len(table), len(table.inputs)) == ([15], 15, 15)
    model.fit(preferences)
    assert (uploads, len(table.inputs)) == ([15, 5], 20)
    model.fit([replace(p, probabilities=p.probabilities[::-1]) for p in preferences])
    assert uploads == [15, 5], "a changed label on the same query costs nothing"
    model.fit(preferences[5:])
    assert (uploads, len(table), len(table.inputs)) == ([15, 5], 15, 15), "what is no longer given leaves"


@pytest.mark.parametrize("normalise", [False, True])
def test_new_accuracy_is_what_the_reward_predicted_before_training(normalise: bool) -> None:
    model = make_model(replace(SMALL, normalise=normalise))
    preferences, more = make_preferences(200), make_preferences(50, seed=1)
    first = model.fit(preferences)["new_accuracy"]
    # Elsewhere, so that normalising by them too changes what is predicted.
    moved = [[replace(one, observations=one.observations + 3.0) for one in p.query.segments] for p in more]
    later = [replace(p, query=Query(tuple(segments))) for p, segments in zip(more, moved, strict=True)]
    expected = label_accuracy(later, lambda s: float(model.predict(s.observations, s.actions).mean(0).sum()))
    assert model.fit([*preferences, *later])["new_accuracy"] == pytest.approx(expected, abs=1e-6)
    assert first < expected
    assert math.isnan(model.fit([*preferences, *later])["new_accuracy"])


def test_weight_zero_takes_a_label_out() -> None:
    preferences, lies = make_preferences(100), make_preferences(100, seed=5)
    lies = [replace(p, probabilities=p.probabilities[::-1]) for p in lies]
    weights = np.repeat([1.0, 0.0], 100)
    model = make_model(replace(SMALL, stop="never", epochs=40))
    model.fit([*preferences, *lies], weights=weights)
    beliefs = model.preference_probabilities([p.query for p in lies]).mean(0)
    assert np.mean(beliefs.argmax(-1) == [p.best for p in lies]) < 0.3
    with pytest.raises(PrefenvsError, match="weights have shape"):
        model.fit(preferences, weights=np.ones(3))


@pytest.mark.parametrize(
    "change", [{"bootstrap": True}, {"flip_rate": 0.1}, {"flip_rate": 0.1, "correction": "forward"}]
)
def test_options_learn(change: dict[str, object]) -> None:
    metrics = make_model(replace(SMALL, epochs=60, **change)).fit(make_preferences(200))  # type: ignore[arg-type]
    assert metrics["accuracy"] > 0.85


def test_bootstrap_members_see_different_labels() -> None:
    model = make_model(replace(SMALL, bootstrap=True))
    drawn = model.trainer._draw(torch.arange(50))
    assert drawn.shape == (3, 50)
    assert len(drawn[0].unique()) < 50
    assert not torch.equal(drawn[0].sort()[0], drawn[1].sort()[0])


def test_the_robust_loss_resists_flipped_labels() -> None:
    """With 30 % of the labels flipped, the corrected loss agrees better with the clean order than the plain one."""
    rng = np.random.default_rng(0)
    noisy = [
        replace(p, probabilities=p.probabilities[::-1]) if rng.random() < 0.3 else p for p in make_preferences(400)
    ]
    unseen = make_preferences(400, seed=9)
    entropy = {}
    for rate in (0.0, 0.3):
        model = make_model(replace(SMALL, flip_rate=rate, correction="forward", epochs=60, stop="never"))
        model.fit(noisy)
        beliefs = model.preference_probabilities([p.query for p in unseen]).mean(0)
        entropy[rate] = -np.mean(np.log(beliefs[np.arange(400), [p.best for p in unseen]]))
    assert entropy[0.3] < entropy[0.0]


# Ragged queries


def test_segments_of_different_lengths_and_numbers() -> None:
    mixed = [*make_preferences(60), *make_preferences(60, steps=6, k=3, seed=1, episode=1000)]
    model = make_model(replace(SMALL, epochs=60))
    assert model.fit(mixed)["accuracy"] > 0.8
    beliefs = model.preference_probabilities([p.query for p in mixed])
    assert np.all(beliefs[:, :60, 2] == 0)
    alone = model.preference_probabilities([p.query for p in mixed[:60]])
    np.testing.assert_allclose(beliefs[:, :60, :2], alone, atol=1e-5)


def test_padding_changes_no_gradient() -> None:
    """A ragged list costs time, not accuracy: the pair's loss is the same beside a longer one of weight 0."""
    pair, longer = make_preferences(1), make_preferences(1, steps=17, k=4, seed=2)
    alone, beside = (make_model(replace(SMALL, epochs=1, stop="never")) for _ in range(2))
    loss = alone.fit(pair)["loss"]
    assert beside.fit([*pair, *longer], weights=np.array([1.0, 0.0]))["loss"] * 2 == pytest.approx(loss, rel=1e-5)


def test_only_real_steps_count_where_lengths_differ_within_a_query() -> None:
    long, short = make_preferences(1, steps=9)[0].query.segments[0], make_preferences(1, steps=4)[0].query.segments[1]
    query = Query((long, short))
    model = make_model()
    returns = np.stack([model.predict(s.observations, s.actions).sum(-1) for s in query.segments], -1)
    expected = np.exp(returns) / np.exp(returns).sum(-1, keepdims=True)
    np.testing.assert_allclose(model.preference_probabilities([query])[:, 0], expected, rtol=1e-5)
    metrics = make_model(replace(SMALL, epochs=1)).fit([Preference(query, np.array([1.0, 0.0]))])
    assert metrics["loss"] == pytest.approx(-np.log(expected[:, 0]).mean(), rel=1e-5)


def test_table_pads_either_way() -> None:
    short, long = make_preferences(2, steps=3), make_preferences(2, steps=5, k=3, seed=1)
    table = QueryTable(3, 2, torch.device("cpu"))
    for order in (short + long, long + short, short, long):
        rows = table.sync([p.query for p in order])
        for row, preference in zip(rows.tolist(), order, strict=True):
            for j, segment in enumerate(preference.query.segments):
                stored = table.inputs[row, j, : len(segment)].numpy()
                np.testing.assert_array_equal(stored, np.concatenate([segment.observations, segment.actions], -1))
                assert table.lengths[row, j] == len(segment)


# Held-out labels


def shared_episodes(queries: list[Query], sides: dict[str, bool]) -> set[object]:
    episodes: dict[bool, set[object]] = {True: set(), False: set()}
    for query in queries:
        episodes[sides[query.id]] |= {(s.source, s.episode) for s in query.segments}
    return episodes[True] & episodes[False]


@settings(max_examples=40)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=2, max_size=30),
    share=st.sampled_from([0.1, 0.3]),
    seed=st.integers(0, 99),
)
def test_sides_are_honest_and_stay(pairs: list[tuple[int, int]], share: float, seed: int) -> None:
    def segment(i: int, episode: int) -> Segment:
        return Segment(np.full((1, 1), i, np.float32), np.zeros((1, 1), np.float32), task="T", episode=episode)

    queries = [Query((segment(2 * i, a), segment(2 * i + 1, b))) for i, (a, b) in enumerate(pairs)]
    rng, sides = np.random.default_rng(seed), {}
    half = len(queries) // 2
    hold_out_queries(queries[:half] or queries[:1], sides, share, rng)
    before = dict(sides)
    by_episode = hold_out_queries(queries, sides, share, rng)
    assert all(sides[query_id] == side for query_id, side in before.items())
    assert by_episode == (not shared_episodes(queries, sides))
    assert sum(sides.values()) < len(queries)
    assert sum(sides.values()) >= round(share * len(queries)) // 2


@pytest.mark.parametrize("seed", range(10))
def test_a_query_follows_the_side_that_its_episodes_are_on(seed: int) -> None:
    rng, sides = np.random.default_rng(seed), {}
    first = [p.query for p in make_preferences(20)]
    assert hold_out_queries(first, sides, 0.3, rng)
    again = [
        Query((old.segments[1], new.segments[0]))
        for old, new in zip(first, (p.query for p in make_preferences(20, seed=1, episode=100)), strict=True)
    ]
    assert hold_out_queries(first + again, sides, 0.3, rng)
    assert [sides[q.id] for q in again] == [sides[q.id] for q in first]


def test_held_out_labels_are_never_trained_on() -> None:
    preferences = make_preferences(100)
    config = replace(SMALL, validation_share=0.2, epochs=3, stop="never")
    model = make_model(config)
    metrics = model.fit(preferences)
    assert metrics["validation_by_episode"] == 1.0
    sides = model.state_dict()["training"]["sides"]
    held = [p for p in preferences if sides[p.query.id]]
    assert len(held) == 20
    flipped = [replace(p, probabilities=p.probabilities[::-1]) if sides[p.query.id] else p for p in preferences]
    other = make_model(config)
    changed = other.fit(flipped)
    assert changed["validation_accuracy"] == pytest.approx(1 - metrics["validation_accuracy"])
    x = np.ones((4, 3)), np.ones((4, 2))
    np.testing.assert_array_equal(model.predict(*x), other.predict(*x))


def test_stopping_on_held_out_labels_returns_to_the_best_weights() -> None:
    """A third of the labels is wrong, so that longer training learns the errors by heart."""
    preferences = make_preferences(120)
    preferences[::3] = [replace(p, probabilities=p.probabilities[::-1]) for p in preferences[::3]]
    config = replace(SMALL, stop="validation", validation_share=0.3, patience=3, epochs=100)
    metrics = make_model(config).fit(preferences)
    longer = make_model(replace(config, stop="never")).fit(preferences)
    assert metrics["epochs"] < 100
    assert metrics["validation_loss"] < longer["validation_loss"]
    until_best = make_model(replace(config, stop="never", epochs=int(metrics["epochs"]) - config.patience))
    assert until_best.fit(preferences)["validation_loss"] == metrics["validation_loss"]


def test_the_agent_s_term_is_minus_its_mean_reward_and_lifts_what_it_does() -> None:
    """REBEL: the gradient by hand, and rewards of the agent's own steps after a fit."""
    preferences, rng = make_preferences(60), np.random.default_rng(0)
    own = rng.normal(size=(50, 3)), rng.normal(size=(50, 2))
    config = replace(SMALL, agent_weight=0.5, epochs=30, stop="never")
    with pytest.raises(PrefenvsError, match="about an agent in training"):
        make_model(config).fit(preferences)
    model = make_model(config)
    model.trainer.agent_steps = torch.from_numpy(np.concatenate(own, 1).astype(np.float32))
    job = model.trainer.prepare(preferences, None, ())
    model.network.zero_grad()
    state = model.trainer.generator.get_state()
    JointFit([job])._add_agent_term()
    found = [parameter.grad.clone() for parameter in model.network.parameters()]
    model.trainer.generator.set_state(state)
    rows = torch.randint(50, (config.members, config.batch_size), generator=model.trainer.generator)
    model.network.zero_grad()
    by_hand = sum(model.forward(model.trainer.agent_steps[rows[m]])[m].mean() for m in range(config.members))
    (-0.5 * by_hand).backward()
    for one, parameter in zip(found, model.network.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)
    plain, lifted = make_model(replace(config, agent_weight=0.0)), make_model(config)
    plain.fit(preferences)
    lifted.fit(preferences, agent=own)
    assert lifted.predict(*own).mean() > plain.predict(*own).mean() + 0.1
