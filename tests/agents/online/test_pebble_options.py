"""PEBBLE's resets where values overestimate, rewards learned anew, and discounts by the horizon."""

from typing import Any

import pytest
import torch

from prefenvs.agents import PEBBLE, PebbleConfig, RewardConfig, RewardEnsemble
from prefenvs.agents.online.pebble import preset
from prefenvs.agents.online.sac import CerConfig, ValueResets
from prefenvs.errors import PrefenvsError
from prefenvs.tasks import find_task

from ..worlds import Point, Rater, make_preferences

SMALL = RewardConfig(width=16, layers=2, epochs=2)


def make_agent(rater: Rater, **kwargs: Any) -> PEBBLE:
    config = PebbleConfig(
        labels=25,
        per_session=10,
        interact=60,
        segment_length=8,
        unsupervised_steps=60,
        reset_updates=3,
        reward=SMALL,
        **kwargs,
    )
    given: dict[str, Any] = {"learning_starts": 40, "batch_size": 16, "buffer_size": 5_000, "seed": 0, "device": "cpu"}
    return PEBBLE("MlpPolicy", Point(), rater, config, policy_kwargs={"net_arch": [16, 16]}, **given)


def test_resets_are_due_as_policer_has_them() -> None:
    resets = ValueResets(CerConfig(threshold=10.0, rise=4.0, decay=0.5, highest=16.0, most_updates=3))
    threshold, rise, updates = 10.0, 4.0, 1
    for values in ([3.0, 9.0], [11.0, 2.0], [13.0], [1.0], [15.0], [15.9, -4.0], [40.0], [40.0]):
        for value in values:
            resets.see(torch.tensor(value))
        # The largest value is kept until a reset.
        due = max(values) > threshold
        assert resets.due() == due
        if due:
            threshold, rise, updates = min(threshold + rise, 16.0), rise * 0.5, min(updates + 1, 3)
        assert (resets.threshold, resets.rise, resets.updates) == (threshold, rise, updates)
    kept = ValueResets(resets.config)
    kept.load_state_dict(resets.state_dict())
    assert kept.state_dict() == resets.state_dict()
    assert not kept.due()


def test_values_seen_before_count_until_a_reset() -> None:
    resets = ValueResets(CerConfig(threshold=10.0))
    resets.see(torch.tensor(12.0))
    resets.see(torch.tensor(1.0))
    assert resets.due()
    assert not resets.due()


def test_overestimation_begins_reward_and_critics_anew_and_updates_more(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent(Rater(), value_resets=CerConfig(threshold=10.0, rise=5.0))
    restarts: list[int] = []
    resets: list[float] = []
    actor = agent.actor.optimizer
    restart, reset = agent.reward_model.trainer.restart, agent.policy.reset_critic
    see = agent._resets.see
    monkeypatch.setattr(agent._resets, "see", lambda value: see(value + 50.0))
    monkeypatch.setattr(
        agent.reward_model.trainer, "restart", lambda: restarts.append(agent.num_timesteps) or restart()
    )
    monkeypatch.setattr(agent.policy, "reset_critic", lambda rate: resets.append(rate) or reset(rate))
    agent.learn(300)
    # Not at the first session, step 100, which begins with new critics anyhow.
    assert restarts == [160, 220]
    assert len(resets) == 3
    assert agent.actor.optimizer is actor
    assert (agent._resets.threshold, agent._resets.updates) == (10.0 + 5.0 + 4.5, 3)
    # Two updates a step between the second session and the last.
    assert agent._n_updates == 300 - 40 + 3 + 60


def test_values_below_the_threshold_change_nothing() -> None:
    agents = [
        make_agent(Rater(), **given).learn(180)
        for given in ({}, {"value_resets": CerConfig(threshold=1_000.0, highest=1_000.0)})
    ]
    for one, other in zip(agents[0].policy.parameters(), agents[1].policy.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_restarted_fit_begins_with_new_weights_and_moments() -> None:
    config = RewardConfig(width=16, layers=2, epochs=2, learning_rate=1e-9, restart=True)
    model = RewardEnsemble(3, 2, config, seed=0, device="cpu")
    begun, weights = model.network.weights[1].clone(), []
    for count in (20, 30):
        model.fit(make_preferences(count))
        weights.append(model.network.weights[1].detach().clone())
    torch.testing.assert_close(weights[0], begun, rtol=0, atol=1e-6)
    assert (weights[1] - weights[0]).abs().mean() > 0.05
    assert weights[1].abs().max() <= 16**-0.5 + 1e-6
    steps = {float(state["step"]) for state in model.trainer.optimizer.state.values()}
    assert steps == {2.0}, "of the last fit alone"


def test_what_cannot_be_reset_is_refused() -> None:
    with pytest.raises(PrefenvsError, match="output='identity'"):
        PebbleConfig(value_resets=CerConfig(), reward=RewardConfig(output="identity"))

    class Own:
        def __init__(self, **_: Any) -> None: ...
        def predict(self, observations: Any, actions: Any) -> Any:
            return observations[None, :, 0]

        def fit(self, preferences: Any) -> dict[str, float]:
            return {}

        def save(self, path: Any) -> None: ...
        @classmethod
        def load(cls, path: Any) -> Any: ...

    config = PebbleConfig(value_resets=CerConfig(), selector="uniform")
    agent = PEBBLE("MlpPolicy", Point(), Rater(), config, reward_model=Own, policy_kwargs={"net_arch": [8]})
    with pytest.raises(PrefenvsError, match="value_resets start the reward ensemble anew"):
        agent.check_run(50_000)


@pytest.mark.parametrize(("task", "discount"), [("Reacher-v5", 0.95), ("metaworld-door-close-v3", 0.99)])
def test_a_discount_by_the_horizon_is_simba_s(task: str, discount: float) -> None:
    row = find_task(task)
    fifth = row.horizon / 5
    assert min(max((fifth - 1) / fifth, 0.95), 0.995) == pytest.approx(discount)
    assert preset(row, horizon_discount=True).options.gamma == pytest.approx(discount)
    assert preset(row).options.gamma == 0.99
    with pytest.raises(PrefenvsError, match=r"horizon_discount and gamma=0\.9 are two discounts"):
        preset(row, horizon_discount=True, gamma=0.9)
