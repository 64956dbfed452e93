"""Experts' values: what they are, that they are remembered right, and how far they are from the truth."""

import json
from contextlib import closing

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO, SAC

import prefenvs
from prefenvs import PrefenvsError, Query, Segment
from prefenvs.agents import PEBBLE, PebbleConfig
from prefenvs.agents.experts import LearnedAdvantage, _Memory, load_expert
from prefenvs.agents.online.dqn import DQNConfig, make_dqn
from prefenvs.cli import main
from prefenvs.cli.train.critic import COLUMNS
from prefenvs.envs.delivery.board import find_board
from prefenvs.envs.delivery.values import BoardValues
from prefenvs.internal.csv_tables import read_table
from prefenvs.metrics.critic import Rollouts, fit, measure_critic, ordered_alike, returns_from, walk
from prefenvs.oracles import RegretOracle, Teacher
from prefenvs.oracles.contract import check_oracle
from prefenvs.protocols import Advantage
from prefenvs.runs import Run

OBS, ACT = 3, 1
SMALL = {"policy_kwargs": {"net_arch": [16, 16]}, "buffer_size": 500}


@pytest.fixture(scope="module")
def sac() -> SAC:
    """A critic with values that vary; what it was trained on does not matter here."""
    agent = SAC("MlpPolicy", "Pendulum-v1", learning_starts=50, seed=0, device="cpu", **SMALL)
    agent.learn(110)
    return agent


