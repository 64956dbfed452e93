from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from agents.reward_data import QueryTable, assign_sides
from agents.reward_loss import is_correct, is_decided, preference_loss
from agents.reward_model import RewardConfig, RewardEnsemble
from agents.surf import SurfConfig, centre_query, crop_returns, pseudo_label_loss
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.protocols import RewardModel
from prefenvs.segments import Segment

SMALL = RewardConfig(width=32, layers=2, batch_size=32, epochs=20)


def true_reward(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
    return np.tanh(observations[..., 0] - 0.5 * actions[..., 1])


def make_preferences(count: int, steps: int = 10, seed: int = 0, k: int = 2, episode: int = 0) -> list[Preference]:
    """Labels by the true partial return; every segment has an episode of its own."""
    rng = np.random.default_rng(seed)
    observations = rng.standard_normal((count, k, steps, 3)).astype(np.float32)
    actions = rng.uniform(-1, 1, (count, k, steps, 2)).astype(np.float32)
    best = true_reward(observations, actions).sum(-1).argmax(-1)
    return [
        Preference(
            Query(
                tuple(
                    Segment(o[j], a[j], task="T", source="run", episode=episode + i * k + j, start=0) for j in range(k)
                )
            ),
            np.eye(k)[b],
        )
        for i, (o, a, b) in enumerate(zip(observations, actions, best, strict=True))
    ]


def make_model(config: RewardConfig = SMALL, seed: int = 0) -> RewardEnsemble:
    return RewardEnsemble(3, 2, config, seed=seed, device="cpu")


def test_satisfies_the_protocol() -> None:
    assert isinstance(make_model(), RewardModel)


@pytest.mark.parametrize("k", [2, 3])
def test_learns_to_predict_unseen_preferences(k: int) -> None:
    model = make_model(replace(SMALL, epochs=60))
    metrics = model.fit(make_preferences(300, k=k))
    unseen = make_preferences(200, seed=1, k=k)
    beliefs = model.preference_probabilities([p.query for p in unseen]).mean(0)
    right = np.mean(beliefs.argmax(-1) == [p.best for p in unseen])
    assert metrics["accuracy"] > 0.9
    assert metrics["labels"] == metrics["decided"] == 300
    assert right > 0.85
    np.testing.assert_allclose(beliefs.sum(-1), 1.0, atol=1e-5)


def test_predict_keeps_leading_axes_and_agrees_with_forward_and_mean() -> None:
    model = make_model()
    rng = np.random.default_rng(0)
    observations, actions = rng.standard_normal((4, 700, 3)), rng.standard_normal((4, 700, 2))
    rewards = model.predict(observations, actions)
    assert rewards.shape == (3, 4, 700)
    assert rewards.dtype == np.float32
    x = torch.from_numpy(np.concatenate([observations, actions], -1).astype(np.float32))
    np.testing.assert_allclose(model.forward(x).detach().numpy(), rewards, atol=1e-6)
    mean, std = model.mean_and_std(observations, actions)
    np.testing.assert_allclose(mean, rewards.mean(0), atol=1e-6)
    np.testing.assert_allclose(std, rewards.std(0), atol=1e-6)
    np.testing.assert_allclose(model.mean_reward(observations, actions, std=0.5), mean + 0.5 * std, atol=1e-6)
    assert model.predict(observations[:0, 0], actions[:0, 0]).shape == (3, 0)
    assert model.predict(observations[0, 0], actions[0, 0]).shape == (3,)


@pytest.mark.parametrize(
    ("output", "low", "high"), [("tanh", -1, 1), ("sigmoid", 0, 1), ("relu", 0, np.inf), ("identity", -np.inf, np.inf)]
)
def test_output_function_bounds_the_reward(output: str, low: float, high: float) -> None:
    model = make_model(replace(SMALL, output=output))  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    rewards = model.predict(1e3 * rng.standard_normal((500, 3)), 1e3 * rng.standard_normal((500, 2)))
    assert rewards.min() >= low
    assert rewards.max() <= high
    assert np.ptp(rewards) > 0


def test_members_differ_and_seeds_decide_everything() -> None:
    preferences = make_preferences(40)
    first, second, other = make_model(), make_model(), make_model(seed=1)
    x = np.ones((5, 3)), np.ones((5, 2))
    assert len(np.unique(first.predict(*x)[:, 0])) == 3
    assert first.fit(preferences) == second.fit(preferences)
    other.fit(preferences)
    np.testing.assert_array_equal(first.predict(*x), second.predict(*x))
    assert not np.array_equal(first.predict(*x), other.predict(*x))


def test_batched_path_equals_the_loop_over_members() -> None:
    """What other devices compute by batched products is what the CPU computes one member at a time."""
    network = make_model().network
    x = torch.randn(3, 6, 5)
    hidden = list(zip(network.weights, network.biases, strict=True))
    expected = network.output(torch.baddbmm(network.biases[-1], network._hidden(x, hidden[:-1]), network.weights[-1]))
    torch.testing.assert_close(network.forward_each(x), expected)
    torch.testing.assert_close(network(x[0])[1], network.forward_each(x[0].expand(3, 6, 5))[1])


def test_bfloat16_stays_close_and_learns() -> None:
    preferences, x = make_preferences(200), (np.ones((5, 3)), np.ones((5, 2)))
    exact, rough = make_model(), make_model(replace(SMALL, precision="bfloat16"))
    np.testing.assert_allclose(rough.predict(*x), exact.predict(*x), atol=0.02)
    assert rough.fit(preferences)["accuracy"] > 0.85
    assert rough.predict(*x).dtype == np.float32


# Sessions, skips, ties, weights


def test_skips_are_ignored_and_only_skips_give_metrics_without_training() -> None:
    preferences = make_preferences(30)
    skipped = [replace(p, probabilities=None) for p in make_preferences(5, seed=3)]
    with_skips, without = make_model(), make_model()
    metrics = with_skips.fit([*preferences, *skipped])
    assert metrics["skipped"] == 5
    assert metrics["accuracy"] == without.fit(preferences)["accuracy"]
    before = without.predict(np.ones((1, 3)), np.ones((1, 2)))
    for nothing in ([], skipped):
        metrics = without.fit(nothing)
        assert metrics["epochs"] == metrics["labels"] == metrics["decided"] == 0
        assert math.isnan(metrics["accuracy"])
    np.testing.assert_array_equal(without.predict(np.ones((1, 3)), np.ones((1, 2))), before)


def test_ties_do_not_hold_up_the_stop() -> None:
    """Of 100 labels 50 are ties; counted as a class they would keep accuracy below 0.97 for ever."""
    preferences = make_preferences(100)
    mixed = [replace(p, probabilities=np.array([0.5, 0.5])) if i % 2 else p for i, p in enumerate(preferences)]
    metrics = make_model(replace(SMALL, epochs=400)).fit(mixed)
    assert metrics["decided"] == 50
    assert metrics["accuracy"] > 0.97
    assert metrics["epochs"] < 400


def test_all_ties_pull_the_returns_together() -> None:
    preferences = [replace(p, probabilities=np.array([0.5, 0.5])) for p in make_preferences(50)]
    model = make_model(replace(SMALL, epochs=50))
    queries = [p.query for p in preferences]
    before = np.abs(model.preference_probabilities(queries) - 0.5).mean()
    metrics = model.fit(preferences)
    assert math.isnan(metrics["accuracy"])
    assert metrics["epochs"] == 50
    assert np.abs(model.preference_probabilities(queries) - 0.5).mean() < before / 2


def test_a_session_uploads_only_what_is_new() -> None:
    model, preferences = make_model(replace(SMALL, epochs=1)), make_preferences(20)
    model.fit(preferences[:15])
    table = model.trainer.labelled
    assert (table.uploaded, len(table), len(table.inputs)) == (15, 15, 15)
    model.fit(preferences)
    assert (table.uploaded, len(table.inputs)) == (20, 20)
    model.fit([replace(p, probabilities=p.probabilities[::-1]) for p in preferences])
    assert table.uploaded == 20, "a changed label on the same query costs nothing"
    model.fit(preferences[5:])
    assert (table.uploaded, len(table), len(table.inputs)) == (20, 15, 15), "what is no longer given leaves"


def test_new_accuracy_is_measured_before_training() -> None:
    model, preferences = make_model(replace(SMALL, epochs=60)), make_preferences(300)
    first = model.fit(preferences[:200])["new_accuracy"]
    beliefs = model.preference_probabilities([p.query for p in preferences[200:]])
    second = model.fit(preferences)["new_accuracy"]
    assert first < 0.75 < second
    rewards = model.fit(preferences)
    assert math.isnan(rewards["new_accuracy"])
    assert beliefs.shape == (3, 100, 2)


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
        rows = table.hold([p.query for p in order])
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


@settings(max_examples=40, deadline=None)
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
    assign_sides(queries[:half] or queries[:1], sides, share, rng)
    before = dict(sides)
    by_episode = assign_sides(queries, sides, share, rng)
    assert all(sides[query_id] == side for query_id, side in before.items())
    assert by_episode == (not shared_episodes(queries, sides))
    assert sum(sides.values()) < len(queries)
    assert sum(sides.values()) >= round(share * len(queries)) // 2


@pytest.mark.parametrize("seed", range(10))
def test_a_query_follows_the_side_that_its_episodes_are_on(seed: int) -> None:
    rng, sides = np.random.default_rng(seed), {}
    first = [p.query for p in make_preferences(20)]
    assert assign_sides(first, sides, 0.3, rng)
    again = [
        Query((old.segments[1], new.segments[0]))
        for old, new in zip(first, (p.query for p in make_preferences(20, seed=1, episode=100)), strict=True)
    ]
    assert assign_sides(first + again, sides, 0.3, rng)
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


# Files


def test_a_loaded_model_continues_as_the_saved_one(tmp_path) -> None:
    preferences = make_preferences(60)
    config = replace(SMALL, validation_share=0.1, epochs=4, surf=SurfConfig(margin=2, threshold=0.9, ratio=2))
    pool = [p.query for p in make_preferences(30, seed=4)]
    model = make_model(config)
    model.fit(preferences[:30], unlabelled=pool)
    model.save(tmp_path / "reward.pt")
    loaded = RewardEnsemble.load(tmp_path / "reward.pt", device="cpu", observation_size=3, action_size=2)
    assert loaded.config == config
    assert loaded.fit(preferences, unlabelled=pool) == model.fit(preferences, unlabelled=pool)
    x = np.ones((4, 3)), np.ones((4, 2))
    np.testing.assert_array_equal(loaded.predict(*x), model.predict(*x))


def test_files_that_do_not_fit_are_refused(tmp_path) -> None:
    model, path = make_model(), tmp_path / "reward.pt"
    model.save(path)
    with pytest.raises(PrefenvsError, match="observation_size=3, but the task has observation_size=17"):
        RewardEnsemble.load(path, observation_size=17)
    with pytest.raises(PrefenvsError, match="observation_size=3"):
        RewardEnsemble(4, 2, SMALL, device="cpu").load_state_dict(model.state_dict())
    with pytest.raises(PrefenvsError, match="width=32"):
        make_model(replace(SMALL, width=16)).load_state_dict(model.state_dict())
    with pytest.raises(PrefenvsError, match="there is no reward model"):
        RewardEnsemble.load(tmp_path / "none.pt")
    path.write_bytes(pickle.dumps({"format": print}, protocol=2))
    with pytest.raises(PrefenvsError, match="is not a reward model"):
        RewardEnsemble.load(path)


# Bad input


@pytest.mark.parametrize("name", ["observations", "actions"])
def test_nan_is_refused_and_leaves_the_model_usable(name: str) -> None:
    preferences, model = make_preferences(10), make_model()
    array = getattr(preferences[4].query.segments[1], name)
    array[7, 1] = np.nan
    with pytest.raises(PrefenvsError, match=rf"{name} .* episode 9, step 7"):
        model.fit(preferences)
    array[7, 1] = 0.0
    assert model.fit(preferences)["labels"] == 10


def test_wrong_sizes_are_named() -> None:
    model = make_model()
    with pytest.raises(PrefenvsError, match=r"observations have shape \(10, 3\), the reward model takes \[steps, 4\]"):
        RewardEnsemble(4, 2, SMALL, device="cpu").fit(make_preferences(2))
    with pytest.raises(PrefenvsError, match="do not fit"):
        model.predict(np.zeros((5, 4)), np.zeros((5, 2)))
    with pytest.raises(PrefenvsError, match="do not fit"):
        model.mean_and_std(np.zeros((5, 3)), np.zeros((6, 2)))


@pytest.mark.parametrize(
    "change",
    [
        {"members": 0},
        {"flip_rate": 0.5},
        {"output": "softplus"},
        {"stop": "validation"},
        {"validation_share": 1.0},
        {"learning_rate": float("nan")},
    ],
)
def test_bad_settings_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(PrefenvsError, match=next(iter(change)).removesuffix("_share")):
        RewardConfig(**change)  # type: ignore[arg-type]


# Losses


def finite(shape: tuple[int, ...], size: float = 3.0) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, shape, elements=st.floats(-size, size))


