from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prefenvs.agents.offline.ipl import IPL, IPLConfig, segment_losses
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query

from ..worlds import ACTIONS, drive, make_line_data, prefer_by_return

SMALL = IPLConfig(hidden=(64, 64), batch_size=64, learning_rate=1e-3, regularisation=0.01, inv_temperature=10.0)
DATA = make_line_data()
LABELS = prefer_by_return(DATA, 150, 12)


def make_agent(config: IPLConfig = SMALL, seed: int = 0) -> IPL:
    return IPL(DATA, LABELS, config, seed=seed, device="cpu", action_space=ACTIONS)


def test_losses_are_the_published_formulas() -> None:
    """All five figures of an update, computed by loops over the same draw."""
    agent = make_agent(replace(SMALL, pairs=3, batch_size=5, segment_steps=4, replay_weight=0.3, regularisation=0.2))
    agent.learn(3)
    state = agent.generator.get_state()
    batch = agent._draw()
    agent.generator.set_state(state)
    with torch.no_grad():
        inputs = torch.cat([batch.observations, batch.actions], 1)
        q, target = agent.critics(inputs).squeeze(-1).numpy(), agent.targets(inputs).squeeze(-1).numpy()
        v, v_next = (agent.value(part).reshape(-1).numpy() for part in (batch.observations, batch.next_observations))
        log_prob = agent.actor.log_prob(batch.observations, batch.actions).numpy()
    figures = {name: value.item() for name, value in agent._update().items()}
    continues, targets, labelled = batch.continues.numpy(), batch.targets.numpy(), 18
    assert len(v) == labelled + 5
    assert batch.inside.all()
    r = q - 0.99 * continues * np.clip(v_next, -1 / (0.2 * 0.01), 1 / (0.2 * 0.01))
    cross_entropy = 0.0
    for critic in range(2):
        for pair in range(3):
            sums = [r[critic, (2 * pair + k) * 3 : (2 * pair + k + 1) * 3].sum() for k in range(2)]
            for k in range(2):
                cross_entropy -= targets[pair, k] * (sums[k] - np.log(np.exp(sums[0]) + np.exp(sums[1]))) / 6

    def mix(values: np.ndarray) -> float:
        return float(0.7 * values[..., :labelled].mean() + 0.3 * values[..., labelled:].mean())

    u = target.min(0) - v
    weights = np.minimum(np.exp(10.0 * u), 100.0)
    assert figures["preference_loss"] == pytest.approx(cross_entropy, rel=1e-4)
    assert figures["regularisation"] == pytest.approx(0.2 * mix(r**2), rel=1e-4)
    assert figures["value_loss"] == pytest.approx(mix(np.where(u < 0, 0.3, 0.7) * u**2), rel=1e-4)
    assert figures["actor_loss"] == pytest.approx(mix(-weights * log_prob), rel=1e-4)
    assert figures["implied_reward"] == pytest.approx(r.mean(), rel=1e-4, abs=1e-6)


def test_preferences_move_critics_alone() -> None:
    """Bradley-Terry's gradient flows through Q; V and the actor see labels only through the target critics."""
    turned = [replace(p, probabilities=p.probabilities[::-1]) for p in LABELS]
    one, two = make_agent(), IPL(DATA, turned, SMALL, device="cpu", action_space=ACTIONS)
    for agent in (one, two):
        agent._update()
    assert all(torch.equal(a, b) for a, b in zip(one.value.parameters(), two.value.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(one.actor.parameters(), two.actor.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.critics.parameters(), two.critics.parameters(), strict=True))


def test_transitions_of_segments_lead_to_the_next_step() -> None:
    agent = make_agent()
    batch = agent._draw()
    labelled = batch.inside.numel()
    assert labelled == 8 * 2 * 11
    steps = (batch.next_observations - batch.observations)[:labelled]
    torch.testing.assert_close(steps[:, 1], torch.full((labelled,), 1 / 25), atol=1e-5, rtol=0)
    torch.testing.assert_close(steps[:, 0], 0.2 * batch.actions[:labelled, 0], atol=1e-5, rtol=0)
    assert batch.continues.eq(1).all()


def test_short_segments_are_padded_and_padding_counts_for_nothing() -> None:
    rewards, targets = torch.randn(2, 24), torch.tensor([[1.0, 0.0], [0.3, 0.7]])
    inside = torch.arange(6) < torch.tensor([[6, 3], [2, 5]])[..., None]
    junk = torch.where(inside.flatten(), rewards, 50.0)
    torch.testing.assert_close(segment_losses(junk, inside, targets), segment_losses(rewards, inside, targets))
    short = prefer_by_return(DATA, 5, 4, seed=3)
    mixed = IPL(DATA, [*LABELS[:5], *short], SMALL, device="cpu", action_space=ACTIONS)
    sizes = torch.cat([mixed._draw().inside.sum(-1).flatten() for _ in range(10)])
    assert set(sizes.tolist()) == {11, 3}


def test_implied_rewards_come_to_agree_with_the_labels() -> None:
    agent = make_agent(replace(SMALL, pairs=32))
    agent.learn(150)
    batch = agent._draw()
    with torch.no_grad():
        q = agent.critics(torch.cat([batch.observations, batch.actions], 1)).mean(0).squeeze(-1)
        r = q - 0.99 * batch.continues * agent.value(batch.next_observations).reshape(-1)
    returns = (r[: batch.inside.numel()].view(batch.inside.shape) * batch.inside).sum(-1)
    assert (returns.argmax(1) == batch.targets.argmax(1)).float().mean() > 0.8


def test_learns_from_mixed_data_to_do_better_than_it() -> None:
    agent = make_agent()
    agent.learn(500)
    assert agent.preference_accuracy(prefer_by_return(DATA, 100, 12, seed=6)) > 0.75
    assert drive(agent) > DATA.trajectories.returns.mean() + 5.0


def test_a_resumed_run_goes_on_as_if_never_stopped(tmp_path) -> None:
    first, second = make_agent(), make_agent()
    first.learn(4)
    second.learn(2)
    second.save_checkpoint(tmp_path)
    resumed = make_agent()
    resumed.resume(tmp_path)
    resumed.learn(2, reset_num_timesteps=False)
    observations = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    np.testing.assert_allclose(resumed.predict(observations)[0], first.predict(observations)[0], atol=1e-6)
    loaded = IPL.load(resumed.save(tmp_path / "ipl.zip"), device="cpu")
    np.testing.assert_array_equal(loaded.predict(observations)[0], resumed.predict(observations)[0])


def test_bad_input_is_named() -> None:
    single = DATA.trajectories.cut(np.array([0, 1]), np.array([3, 4]), 1)
    lone = [Preference(Query((single[0], single[1])), np.array([1.0, 0.0]))]
    with pytest.raises(PrefenvsError, match="at least 2 steps"):
        IPL(DATA, lone, SMALL, device="cpu", action_space=ACTIONS)
    with pytest.raises(PrefenvsError, match="skips"):
        IPL(DATA, [replace(lone[0], probabilities=None)], SMALL, device="cpu", action_space=ACTIONS)
    for change in ({"expectile": 1.0}, {"discount": 1.0}, {"regularisation": 0.0}, {"segment_steps": 1}):
        with pytest.raises(PrefenvsError, match=next(iter(change))):
            IPLConfig(**change)  # type: ignore[arg-type]