def batch(count: int = 20, length: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    observations = rng.normal(size=(count, length, OBS)).astype(np.float32)
    return observations, rng.uniform(-2, 2, (count, length, ACT)).astype(np.float32)


def sampled_value(agent: SAC, observations: np.ndarray, samples: int, entropy: bool, mean: bool) -> np.ndarray:
    """V by Stable-Baselines3's own sampling."""
    states = torch.as_tensor(observations.reshape(-1, OBS)).repeat(samples, 1)
    torch.manual_seed(0)
    with torch.no_grad():
        actions, log_prob = agent.actor.action_log_prob(states)
        q = torch.cat(agent.critic(states, actions), 1)
        values = (q.mean(1) if mean else q.min(1).values) - entropy * torch.exp(agent.log_ent_coef) * log_prob
    return values.view(samples, -1).mean(0).numpy().reshape(observations.shape[:-1])


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("critics", ["min", "mean"])
def test_is_q_minus_the_mean_of_q_over_the_policy(sac, entropy, critics) -> None:
    observations, actions = batch()
    values = LearnedAdvantage(sac, samples=4000, critics=critics, entropy=entropy)
    expected = sampled_value(sac, observations, 4000, entropy, critics == "mean")
    assert np.allclose(values.value(observations), expected, atol=0.3 * expected.std())
    flat = torch.as_tensor(observations.reshape(-1, OBS)), torch.as_tensor(actions.reshape(-1, ACT) / 2.0)
    with torch.no_grad():
        q = torch.cat(sac.critic(*flat), 1)
    expected = (q.mean(1) if critics == "mean" else q.min(1).values).numpy().reshape(actions.shape[:-1])
    assert np.allclose(values.q(observations, actions), expected, atol=1e-5)
    found = values.advantage(observations, actions)
    assert np.allclose(found, values.q(observations, actions) - values.value(observations))
    assert found.shape == actions.shape[:-1]
    assert isinstance(values, Advantage)


def test_a_critic_of_quantiles_values_by_their_mean() -> None:
    config = PebbleConfig(true_reward=True)
    agent = PEBBLE(
        "MlpPolicy",
        prefenvs.make("Pendulum-v1"),
        config=config,
        device="cpu",
        seed=0,
        policy_kwargs={"net_arch": [8], "pessimism": 0.1},
    )
    observations, actions = batch()
    flat = torch.as_tensor(observations.reshape(-1, OBS)), torch.as_tensor(actions.reshape(-1, ACT) / 2.0)
    with torch.no_grad():
        (quantiles,) = agent.critic(*flat)
    assert quantiles.shape[1] > 1
    found = LearnedAdvantage(agent).q(observations, actions)
    np.testing.assert_allclose(found.reshape(-1), quantiles.mean(1), atol=1e-5)


def test_values_do_not_depend_on_order_batches_or_memory(sac) -> None:
    observations, _ = batch(200)
    whole = LearnedAdvantage(sac).value(observations)
    other, small = LearnedAdvantage(sac), LearnedAdvantage(sac, remember=30)
    order = np.random.default_rng(0).permutation(200)
    for values in (other, small):
        for part in np.array_split(order, 23):
            assert np.allclose(values.value(observations[part]), whole[part], atol=1e-4)
        assert np.allclose(
            values.value(np.concatenate([observations, observations])), np.tile(whole, (2, 1)), atol=1e-4
        )
    assert len(small._values) <= 30


def test_values_seen_before_are_looked_up(sac, monkeypatch) -> None:
    values, counted = LearnedAdvantage(sac), []
    compute = values._v
    monkeypatch.setattr(values, "_v", lambda rows: counted.append(len(rows)) or compute(rows))
    observations, actions = batch(50)
    first = values.advantage(observations, actions)
    again = values.advantage(observations[::-1], actions[::-1])[::-1]
    assert np.array_equal(first, again)
    assert sum(counted) == 200
    values.value(np.concatenate([observations, observations + 1.0]))
    assert sum(counted) == 400


def test_memory_tells_near_observations_apart() -> None:
    """A grid of float32 neighbours and sparse rows, on which weak hashes collide."""
    grid = np.zeros((60_000, 4), np.float32)
    grid[:30_000, 1] = 1.0 + np.arange(30_000) * np.float32(2**-23)
    grid[30_000:, 3] = -np.arange(30_000, dtype=np.float32) - 1
    memory = _Memory(4, 100_000)
    distinct, inverse = memory.distinct(grid)
    assert len(distinct) == len(np.unique(grid, axis=0))
    assert np.array_equal(distinct[inverse], grid)
    memory.add(distinct, np.arange(len(distinct), dtype=float))
    assert memory.look_up(distinct)[0].tolist() == list(range(len(distinct)))
    assert not memory.look_up(grid[:100] + 7.0)[1].any()
    assert memory.distinct(np.array([[0.0], [-0.0]], np.float32).repeat(4, 1))[0].shape == (1, 4)


def test_dqn_is_valued_by_its_greedy_policy() -> None:
    agent = make_dqn("Delivery-v0", DQNConfig(width=16, buffer_size=10), seed=1)
    board = find_board(0)
    observations, moves = board.observations[board.starts], np.eye(4, dtype=np.float32)
    values = LearnedAdvantage(agent)
    advantages = np.stack([values.advantage(observations, np.tile(m, (len(observations), 1))) for m in moves], 1)
    assert np.allclose(advantages.max(axis=1), 0.0, atol=1e-5)
    greedy = agent.predict(observations, deterministic=True)[0]
    assert np.array_equal(advantages.argmax(axis=1), greedy)


def test_error_on_delivery_falls_as_a_network_learns_the_exact_values() -> None:
    values = BoardValues(find_board(0), 0.99)
    agent = make_dqn("Delivery-v0", DQNConfig(width=64, buffer_size=10), seed=0)
    inputs, targets = torch.as_tensor(values.board.observations), torch.as_tensor(values.q, dtype=torch.float32)
    optimizer = torch.optim.Adam(agent.q_net.parameters(), lr=3e-3)
    errors = []
    for updates in (0, 20, 400):
        for _ in range(updates):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(agent.q_net(inputs), targets).backward()
            optimizer.step()
        errors.append(measure_critic(LearnedAdvantage(agent), Greedy(values), "Delivery-v0", 60, 3, exact=values.value))
    assert errors[0].regret.pearson < 0.5
    assert errors[0].regret.error > errors[1].regret.error > errors[2].regret.error
    assert errors[0].pairs < errors[1].pairs < errors[2].pairs
    assert errors[2].regret.pearson > 0.99


@pytest.mark.slow
def test_dqn_learns_the_exact_values_of_delivery() -> None:
    agent = make_dqn("Delivery-v0", DQNConfig(), seed=1)
    agent.learn(50_000)
    agent.exploration_rate = 0.0
    exact = BoardValues(find_board(0), 0.99).value
    error = measure_critic(LearnedAdvantage(agent), agent, "Delivery-v0", 200, 3, exact=exact)
    assert error.regret.pearson > 0.98
    assert error.regret.error < 0.1
    assert error.pairs > 0.9


class Greedy:
    """The optimal policy of a board, as a policy of observations."""

    def __init__(self, values: BoardValues) -> None:
        self.values = values

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return self.values.a[self.values.cells(observation)].argmax(axis=-1), None


def test_rollouts_of_the_best_policy_confirm_the_exact_values() -> None:
    """Snapshots, discounts, ends of episodes and the telescoped sum in one: all must be right for a fit of 1."""
    values = BoardValues(find_board(0), 0.9)
    error = measure_critic(values, Greedy(values), "Delivery-v0", 30, 3, Rollouts(2, seed=5))
    assert error.regret.pearson == pytest.approx(1.0, abs=1e-4)
    assert error.value.error < 0.01
    assert error.pairs > 0.99
    assert error.ceiling == error.pairs or error.ceiling == pytest.approx(1.0, abs=0.01)
    exact = measure_critic(values, Greedy(values), "Delivery-v0", 30, 3, Rollouts(seed=5), exact=values.value)
    assert exact.regret.error < 1e-6
    assert exact.reference == "exact values"


class Still:
    """Always the same action."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.full((len(observation), 2), 0.3, np.float32), None


def test_a_rollout_goes_on_from_the_simulators_state() -> None:
    """On MuJoCo: an episode played on from a snapshot earns what the episode itself goes on to earn."""
    policy, gamma = Still(), 0.95
    with closing(prefenvs.make("Reacher-v5")) as env:
        observation, _ = env.reset(seed=3)
        for _ in range(10):
            observation = env.step(policy.predict(observation[None])[0][0])[0]
        snapshot = env.snapshot()
        rewards = [env.step(policy.predict(observation[None])[0][0])[4]["true_reward"] for _ in range(30)]
    expected = (np.array(rewards) * gamma ** np.arange(30)).sum()
    found = returns_from(
        policy, "Reacher-v5", [snapshot] * 2, np.stack([observation] * 2), gamma, Rollouts(2, steps=30)
    )
    assert np.allclose(found, expected, atol=1e-9)


def test_walks_stay_within_episodes_and_mix_qualities() -> None:
    values = BoardValues(find_board(0), 0.99)
    walks = walk(Greedy(values), "Delivery-v0", 40, 3)
    assert walks.observations.shape == (40, 4, 124)
    cells, moves = values.cells(walks.observations), walks.actions.argmax(axis=-1)
    board = find_board(0)
    assert np.array_equal(board.next_cells[cells[:, :-1], moves], cells[:, 1:])
    assert np.allclose(board.rewards[cells[:, :-1], moves], walks.rewards)
    assert np.array_equal(board.terminal[cells[:, -1]], walks.ended)
    assert walks.ended.any()
    best = (values.a[cells[:, :-1], moves] == 0).mean(axis=1)
    assert best.min() < 0.5 < best.max()


def test_fit_and_order() -> None:
    reference = np.random.default_rng(0).normal(size=50)
    assert fit(reference, reference)[:3] == pytest.approx((1.0, 1.0, 0.0))
    assert fit(reference + reference.std(), reference).bias == pytest.approx(1.0)
    assert ordered_alike(reference, -reference) == 0.0
    assert ordered_alike(reference, np.zeros(50)) == 0.5
    assert np.isnan(fit(reference, np.zeros(50)).pearson)


@pytest.mark.parametrize("form", ["advantage", "deterministic", "visited"])
def test_regret_oracle_of_a_learned_critic(sac, form) -> None:
    """On a fixed set of segments: the answer is the sum of discounted advantages, and the contract is kept."""
    observations, actions = batch(40, 6)
    rewards = np.random.default_rng(1).normal(size=(40, 6))
    segments = [Segment(*arrays, task="t") for arrays in zip(observations, actions, rewards, strict=True)]
    queries = [Query((segments[i], segments[20 + i])) for i in range(20)]
    values = LearnedAdvantage(sac)
    check_oracle(lambda: RegretOracle(values, "noisy", seed=0, form=form), queries)
    oracle = RegretOracle(values, form=form, discount=0.9)
    oracle.ask(queries)
    found = np.array([answer.best for answer in oracle.collect()])
    if form == "advantage":
        sums = (values.advantage(observations, actions) * 0.9 ** np.arange(6)).sum(axis=1)
        assert np.array_equal(found, (sums[20:] > sums[:20]).astype(int))
    tied = RegretOracle(values, Teacher(equal=0.3, threshold_scale="quantile"), form=form)
    tied.ask(queries)
    assert sum(answer.best is None for answer in tied.collect()) == 6


def test_experts_come_from_zips_and_runs(tmp_path, sac) -> None:
    sac.save(tmp_path / "sac.zip")
    config = PebbleConfig(true_reward=True, unsupervised_steps=0)
    pebble = PEBBLE("MlpPolicy", prefenvs.make("Pendulum-v1"), config=config, seed=0, device="cpu", **SMALL)
    run = Run.create(tmp_path / "run", "train pebble", {"task": "Pendulum-v1", "true_reward": True})
    run.checkpoint.mkdir()
    pebble.save(run.checkpoint / "model.zip")
    observations, actions = batch()
    for agent, path in ((sac, tmp_path / "sac.zip"), (pebble, tmp_path / "run")):
        torch.manual_seed(7)
        expected, _ = torch.rand(1), torch.manual_seed(7)
        read = LearnedAdvantage.load(path, device="cpu")
        assert torch.rand(1) == expected, "reading an expert must not seed its reader's random numbers"
        assert np.allclose(
            read.advantage(observations, actions), LearnedAdvantage(agent).advantage(observations, actions)
        )
        assert read.agent.replay_buffer is None or read.agent.replay_buffer.buffer_size == 1


def make_learned_run(tmp_path, _: SAC) -> object:
    Run.create(tmp_path / "run", "train pebble", {"task": "Pendulum-v1", "true_reward": False})
    return load_expert(tmp_path / "run")


def make_ppo(tmp_path, _: SAC) -> object:
    PPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=8).save(tmp_path / "ppo.zip")
    return load_expert(tmp_path / "ppo.zip")


def make_text(tmp_path, _: SAC) -> object:
    (tmp_path / "text.zip").write_text("no model")
    return load_expert(tmp_path / "text.zip")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (make_learned_run, "value a learned reward"),
        (make_ppo, "neither SAC, PEBBLE nor DQN"),
        (make_text, "no saved model"),
        (lambda p, sac: load_expert(p / "nothing.zip"), "there is no expert"),
        (lambda p, sac: LearnedAdvantage(sac, samples=3), "even number"),
        (lambda p, sac: LearnedAdvantage(sac, critics="max"), '"min" or "mean"'),
        (lambda p, sac: LearnedAdvantage(PPO("MlpPolicy", "Pendulum-v1", n_steps=8, batch_size=8)), "got PPO"),
        (lambda p, sac: LearnedAdvantage(sac).value(np.zeros((2, 5))), "the expert's end with 3"),
        (lambda p, sac: LearnedAdvantage(sac).advantage(np.zeros((2, 3)), np.zeros((2, 4))), "the expert's end with 1"),
        (lambda p, sac: make_dqn("Pendulum-v1", DQNConfig()), "discrete actions"),
        (lambda p, sac: measure_critic(LearnedAdvantage(sac), sac, "Pendulum-v1", rollouts=Rollouts(3)), "even number"),
        (lambda p, sac: measure_critic(LearnedAdvantage(sac), sac, "Pendulum-v1", segments=1), "pairs need 2"),
    ],
)
def test_bad_experts_give_one_line(tmp_path, sac, make, message) -> None:
    with pytest.raises(PrefenvsError, match=message) as refused:
        make(tmp_path, sac)
    assert "\n" not in str(refused.value)


def test_command_line_from_expert_to_rater(tmp_path, capsys, sac) -> None:
    """Train an expert, measure it, and train PEBBLE on answers by its regret."""
    expert, run = str(tmp_path / "expert"), str(tmp_path / "run")
    small = ["--steps", "130", "--evaluate-every", "130", "--episodes", "1", "--no-progress", "--learning-starts", "20"]
    small = ["--preset", "small", "--task", "Reacher-v5", *small]
    main(["train", "pebble", *small, "--true-reward", "--folder", expert])
    capsys.readouterr()
    measure = ["critic", expert, "--states", "4", "--segment-length", "3", "--rollouts", "2", "--steps", "10"]
    main([*measure, "--json", "--out", str(tmp_path / "critics.csv")])
    figures = json.loads(capsys.readouterr().out)
    assert figures["task"] == "Reacher-v5"
    assert 0.0 <= figures["pairs"] <= 1.0
    assert np.isfinite(figures["value"]).all()
    main([*measure, "--out", str(tmp_path / "critics.csv")])
    assert "pairs of segments ordered alike" in capsys.readouterr().out
    (row,) = read_table(tmp_path / "critics.csv", COLUMNS)
    assert row[:3] == ["expert", "4 of 3 steps", "2 roll-outs from each end"]
    assert row[-1].startswith(f"{figures['pairs']:.1%} (")
    sessions = ["--unsupervised-steps", "60", "--labels", "20", "--per-session", "10", "--interact", "20"]
    asked = ["--oracle", "regret", "--expert", expert, "--segment-length", "10", "--folder", run]
    main(["train", "pebble", *small, *sessions, *asked])
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["labels"] == 20
    sac.save(tmp_path / "pendulum.zip")
    wrong = ["--oracle", "regret", "--expert", str(tmp_path / "pendulum.zip"), "--folder", str(tmp_path / "wrong")]
    with pytest.raises(SystemExit) as stopped:
        main(["train", "pebble", *small, *sessions, *wrong])
    assert stopped.value.code == 2
    assert "observation_space" in capsys.readouterr().err
    assert not (tmp_path / "wrong").exists()


def test_command_line_trains_an_expert_on_the_board(tmp_path, capsys) -> None:
    folder = str(tmp_path / "dqn")
    main(
        [
            "train",
            "dqn",
            "--task",
            "Delivery-v0",
            "--steps",
            "1500",
            "--evaluate-every",
            "1500",
            "--episodes",
            "2",
            "--folder",
            folder,
            "--no-progress",
        ]
    )
    assert "upper bound" in capsys.readouterr().out
    main(["critic", folder, "--segment-length", "3"])
    assert "exact values" in capsys.readouterr().out
    main(["evaluate", folder, "--episodes", "2"])
    assert isinstance(load_expert(tmp_path / "dqn"), DQN)