@given(finite((5, 2)), st.floats(0, 1))
def test_two_segments_are_bradley_terry(returns: np.ndarray, p: float) -> None:
    target = torch.tensor([p, 1 - p], dtype=torch.float64).expand(5, 2)
    difference = torch.from_numpy(returns[:, 0] - returns[:, 1])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(difference, target[:, 0], reduction="none")
    torch.testing.assert_close(preference_loss(torch.from_numpy(returns), target), expected)


@given(finite((4, 3)), st.floats(0.01, 0.45))
def test_the_unbiased_loss_averages_to_the_clean_one_over_flips(returns: np.ndarray, rate: float) -> None:
    scores, labels = torch.from_numpy(returns), torch.eye(3, dtype=torch.float64)
    clean = preference_loss(scores, labels[0])
    noisy = torch.stack([preference_loss(scores, label, flip_rate=rate) for label in labels])
    torch.testing.assert_close((1 - rate) * noisy[0] + rate / 2 * (noisy[1] + noisy[2]), clean)


@given(finite((4, 2), 200.0), st.floats(0.01, 0.45), st.sampled_from(["unbiased", "forward"]))
def test_corrected_losses_are_bounded_below(returns: np.ndarray, rate: float, correction: str) -> None:
    label = torch.tensor([1.0, 0.0], dtype=torch.float64)
    loss = preference_loss(torch.from_numpy(returns), label, flip_rate=rate, correction=correction)  # type: ignore[arg-type]
    assert torch.isfinite(loss).all()
    assert loss.min() >= -10 * rate / (1 - 2 * rate) - 1e-9


