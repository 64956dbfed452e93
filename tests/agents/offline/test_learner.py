"""What learners from fixed data share: files, resuming, callbacks, preferences that do not fit."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, configure

from prefenvs.agents import BC, CPL, IQL, BCConfig, CPLConfig, IQLConfig, RewardConfig
from prefenvs.agents.offline.tables import RankedSegments
from prefenvs.datasets.holdout import split_preferences
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query, make_pairs
from prefenvs.trajectories import Trajectories

SMALL = {"hidden": (16,), "batch_size": 8}
REWARD = RewardConfig(members=2, layers=1, width=16, epochs=2)


def make(kind, dataset, seed=0, **settings):
    pairs = make_pairs(dataset.trajectories.sample(40, 5, np.random.default_rng(0)))
    preferences = [Preference(query, np.array([0.8, 0.2])) for query in pairs]
    if kind is IQL:
        return IQL(dataset, preferences, IQLConfig(reward=REWARD, **SMALL, **settings), seed=seed, device="cpu")
    if kind is CPL:
        config = CPLConfig(pretrain_updates=5, warmup_updates=3, **SMALL, **settings)
        return CPL(dataset, preferences, config, seed=seed, device="cpu")
    return BC(dataset, preferences, BCConfig(best_share=0.5, **SMALL, **settings), seed=seed, device="cpu")


ALL = pytest.mark.parametrize("kind", [IQL, CPL, BC])


@pytest.fixture(scope="module")
def dataset(make_dataset) -> OfflineDataset:
    return make_dataset(episodes=12)


def weights(learner):
    return torch.cat([p.flatten() for module in learner._modules().values() for p in module.parameters()])


@ALL
def test_a_saved_learner_acts_as_the_one_that_was_saved(kind, dataset, tmp_path):
    learner = make(kind, dataset, normalise_observations=True).learn(10)
    path = learner.save(tmp_path / "learner")
    assert path.suffix == ".zip"
    loaded = kind.load(path, device="cpu")
    observations = dataset.trajectories.observations[:7]
    actions, state = loaded.predict(observations)
    assert actions.shape == (7, 1)
    assert state is None
    np.testing.assert_array_equal(actions, learner.predict(observations)[0])
    assert loaded.predict(observations[0])[0].shape == (1,)
    assert loaded.config == learner.config
    assert loaded.num_timesteps == 10


@ALL
def test_a_learner_loaded_without_data_says_what_it_lacks(kind, dataset, tmp_path):
    path = make(kind, dataset).learn(6).save(tmp_path / "learner.zip")
    with pytest.raises(PrefenvsError, match="dataset="):
        kind.load(path).learn(5)
    with pytest.raises(PrefenvsError, match="of the kind"):
        (BC if kind is not BC else CPL).load(path)


@ALL
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_resumed_run_ends_as_one_that_was_never_stopped(kind, dropout, dataset, tmp_path):
    whole = make(kind, dataset, dropout=dropout).learn(16)
    begun = make(kind, dataset, dropout=dropout)
    begun.learn(16, callback=StopAt(9))
    folder = begun.save_checkpoint(tmp_path / "checkpoint")
    resumed = make(kind, dataset, dropout=dropout)
    resumed.resume(folder)
    assert resumed.num_timesteps == 9
    resumed.learn(7, reset_num_timesteps=False)
    torch.testing.assert_close(weights(resumed), weights(whole), rtol=0, atol=0)


class StopAt(BaseCallback):
    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        return self.num_timesteps < self.step


@ALL
def test_the_seed_decides_everything(kind, dataset):
    before = torch.get_rng_state()
    first, again, other = (make(kind, dataset, seed).learn(8) for seed in (0, 0, 1))
    torch.testing.assert_close(weights(first), weights(again), rtol=0, atol=0)
    assert not torch.equal(weights(first), weights(other))
    assert torch.equal(before, torch.get_rng_state())


@ALL
def test_learning_is_logged(kind, dataset, tmp_path):
    learner = make(kind, dataset)
    learner.set_logger(configure(str(tmp_path), ["csv"]))
    assert isinstance(learner.logger, Logger)
    learner.learn(12, log_interval=4)
    table = (tmp_path / "progress.csv").read_text().splitlines()
    assert "time/updates_per_second" in table[0]
    assert "train/" in table[0]
    assert len(table) == 4


@ALL
def test_preferences_that_do_not_fit_are_refused_in_one_line(kind, dataset, prefer):
    good = prefer(dataset, 4)
    config = {IQL: IQLConfig(reward=REWARD), CPL: CPLConfig(), BC: BCConfig(best_share=0.5)}[kind]
    skips = [Preference(preference.query, None) for preference in good]
    for preferences, message in (([], "empty"), (skips, "all 4 labels are skips")):
        with pytest.raises(PrefenvsError, match=message) as error:
            kind(dataset, preferences, config, device="cpu")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [CPL, BC])
def test_segments_that_are_not_in_the_data_are_refused(kind, dataset, make_dataset, prefer):
    config = CPLConfig() if kind is CPL else BCConfig(best_share=0.5)
    longer = make_dataset(episodes=20, seed=0)
    with pytest.raises(PrefenvsError, match="has episodes 0 to 11"):
        kind(dataset, prefer(longer, 40), config, device="cpu")
    with pytest.raises(PrefenvsError, match="other data"):
        kind(dataset, prefer(make_dataset(episodes=12, seed=5), 10), config, device="cpu")
    with pytest.raises(PrefenvsError, match="which has 25 steps"):
        kind(dataset, prefer(make_dataset(episodes=12, horizon=60), 30), config, device="cpu")
    with pytest.raises(PrefenvsError, match="but the data set is of"):
        kind(dataset, prefer(make_dataset(episodes=12, task="Hopper-v5"), 4), config, device="cpu")
    segments = dataset.trajectories.sample(3, 5, np.random.default_rng(0))
    with pytest.raises(PrefenvsError, match="compares 3 segments"):
        kind(dataset, [Preference(Query(tuple(segments)), np.full(3, 1 / 3))], config, device="cpu")


def test_data_of_another_task_are_refused(make_dataset):
    dataset = make_dataset(episodes=2, task="Hopper-v5")
    with pytest.raises(PrefenvsError, match="name the task that the data were made in"):
        BC(dataset, device="cpu")
    discrete = make_dataset(episodes=2, task="Delivery-v0")
    with pytest.raises(PrefenvsError, match="continuous"):
        BC(discrete, device="cpu")


def test_actions_come_back_in_the_units_of_the_task(make_dataset):
    dataset = make_dataset(episodes=4, task="Pendulum-v1", observations=3)
    learner = BC(dataset, config=BCConfig(loss="mse", **SMALL), device="cpu")
    assert learner.data.actions.abs().max() <= 1.0
    np.testing.assert_allclose(learner.data.actions * 2.0, dataset.trajectories.actions)
    learner.actor.layers[-1].bias.data.fill_(100.0)
    assert learner.predict(np.zeros((2, 3), np.float32))[0].tolist() == [[2.0], [2.0]]


def test_transitions_end_where_the_task_ended_them_and_nowhere_else():
    rng = np.random.default_rng(0)
    observations = rng.normal(size=(7, 2)).astype(np.float32)
    data = Trajectories(
        observations, np.zeros((7, 1), np.float32), np.array([3, 7]), np.zeros(7), terminated=np.array([True, False])
    )
    table = BC(OfflineDataset("two", data), device="cpu").data
    # The second episode met its time limit, and what came next is unknown: its last step leads nowhere.
    assert table.rows.tolist() == [0, 1, 2, 3, 4, 5]
    assert table.next_rows.tolist() == [1, 2, 2, 4, 5, 6]
    assert table.continues.tolist() == [1, 1, 0, 1, 1, 1]
    finals = rng.normal(size=(2, 2)).astype(np.float32)
    complete = Trajectories(
        observations, data.actions, data.ends, terminated=data.terminated, final_observations=finals
    )
    table = BC(OfflineDataset("two", complete), device="cpu").data
    assert len(table.rows) == 7
    assert table.continues.tolist() == [1, 1, 0, 1, 1, 1, 1]
    np.testing.assert_array_equal(table.observations[table.next_rows[[2, 6]]], finals)


def test_the_data_are_stored_once(dataset):
    """On a CPU the tensors are the data set's own arrays; row numbers and rewards come on top of them."""
    rewards = np.arange(len(dataset.trajectories.actions), dtype=np.float32)
    unit = spaces.Box(-1.0, 1.0, (1,), np.float32)
    table = IQL(dataset, rewards=rewards, device="cpu", action_space=unit).data
    assert table.observations.data_ptr() == dataset.trajectories.observations.ctypes.data
    assert table.actions.data_ptr() == dataset.trajectories.actions.ctypes.data


def test_a_split_shares_no_episode(dataset, prefer):
    preferences = prefer(dataset, 200)
    train, held_out, dropped = split_preferences(preferences, 0.3, seed=1)
    assert train
    assert held_out
    assert len(train) + len(held_out) + dropped == 200
    episodes = [{s.episode for p in side for s in p.query.segments} for side in (train, held_out)]
    assert not episodes[0] & episodes[1]
    with pytest.raises(PrefenvsError, match="share of episodes"):
        split_preferences(preferences, 1.0)


def test_a_ranking_needs_a_score_for_each_segment(dataset):
    segments = dataset.trajectories.sample(4, 5, np.random.default_rng(0))
    with pytest.raises(PrefenvsError, match="a score for each"):
        RankedSegments(segments, np.zeros(3))
    assert len(make_pairs(segments)) == 2


def test_a_file_that_is_no_learner_is_refused(tmp_path):
    (tmp_path / "x.zip").write_text("nonsense")
    with pytest.raises(PrefenvsError, match="is not a saved learner written by"):
        IQL.load(tmp_path / "x.zip")
    with pytest.raises(PrefenvsError, match="no saved learner"):
        IQL.load(tmp_path / "absent.zip")
