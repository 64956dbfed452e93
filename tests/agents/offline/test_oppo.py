from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prefenvs.agents.offline.oppo import OPPO, OPPOConfig, matching_loss, norm_loss, triplet_loss
from prefenvs.datasets.offline import OfflineDataset
from prefenvs.errors import PrefenvsError
from prefenvs.evaluate import evaluate
from prefenvs.trajectories import Trajectories

from ..worlds import ACTIONS, drive, make_line_data, prefer_by_return

SMALL = OPPOConfig(
    window=6,
    context_size=4,
    width=32,
    layers=1,
    batch_size=16,
    dropout=0.0,
    learning_rate=2e-3,
    warmup_steps=1,
    best_learning_rate=1e-2,
    preference_weight=1.0,
)
DATA = make_line_data()
LABELS = prefer_by_return(DATA, 150, 12)


def make_agent(config: OPPOConfig = SMALL, seed: int = 0) -> OPPO:
    return OPPO(DATA, LABELS, config, seed=seed, device="cpu", action_space=ACTIONS)


def test_losses_are_the_published_formulas() -> None:
    rng = np.random.default_rng(0)
    best, preferred, other = rng.standard_normal(4), rng.standard_normal((6, 4)), rng.standard_normal((6, 4))
    triplets = [
        max(0.0, np.sqrt(((best - p) ** 2).sum()) - np.sqrt(((best - o) ** 2).sum()) + 1.0)
        for p, o in zip(preferred, other, strict=True)
    ]
    tensors = [torch.from_numpy(array) for array in (best, preferred, other)]
    assert triplet_loss(*tensors, 1.0).item() == pytest.approx(np.mean(triplets))
    assert norm_loss(tensors[1]).item() == pytest.approx(np.mean((np.sqrt((preferred**2).sum(1)) - 1) ** 2))
    predicted, actions = rng.standard_normal((3, 5, 2)), rng.standard_normal((3, 5, 2))
    lengths = [5, 2, 4]
    errors = [(predicted[i, t] - actions[i, t]) ** 2 for i in range(3) for t in range(lengths[i])]
    inside = torch.arange(5) < torch.tensor(lengths)[:, None]
    loss = matching_loss(torch.from_numpy(predicted), torch.from_numpy(actions), inside)
    assert loss.item() == pytest.approx(np.mean(errors))


def test_the_triplet_loss_is_that_of_pytorch_and_moves_the_best_context_to_the_preferred() -> None:
    best = torch.randn(4, requires_grad=True)
    preferred, other = torch.randn(6, 4), torch.randn(6, 4)
    loss = triplet_loss(best, preferred, other, 1.0)
    expected = torch.nn.functional.triplet_margin_loss(best.expand(6, 4), preferred, other, eps=0.0)
    torch.testing.assert_close(loss, expected)
    one = triplet_loss(best, torch.ones(1, 4), -torch.ones(1, 4), 10.0)
    (gradient,) = torch.autograd.grad(one, best)
    moved = best.detach() - 0.1 * gradient
    assert (moved - 1).norm() < (best - 1).norm()


def test_a_step_moves_encoder_policy_and_best_context_each_by_its_own_loss() -> None:
    """z* sees the preferences alone; the policy does not see them at all."""
    plain, other = make_agent(), make_agent()
    other.config = replace(SMALL, preference_weight=0.0, norm_weight=0.0)
    start = {name: parameter.clone() for name, parameter in plain.policy.named_parameters()}
    plain._update()
    other._update()
    assert torch.equal(plain.best.vector, other.best.vector)
    assert not torch.equal(plain.best.vector, make_agent().best.vector)
    for name, parameter in plain.policy.named_parameters():
        torch.testing.assert_close(parameter, dict(other.policy.named_parameters())[name])
    assert any(not torch.equal(parameter, start[name]) for name, parameter in plain.policy.named_parameters())
    assert not torch.equal(plain.encoder.head.weight, other.encoder.head.weight)


def test_padding_changes_neither_contexts_nor_actions() -> None:
    agent = make_agent()
    steps, numbers = torch.randn(3, 6, 3), torch.arange(6).expand(3, 6)
    inside = torch.arange(6) < torch.tensor([6, 3, 1])[:, None]
    junk = torch.where(inside[..., None], steps, 9.0)
    torch.testing.assert_close(agent.encoder(junk, numbers, inside), agent.encoder(steps, numbers, inside))
    alone = agent.encoder(steps[1:2, :3], numbers[1:2, :3], inside[1:2, :3])
    torch.testing.assert_close(agent.encoder(junk, numbers, inside)[1:2], alone)
    context = torch.randn(3, 4)
    actions = [agent.policy(inputs, numbers, context)[inside] for inputs in (steps, junk)]
    torch.testing.assert_close(*actions)


def test_an_action_depends_on_context_observation_and_past_but_not_on_itself() -> None:
    agent = make_agent()
    steps, context = torch.randn(1, 6, 3, requires_grad=True), torch.randn(1, 4, requires_grad=True)
    action = agent.policy(steps, torch.arange(6)[None], context)[0, 3, 0]
    by_step, by_context = torch.autograd.grad(action, (steps, context))
    assert (by_step[0, 4:] == 0).all()
    assert by_step[0, 3, 2] == 0
    assert (by_step[0, 3, :2] != 0).any()
    assert (by_step[0, :3].abs().sum(1) > 0).all()
    assert (by_context != 0).any()


