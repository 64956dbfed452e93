"""Seeds of PEBBLE that train together act, ask and learn as each does alone."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from prefenvs.agents import PEBBLE
from prefenvs.agents.nets.rng_state import RandomStreams
from prefenvs.agents.online.pebble_seeds import PebbleGroup
from prefenvs.agents.rewards.fit import RewardTrainer
from prefenvs.errors import PrefenvsError

from ..worlds import Point, Rater
from .test_pebble import make_agent, make_config


def make(seed: int, rater: Rater | None = None, **settings: Any) -> PEBBLE:
    env = Point()
    # Random actions are drawn by the space, which the class would share among all.
    env.action_space = deepcopy(env.action_space)
    return make_agent(rater or Rater(), env, seed=seed, **settings)


def assert_alike(one: PEBBLE, other: PEBBLE) -> None:
    assert (one.num_timesteps, one._n_updates) == (other.num_timesteps, other._n_updates)
    size = one.replay_buffer.size()
    np.testing.assert_allclose(
        one.replay_buffer.observations[:size], other.replay_buffer.observations[:size], atol=1e-3
    )
    np.testing.assert_allclose(one.replay_buffer.rewards[:size], other.replay_buffer.rewards[:size], atol=2e-3)
    for (name, value), expected in zip(
        one.policy.state_dict().items(), other.policy.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, expected, rtol=1e-2, atol=2e-3, msg=name)
    torch.testing.assert_close(one.log_ent_coef, other.log_ent_coef, rtol=1e-3, atol=1e-5)
    queries = [[query.id for query in session] for session in one.oracle.asked]
    assert len(queries) == len(other.oracle.asked) > 0


@pytest.mark.parametrize("settings", [{}, {"target_update_interval": 1, "gradient_steps": 2}])
def test_each_seed_learns_what_it_learns_alone(settings: dict[str, Any]) -> None:
    together = [make(seed, **settings) for seed in (0, 1, 2)]
    before = RandomStreams.now()
    PebbleGroup(together).learn(180)
    assert torch.equal(torch.get_rng_state(), before.torch_cpu)
    for seed, agent in enumerate(together):
        alone = make(seed, **settings)
        alone.learn(180)
        assert_alike(agent, alone)
    first, second = (agent.replay_buffer.observations[:100] for agent in together[:2])
    assert not np.allclose(first, second)


def test_agents_that_need_different_numbers_of_steps_stay_right() -> None:
    """The rater of one skips everything, so that it never starts afresh and makes fewer updates than the other."""

    together = [make(seed, Rater(skip=seed == 1)) for seed in (0, 1)]
    PebbleGroup(together).learn(150)
    assert together[0]._n_updates == together[1]._n_updates + 3
    for seed, agent in enumerate(together):
        alone = make(seed, Rater(skip=seed == 1))
        alone.learn(150)
        assert_alike(agent, alone)


def test_a_member_is_saved_and_goes_on_alone(tmp_path: Path) -> None:
    together = [make(seed) for seed in (0, 1)]
    PebbleGroup(together).learn(150)
    together[1].save_checkpoint(tmp_path / "checkpoint")
    agent = make(1)
    agent.resume(tmp_path / "checkpoint")
    size = (tmp_path / "checkpoint" / "model.zip").stat().st_size
    assert size < 1.1 * agent.save_checkpoint(tmp_path / "alone").joinpath("model.zip").stat().st_size
    expected_state = together[1].policy.state_dict()
    for value, expected in zip(agent.policy.state_dict().values(), expected_state.values(), strict=True):
        assert torch.equal(value, expected)
    agent.learn(20, reset_num_timesteps=False)
    assert agent.num_timesteps == 170
    PebbleGroup(together).learn(20, reset_num_timesteps=False)
    assert [agent.num_timesteps for agent in together] == [170, 170]


class FailAt(BaseCallback):
    def __init__(self, step: int, error: BaseException) -> None:
        super().__init__()
        self.step, self.error = step, error

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            raise self.error
        return True


@pytest.mark.parametrize("error", [RuntimeError("the arm broke"), KeyboardInterrupt()])
def test_one_that_fails_does_not_stop_the_others_and_is_told(error: BaseException) -> None:
    together = [make(seed) for seed in (0, 1)]
    with pytest.raises(type(error)):
        PebbleGroup(together).learn(150, [FailAt(90, error), None])
    assert [agent.num_timesteps for agent in together] == [90, 150]
    alone = make(1)
    alone.learn(150)
    assert_alike(together[1], alone)


def test_a_fit_that_fails_is_that_agent_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    together = [make(seed) for seed in (0, 1)]
    prepare = RewardTrainer.prepare

    def refuse(trainer: RewardTrainer, *arguments: Any) -> Any:
        if trainer is together[0].reward_model.trainer:
            raise PrefenvsError("these labels are no good")
        return prepare(trainer, *arguments)

    monkeypatch.setattr(RewardTrainer, "prepare", refuse)
    with pytest.raises(PrefenvsError, match="no good"):
        PebbleGroup(together).learn(150)
    assert together[0].num_timesteps < together[1].num_timesteps == 150
    alone = make(1)
    alone.learn(150)
    assert_alike(together[1], alone)


def test_agents_can_be_used_after_an_interrupt_within_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    together = [make(seed) for seed in (0, 1)]

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("prefenvs.agents.online.pebble_seeds.fit_ensembles", interrupt)
    with pytest.raises(KeyboardInterrupt):
        PebbleGroup(together).learn(150)
    together[0].learn(80, reset_num_timesteps=False)
    assert together[0].reward_learned


def test_what_cannot_train_together_is_refused() -> None:
    one = make(0)
    with pytest.raises(PrefenvsError, match="pebble of seed 0 and pebble of seed 1 differ"):
        PebbleGroup([one, make(1, config=make_config(labels=10))])
    with pytest.raises(PrefenvsError, match="twice"):
        PebbleGroup([one, one])
    with pytest.raises(PrefenvsError, match="at least one"):
        PebbleGroup([])
    with pytest.raises(PrefenvsError, match="same sizes"):
        PebbleGroup([one, make(1, policy_kwargs={"net_arch": [8, 8]})]).learn(150)
    with pytest.raises(PrefenvsError, match="learned temperature"):
        PebbleGroup([make(seed, ent_coef=0.1) for seed in (0, 1)]).learn(150)


def test_settings_are_checked_as_alone() -> None:
    with pytest.raises(PrefenvsError, match="first session comes after 100 steps"):
        PebbleGroup([make(seed) for seed in (0, 1)]).learn(60)