def test_absent_segments_change_nothing() -> None:
    returns, target = torch.randn(6, 2), torch.eye(2)[torch.tensor([0, 1, 1, 0, 0, 1])]
    wide, present = torch.nn.functional.pad(returns, (0, 1), value=7.0), torch.tensor([True, True, False])
    wide_target = torch.nn.functional.pad(target, (0, 1))
    for options in ({}, {"flip_rate": 0.2}, {"flip_rate": 0.2, "correction": "forward"}):
        expected = preference_loss(returns, target, **options)  # type: ignore[arg-type]
        torch.testing.assert_close(preference_loss(wide, wide_target, present.expand(6, 3), **options), expected)  # type: ignore[arg-type]
    assert torch.equal(is_correct(wide, wide_target, present.expand(6, 3)), is_correct(returns, target))


def test_decided_and_correct() -> None:
    targets = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.4, 0.6]])
    assert is_decided(targets).tolist() == [True, False, True]
    returns = torch.tensor([[2.0, 1.0], [2.0, 1.0], [1.0, 1.0]])
    assert is_correct(returns, targets).tolist() == [True, True, False]


# SURF


def test_centre_query_is_what_the_rater_sees() -> None:
    query = make_preferences(1, steps=20)[0].query
    inner = centre_query(query, 4)
    for whole, centre in zip(query.segments, inner.segments, strict=True):
        np.testing.assert_array_equal(centre.observations, whole.observations[4:16])
        np.testing.assert_array_equal(centre.actions, whole.actions[4:16])
        assert (centre.start, centre.episode) == (4, whole.episode)
    with pytest.raises(PrefenvsError, match="no centre"):
        centre_query(query, 10)


