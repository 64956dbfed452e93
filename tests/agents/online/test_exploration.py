"""State entropy: exact neighbours, and a running deviation that is one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prefenvs.agents.online import exploration
from prefenvs.agents.online.exploration import RunningStd, SeenStates, StateEntropy, least, nearest_distances


@settings(max_examples=30)
@given(st.integers(2, 400), st.integers(1, 5), st.integers(1, 40), st.integers(0, 2**31))
def test_distances_are_those_of_a_full_sort(count: int, k: int, chunk: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    seen = torch.randn(count, 3, generator=generator) + 100.0
    states = seen[torch.randint(count, (7,), generator=generator)]
    exact = torch.cdist(states.double(), seen.double()).sort(dim=1).values[:, min(k, count - 1)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exploration, "CHUNK", chunk)
        found = nearest_distances(states, seen, k)
    torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-4)


@settings(max_examples=50)
@given(st.integers(1, 700), st.integers(1, 8), st.booleans(), st.integers(0, 2**31))
def test_the_least_of_many_are_those_of_a_full_sort(count: int, k: int, ties: bool, seed: int) -> None:
    scores = torch.randn(5, count, generator=torch.Generator().manual_seed(seed))
    if ties:
        scores = scores.round()
    values, columns = least(scores, k)
    torch.testing.assert_close(values.sort(1).values, scores.sort(1).values[:, :k])
    torch.testing.assert_close(scores.gather(1, columns), values)
    assert all(len(set(row)) == len(row) for row in columns.tolist())


@settings(max_examples=30)
@given(st.lists(st.integers(1, 25), min_size=1, max_size=12), st.integers(0, 2**31))
def test_states_taken_in_step_by_step_are_those_of_the_buffer(parts: list[int], seed: int) -> None:
    """Before and after the ring has wrapped."""
    rng = np.random.default_rng(seed)
    ring, added, cache = np.zeros((40, 3), np.float32), 0, SeenStates()
    for part in parts:
        ring[np.arange(added, added + part) % 40] = rng.normal(size=(part, 3)) + 10.0
        added += part
        seen = cache.update(ring, added, torch.device("cpu"))
        held = min(added, 40)
        assert seen.size == held
        np.testing.assert_allclose(seen.centred[:held] + seen.centre, ring[:held], atol=1e-5)
        np.testing.assert_allclose(seen.norms[:held], seen.centred[:held].square().sum(1), rtol=1e-4)
        assert torch.isinf(seen.norms[held:]).all()
        states = torch.from_numpy(ring[:1])
        expected = nearest_distances(states, torch.from_numpy(ring[:held]), 3)
        torch.testing.assert_close(nearest_distances(states, seen, 3), expected, rtol=1e-3, atol=1e-3)


def test_far_from_the_origin_distances_stay_exact() -> None:
    seen = torch.arange(100.0)[:, None] * 0.01 + 50.0
    torch.testing.assert_close(nearest_distances(seen[50:51], seen, k=4), torch.tensor([0.02]), rtol=1e-3, atol=0.0)


@given(st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=20), min_size=1, max_size=10))
def test_running_std_equals_the_std_of_everything(batches: list[list[float]]) -> None:
    running = RunningStd()
    for batch in batches:
        result = running.update(torch.tensor(batch, dtype=torch.float64))
    np.testing.assert_allclose(result, np.std(np.concatenate(batches)), atol=1e-6)


def test_a_state_nobody_has_been_near_is_worth_more() -> None:
    crowd, hermit = torch.randn(500, 4) * 0.1, torch.full((1, 4), 10.0)
    seen = torch.cat([crowd, hermit])
    rewards = StateEntropy(k=5)(torch.cat([crowd[:20], hermit]), seen)
    assert rewards[-1] > 5 * rewards[:-1].max()


def test_a_subset_of_states_gives_rewards_of_the_same_order() -> None:
    torch.manual_seed(0)
    seen = torch.randn(5_000, 3)
    full, part = nearest_distances(seen[:200], seen, 5).mean(), nearest_distances(seen[:200], seen[:2_500], 5).mean()
    assert 1.0 < part / full < 2.0


def test_what_a_bounded_reward_is_warm_started_with_is_rime_s() -> None:
    states, entropy = torch.randn(50, 3), StateEntropy(k=3, bounded=True)
    distances = torch.cdist(states, states).kthvalue(4, dim=1).values
    rewards = entropy(states, states)
    torch.testing.assert_close(
        rewards, ((distances - distances.mean()) / (3 * distances.std(correction=0))).clamp(-1, 1)
    )
    centred = distances - distances.mean()
    torch.testing.assert_close(entropy.predictable(states, states), centred / centred.abs().max())


def test_normalised_states_are_compared_in_deviations_up_to_five() -> None:
    torch.manual_seed(0)
    seen = torch.randn(300, 4) * torch.tensor([100.0, 1.0, 1e-6, 3.0]) + torch.tensor([5.0, 0.0, 1.0, -2.0])
    seen[0, 1] = 40.0
    deviations = seen.std(0, correction=0).clamp_min(0.01 * seen.std(0, correction=0).max())
    scaled = ((seen - seen.mean(0)) / deviations).clamp(-5.0, 5.0)
    expected = torch.cdist(scaled[:20], scaled).kthvalue(6, dim=1).values
    entropy = StateEntropy(k=5, normalised=True)
    torch.testing.assert_close(entropy(seen[:20], seen), expected / expected.std(correction=0), rtol=1e-3, atol=1e-3)
    # The same from a ring with rows that are not states yet.
    ring, states = SeenStates(), np.zeros((1_000, 4), np.float32)
    states[:300] = seen.numpy()
    ring.update(states, 200, torch.device("cpu"))
    candidates = ring.update(states, 300, torch.device("cpu"))
    found = StateEntropy(k=5, normalised=True)(seen[:20], candidates)
    torch.testing.assert_close(found, expected / expected.std(correction=0), rtol=1e-3, atol=1e-3)
