"""Seeds that train together learn what each learns alone, and stay ordinary learners."""

import numpy as np
import pytest
import torch

from prefenvs.agents import BC, CPL, IQL, BCConfig, CPLConfig, IQLConfig
from prefenvs.agents.offline.seeds import SeedGroup
from prefenvs.errors import PrefenvsError

SMALL = {"hidden": (16, 16), "batch_size": 8}
STAGES = {"pretrain_updates": 6, "warmup_updates": 4, "learning_rate": 1e-3, **SMALL}
MADE = {
    "iql": (IQL, IQLConfig(reward_rule="none", **SMALL)),
    "iql-dropout": (IQL, IQLConfig(reward_rule="none", dropout=0.2, deterministic=True, cosine=False, **SMALL)),
    "bc": (BC, BCConfig(normalise_observations=True, **SMALL)),
    "bc-dropout": (BC, BCConfig(loss="mse", dropout=0.3, **SMALL)),
    "cpl": (CPL, CPLConfig(dropout=0.25, **STAGES)),
    "cpl-kl": (CPL, CPLConfig(kl=True, gaussian=True, bc_coefficient=0.5, pretrain_batch=32, dropout=0.0, **STAGES)),
}


def make(kind, make_dataset, prefer, seed, config=None):
    algorithm, own = MADE[kind]
    dataset = make_dataset()
    preferences = prefer(dataset, 20, seed=seed) if algorithm is CPL else None
    rewards = {"rewards": dataset.trajectories.true_rewards} if algorithm is IQL else {}
    return algorithm(dataset, preferences, config or own, seed=seed, device="cpu", **rewards)


def weights(learner):
    return {name: value for part in learner._modules().values() for name, value in part.state_dict().items()}


def assert_alike(one, other):
    assert one.num_timesteps == other.num_timesteps
    assert torch.equal(one.generator.get_state(), other.generator.get_state())
    for name, value in weights(one).items():
        torch.testing.assert_close(value, weights(other)[name], rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("kind", MADE)
def test_each_seed_learns_what_it_learns_alone(kind, make_dataset, prefer):
    together = [make(kind, make_dataset, prefer, seed) for seed in (3, 4, 5)]
    SeedGroup(together).learn(15)
    for seed, learner in zip((3, 4, 5), together, strict=True):
        alone = make(kind, make_dataset, prefer, seed).learn(15)
        assert_alike(learner, alone)
        moments = [state["exp_avg_sq"] for state in learner.optimiser.state_dict()["state"].values()]
        expected = [state["exp_avg_sq"] for state in alone.optimiser.state_dict()["state"].values()]
        for moment, other in zip(moments, expected, strict=True):
            torch.testing.assert_close(moment, other, rtol=1e-3, atol=1e-8)
    different = [weights(learner) for learner in together[:2]]
    assert any(not torch.equal(different[0][name], different[1][name]) for name in different[0])


@pytest.mark.parametrize("kind", ["iql-dropout", "cpl-kl"])
def test_a_member_is_saved_loaded_and_continued_alone(kind, make_dataset, prefer, tmp_path):
    together = [make(kind, make_dataset, prefer, seed) for seed in (0, 1)]
    SeedGroup(together).learn(9)
    together[1].save_checkpoint(tmp_path)
    observations = np.zeros((3, together[1].observation_size), np.float32)
    alone = make(kind, make_dataset, prefer, 1)
    alone.resume(tmp_path)
    assert (tmp_path / "model.zip").stat().st_size < 1.1 * alone.save(tmp_path / "alone").stat().st_size
    np.testing.assert_array_equal(alone.predict(observations)[0], together[1].predict(observations)[0])
    alone.learn(6, reset_num_timesteps=False)
    SeedGroup(together).learn(6, reset_num_timesteps=False)
    assert_alike(together[1], alone)


def test_a_member_can_go_on_alone_while_the_others_stay(make_dataset, prefer):
    first, second = together = [make("iql", make_dataset, prefer, seed) for seed in (0, 1)]
    SeedGroup(together).learn(3)
    before = {name: value.clone() for name, value in weights(second).items()}
    first.learn(4, reset_num_timesteps=False)
    for name, value in weights(second).items():
        assert torch.equal(value, before[name])


def test_each_member_has_its_callback_and_one_stops_all(make_dataset, prefer):
    together = [make("bc", make_dataset, prefer, seed) for seed in (0, 1)]
    seen = []
    callbacks = [lambda *_: seen.append("first") or True, lambda *_: seen.append("second") or len(seen) < 6]
    SeedGroup(together).learn(10, callbacks)
    assert seen == ["first", "second"] * 3
    assert [learner.num_timesteps for learner in together] == [3, 3]


def test_the_data_lie_on_the_device_once(make_dataset, prefer):
    together = [make("bc", make_dataset, prefer, seed) for seed in (0, 1)]
    assert together[0].data.observations.data_ptr() != together[1].data.observations.data_ptr()
    SeedGroup(together)
    assert together[0].data.observations.data_ptr() == together[1].data.observations.data_ptr()


def test_what_cannot_train_together_is_refused(make_dataset, prefer):
    one = make("bc", make_dataset, prefer, 0)
    with pytest.raises(PrefenvsError, match="bc of seed 0 and bc of seed 1 differ"):
        SeedGroup([one, make("bc", make_dataset, prefer, 1, BCConfig(**SMALL))])
    with pytest.raises(PrefenvsError, match="twice"):
        SeedGroup([one, one])
    with pytest.raises(PrefenvsError, match="at least one"):
        SeedGroup([])
    other = make("bc", make_dataset, prefer, 1).learn(2)
    with pytest.raises(PrefenvsError, match="equally many updates"):
        SeedGroup([one, other]).learn(3, reset_num_timesteps=False)
    dataset = make_dataset()
    config = CPLConfig(**STAGES | {"pretrain_updates": 0})
    short, long = (CPL(dataset, prefer(dataset, 9, length=n), config, seed=n, device="cpu") for n in (4, 5))
    with pytest.raises(PrefenvsError, match="segments of one length"):
        SeedGroup([short, long]).learn(2)


def test_a_file_from_before_a_setting_is_read_with_its_default(make_dataset, prefer, tmp_path):
    learner = make("iql", make_dataset, prefer, 0).learn(4)
    state = learner.state_dict()
    del state["config"]["precision"]
    (tmp_path / "checkpoint").mkdir()
    torch.save(state, tmp_path / "checkpoint" / "model.zip")
    loaded = IQL.load(tmp_path / "checkpoint" / "model.zip")
    observations = np.zeros((3, learner.observation_size), np.float32)
    expected = learner.predict(observations, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], expected)
    resumed = make("iql", make_dataset, prefer, 0)
    resumed.resume(tmp_path / "checkpoint")
    assert resumed.num_timesteps == 4