def test_crops_share_a_length_and_cover_every_offset() -> None:
    steps, margin = 14, 3
    ones = torch.ones(1, 2000, 2, steps)
    lengths = crop_returns(ones, margin, torch.Generator().manual_seed(0))
    assert lengths.shape == (1, 2000, 2)
    assert torch.equal(lengths[..., 0], lengths[..., 1])
    assert set(lengths.flatten().tolist()) == set(range(steps - 3 * margin, steps - margin + 1))
    for step in (0, steps - 1):
        reached = crop_returns(ones * (torch.arange(steps) == step), margin, torch.Generator().manual_seed(0))
        assert 0 < reached.mean() < 1
        assert not torch.equal(reached[..., 0], reached[..., 1]), "the offsets are independent"


def test_pseudo_labels_need_confidence() -> None:
    sure = torch.stack([torch.ones(8), -torch.ones(8)])
    unsure = torch.stack([torch.zeros(8), 0.01 * torch.ones(8)])
    rewards = torch.stack([sure, unsure]).expand(3, 2, 2, 8).clone().requires_grad_()
    loss = pseudo_label_loss(rewards, SurfConfig(margin=1, threshold=0.99), torch.Generator().manual_seed(0))
    assert loss.shape == (3, 2)
    assert (loss[:, 0] > 0).all()
    assert (loss[:, 1] == 0).all()
    loss.sum().backward()
    assert (rewards.grad[:, 1] == 0).all()
    assert (rewards.grad[:, 0, 0].sum(-1) < 0).all(), "descent raises the pseudo-preferred segment"