def test_windows_stay_inside_episodes_and_pairs_inside_segments() -> None:
    agent = make_agent()
    steps, numbers, inside = agent._draw_windows()
    assert steps.shape == (32, 6, 3)
    assert (numbers[inside] < 25).all()
    times = (steps[..., 1] * agent.std[1] + agent.mean[1]) * 25
    torch.testing.assert_close(times[inside], numbers[inside].float(), atol=1e-3, rtol=0)
    assert (numbers[:, 1:] - numbers[:, :-1])[inside[:, 1:]].eq(1).all()
    steps, numbers, inside = agent._draw_pairs()
    assert inside.all()
    segments = {(s.episode, s.start + i) for p in LABELS for s in p.query.segments for i in range(12)}
    assert set(numbers.flatten().tolist()) <= {step for _, step in segments}


def test_memory_gives_what_the_whole_history_gives() -> None:
    """Stepping with memory equals looking back over the last `window` steps anew, across restarts of single rows."""
    agent, rng = make_agent(), np.random.default_rng(0)
    histories: list[list[tuple[np.ndarray, np.ndarray]]] = [[], []]
    state = None
    for t in range(15):
        observations = rng.standard_normal((2, 2)).astype(np.float32)
        starts = np.array([t in (0, 9), t in (0, 4)])
        actions, state = agent.predict(observations, state, starts)
        for row in range(2):
            if starts[row]:
                histories[row] = []
            past = histories[row][-5:]
            normal = (torch.from_numpy(observations[row]) - agent.mean) / agent.std
            steps = torch.zeros(1, len(past) + 1, 3)
            for i, (seen, done) in enumerate(past):
                steps[0, i] = torch.cat([(torch.from_numpy(seen) - agent.mean) / agent.std, torch.from_numpy(done) / 2])
            steps[0, -1, :2] = normal
            numbers = torch.arange(len(histories[row]) - len(past), len(histories[row]) + 1)[None]
            with torch.no_grad():
                expected = agent.policy(steps, numbers, agent.best.vector[None])[0, -1].numpy() * 2
            np.testing.assert_allclose(actions[row], expected, atol=1e-5)
            histories[row].append((observations[row], actions[row]))


def test_evaluation_carries_the_memory_along() -> None:
    """Two environments give what one gives: each row of the memory belongs to its environment."""
    rng = np.random.default_rng(0)
    observations, actions = rng.standard_normal((90, 3)), rng.uniform(-2, 2, (90, 1))
    episodes = Trajectories(observations, actions, np.array([30, 60, 90]), rng.random(90), task="Pendulum-v1")
    data = OfflineDataset("pendulum", episodes)
    agent = OPPO(data, prefer_by_return(data, 10, 12), SMALL, device="cpu")
    alone = evaluate(agent, "Pendulum-v1", episodes=3, num_envs=1)
    together = evaluate(agent, "Pendulum-v1", episodes=3, num_envs=2)
    np.testing.assert_allclose(together.returns, alone.returns, rtol=1e-3)
    assert np.ptp(alone.returns) > 0


def test_predict_takes_one_observation_as_well() -> None:
    agent = make_agent()
    action, state = agent.predict(np.zeros(2, np.float32))
    again, _ = agent.predict(np.zeros(2, np.float32), state)
    assert action.shape == again.shape == (1,)
    many, _ = agent.predict(np.zeros((3, 2), np.float32))
    np.testing.assert_allclose(many, np.tile(action, (3, 1)), atol=1e-6)
    with pytest.raises(PrefenvsError, match="takes observations"):
        agent.predict(np.zeros((3, 5), np.float32))


def test_learns_from_mixed_data_to_do_better_than_it() -> None:
    agent = make_agent()
    agent.learn(300)
    assert agent.preference_accuracy(prefer_by_return(DATA, 100, 12, seed=6)) > 0.65
    assert drive(agent) > DATA.trajectories.returns.mean() + 8.0


def test_preferences_turned_round_lead_the_other_way() -> None:
    turned = [replace(p, probabilities=p.probabilities[::-1]) for p in LABELS]
    agent = OPPO(DATA, turned, SMALL, device="cpu", action_space=ACTIONS)
    agent.learn(300)
    assert drive(agent) < DATA.trajectories.returns.mean() + 5.0


def test_a_seed_decides_everything(tmp_path) -> None:
    config = replace(SMALL, dropout=0.1)
    first, second = make_agent(config), make_agent(config)
    torch.manual_seed(1)
    first.learn(4)
    torch.manual_seed(2)
    second.learn(2)
    second.save_checkpoint(tmp_path / "checkpoint")
    resumed = make_agent(config)
    resumed.resume(tmp_path / "checkpoint")
    resumed.learn(2, reset_num_timesteps=False)
    for one, two in zip(first.policy.parameters(), resumed.policy.parameters(), strict=True):
        torch.testing.assert_close(one, two)


def test_files(tmp_path) -> None:
    agent = make_agent()
    agent.learn(2)
    loaded = OPPO.load(agent.save(tmp_path / "oppo"), device="cpu")
    observations = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    np.testing.assert_array_equal(loaded.predict(observations)[0], agent.predict(observations)[0])
    assert loaded.config == SMALL
    assert loaded.labels == 150


def test_bad_input_is_named() -> None:
    ties = [replace(p, probabilities=np.array([0.5, 0.5])) for p in LABELS[:5]]
    with pytest.raises(PrefenvsError, match="all 5 answered pairs are ties"):
        OPPO(DATA, ties, SMALL, device="cpu", action_space=ACTIONS)
    with pytest.raises(PrefenvsError, match="empty"):
        OPPO(DATA, None, SMALL, device="cpu", action_space=ACTIONS)
    with pytest.raises(PrefenvsError, match="25 steps: set OPPO's positions"):
        make_agent(replace(SMALL, positions=20))
    for change in ({"window": 0}, {"gradient_clip": 0.0}):
        with pytest.raises(PrefenvsError, match=next(iter(change))):
            OPPOConfig(**change)  # type: ignore[arg-type]