def test_surf_learns_from_wide_segments() -> None:
    wide = make_preferences(120, steps=14)
    inner = [centre_query(p.query, 2) for p in wide]
    labels = [
        true_reward(np.stack([s.observations for s in q.segments]), np.stack([s.actions for s in q.segments]))
        for q in inner
    ]
    preferences = [Preference(p.query, np.eye(2)[r.sum(-1).argmax()]) for p, r in zip(wide, labels, strict=True)]
    config = replace(SMALL, epochs=40, surf=SurfConfig(margin=2, threshold=0.95, ratio=2))
    model = make_model(config)
    metrics = model.fit(preferences, unlabelled=[p.query for p in make_preferences(100, steps=14, seed=8)])
    assert metrics["epochs"] == 40 * 120 // 32 // 4 + 1, "SURF counts gradient steps and does not stop early"
    assert metrics["accuracy"] > 0.75
    beliefs = model.preference_probabilities([p.query for p in preferences]).mean(0)
    assert np.mean(beliefs.argmax(-1) == [p.best for p in preferences]) > 0.85
    with pytest.raises(PrefenvsError, match="no centre"):
        make_model(replace(config, surf=SurfConfig(margin=7))).fit(preferences)
    with pytest.raises(PrefenvsError, match="SurfConfig"):
        make_model().fit(preferences, unlabelled=inner)
