"""PEBBLE's timeline, its budget, what it may know, and how it stops and goes on."""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

import prefenvs
from prefenvs.agents import PEBBLE, PebbleConfig, RewardConfig
from prefenvs.agents.rewards.options.rime import RimeConfig
from prefenvs.agents.rewards.options.surf import SurfConfig
from prefenvs.errors import PrefenvsError

from ..worlds import SENTINEL, Point, Rater

SMALL = RewardConfig(width=16, layers=2, epochs=5)


def make_config(**kwargs: Any) -> PebbleConfig:
    base = {"labels": 25, "per_session": 10, "interact": 60, "segment_length": 8, "unsupervised_steps": 60}
    return PebbleConfig(**({"reward": SMALL, "reset_updates": 3} | base | kwargs))


def make_agent(oracle: Rater | None, env: Any = None, config: PebbleConfig | None = None, **kwargs: Any) -> PEBBLE:
    settings = {"learning_starts": 40, "batch_size": 16, "buffer_size": 5_000, "seed": 0, "device": "cpu"}
    settings["policy_kwargs"] = {"net_arch": [16, 16]}
    return PEBBLE("MlpPolicy", env or Point(), oracle, config or make_config(), **(settings | kwargs))


class Every(BaseCallback):
    def __init__(self, look: Any) -> None:
        super().__init__()
        self.look = look

    def _on_step(self) -> bool:
        self.look(self.model)
        return True


def test_sessions_come_when_they_should_and_spend_the_budget_exactly() -> None:
    rater, seen = Rater(), []
    agent = make_agent(rater)
    agent.learn(400, callback=Every(lambda model: seen.append((model.num_timesteps, len(rater.asked)))))
    assert [len(queries) for queries in rater.asked] == [10, 10, 5]
    first_seen = [next(steps for steps, sessions in seen if sessions > n) for n in range(3)]
    # A session is held after the step that reaches its time, and seen at the next one.
    assert first_seen == [101, 161, 221]
    assert agent.feedback.asked == agent.feedback.labels == 25
    assert all(len(segment) == 8 for queries in rater.asked for query in queries for segment in query.segments)


def test_one_gradient_step_for_each_environment_step_and_the_reset_updates() -> None:
    agent = make_agent(Rater())
    agent.learn(300)
    assert agent._n_updates == 300 - 40 + 3


def test_the_whole_buffer_holds_the_reward_model_s_present_opinion() -> None:
    agent = make_agent(Rater(), buffer_size=200)
    agent.learn(350)
    buffer = agent.replay_buffer
    assert buffer.full
    actions = agent.policy.unscale_action(buffer.actions[:, 0])
    expected = agent.reward_model.predict(buffer.observations[:, 0], actions).mean(0)
    np.testing.assert_allclose(buffer.rewards[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_the_learned_reward_agrees_with_the_rater() -> None:
    config = make_config(labels=60, per_session=20, reward=RewardConfig(width=64, layers=2, epochs=100))
    agent = make_agent(Rater(), config=config)
    agent.learn(300)
    positions = np.linspace(-1, 1, 20, dtype=np.float32)
    observations = np.stack([positions, np.full(20, 0.5, np.float32)], 1)
    rewards = agent.reward_model.predict(observations, np.zeros((20, 1), np.float32)).mean(0)
    assert np.corrcoef(positions, rewards)[0, 1] > 0.9


def holds_sentinel(value: Any, depth: int = 0) -> bool:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return (
            bool(np.any(np.isclose(value.astype(float), SENTINEL)))
            if value.size and value.dtype.kind in "fiu"
            else False
        )
    if isinstance(value, int | float):
        return bool(np.isclose(value, SENTINEL))
    if isinstance(value, dict):
        return any(holds_sentinel(item, depth + 1) for item in value.values())
    if isinstance(value, list | tuple | set) or type(value).__name__ == "deque":
        return any(holds_sentinel(item, depth + 1) for item in value)
    if hasattr(value, "__dict__") and depth < 8:
        return any(holds_sentinel(item, depth + 1) for item in vars(value).values())
    return False


def test_no_true_reward_reaches_buffer_networks_or_logger() -> None:
    logged: dict[str, Any] = {}
    infos: list[Any] = []

    def look(model: PEBBLE) -> None:
        logged.update(model.logger.name_to_value)
        infos.append(look.callback.locals["infos"])

    look.callback = Every(look)  # type: ignore[attr-defined]
    rater = Rater()
    agent = make_agent(rater, env=Point(sentinel=True))
    agent.learn(300, callback=look.callback)  # type: ignore[attr-defined]
    assert holds_sentinel(rater.asked[0][0].segments[0].true_rewards), "the rater must see what the learner must not"
    assert not holds_sentinel(infos)
    assert not holds_sentinel(logged)
    parts = [
        agent.replay_buffer,
        agent.reward_model,
        agent.policy.state_dict(),
        agent.state_entropy,
        agent.ep_info_buffer,
    ]
    for part in parts:
        assert not holds_sentinel(part), type(part).__name__
    assert logged["feedback/labels"] == 25


def test_the_upper_bound_learns_from_the_true_reward_and_asks_nobody() -> None:
    agent = make_agent(None, env=Point(sentinel=True), config=make_config(true_reward=True))
    agent.learn(120)
    assert np.allclose(agent.replay_buffer.rewards[:120], SENTINEL)
    assert agent.feedback is None


def test_several_environments_keep_the_update_ratio_and_their_episodes_apart() -> None:
    rater = Rater()
    agent = make_agent(rater, env=DummyVecEnv([Point] * 4))
    agent.learn(400)
    # Training begins with the first round of steps that ends after learning_starts.
    assert agent._n_updates == 400 - 40 + 3
    for query in rater.asked[0]:
        for segment in query.segments:
            steps = np.diff(segment.observations[:, 1])
            np.testing.assert_allclose(steps, 1 / 25, atol=1e-6)
            np.testing.assert_allclose(segment.states[:, 0], segment.observations[:, 0], atol=1e-6)


def test_late_answers_never_block_and_are_learned_from_when_they_come() -> None:
    rater = Rater(late=6)
    agent = make_agent(rater)
    learned_at: list[int] = []
    agent.learn(500, callback=Every(lambda m: learned_at.append(m.num_timesteps) if m.reward_learned else None))
    assert rater.looks > 6
    assert learned_at[0] > 120
    assert agent.feedback.labels == 25


def test_a_rater_who_skips_everything_leaves_the_agent_exploring() -> None:
    agent = make_agent(Rater(skip=True))
    agent.learn(300)
    assert not agent.reward_learned
    assert agent.feedback.asked == 25
    assert agent.feedback.labels == 0


def test_rune_and_surf_run_and_surf_asks_about_the_centre_only() -> None:
    rater = Rater()
    reward = RewardConfig(width=16, layers=2, epochs=2, surf=SurfConfig(margin=2))
    agent = make_agent(rater, config=make_config(bonus=0.05, reward=reward, unlabelled=3))
    agent.learn(250)
    assert {len(segment) for queries in rater.asked for query in queries for segment in query.segments} == {8}
    assert {len(segment) for answer in agent.feedback.preferences for segment in answer.query.segments} == {12}
    assert len(agent.feedback.unlabelled) == 3 * 25
    assert 0 < agent.replay_buffer.bonus < 0.05


@pytest.mark.parametrize(("rime", "resets"), [(RimeConfig(), 0), (RimeConfig(intrinsic_steps=0), 1), (None, 1)])
def test_rime_s_reward_predicts_the_intrinsic_one_and_the_critics_go_on(
    rime: RimeConfig | None, resets: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(Rater(), config=make_config(reward=dataclasses.replace(SMALL, rime=rime, learning_rate=3e-3)))
    calls: list[float] = []
    errors: list[float] = []
    monkeypatch.setattr(agent.policy, "reset_critic", calls.append)

    def look(model: PEBBLE) -> None:
        if model.num_timesteps == 99:
            held = torch.from_numpy(model.replay_buffer.observations[:98, 0])
            actions = model.replay_buffer.task_actions(model.replay_buffer.actions[:98, 0])
            intrinsic = model.state_entropy.predictable(held, held).numpy()
            predicted = model.reward_model.predict(held.numpy(), actions)
            errors.append(np.square(predicted - intrinsic).mean() / intrinsic.var())

    agent.learn(110, callback=Every(look))
    assert agent.reward_learned
    assert len(calls) == resets
    assert (errors[0] < 0.9) == (resets == 0), errors


def test_log_likelihood_is_the_density_of_the_actions_taken() -> None:
    """It integrates to 1 over the actions of the task, in the units of the scaled ones."""
    agent = make_agent(Rater())
    scaled = np.linspace(-0.9999, 0.9999, 20_001, dtype=np.float32)[:, None]
    observations = np.full((len(scaled), 2), 0.3, np.float32)
    density = np.exp(agent.log_likelihood(observations, agent.policy.unscale_action(scaled)))
    assert np.trapezoid(density, scaled[:, 0]) == pytest.approx(1.0, abs=0.01)
    assert np.all(np.isfinite(agent.log_likelihood(observations[:2], np.array([[-2.0], [2.0]], np.float32))))


def test_the_policy_s_likelihood_chooses_queries() -> None:
    rater = Rater()
    make_agent(rater, config=make_config(selector="policy-likelihood")).learn(300)
    assert [len(queries) for queries in rater.asked] == [10, 10, 5]


def test_the_actor_waits_for_the_critics_where_told_to() -> None:
    agent = make_agent(Rater(), config=make_config(policy_delay=4))
    agent.learn(130)
    seen = []
    for _ in range(8):
        before = [torch.cat([p.flatten() for p in net.parameters()]).clone() for net in (agent.actor, agent.critic)]
        agent._update(1, 16)
        after = [torch.cat([p.flatten() for p in net.parameters()]) for net in (agent.actor, agent.critic)]
        seen.append(tuple(not torch.equal(one, other) for one, other in zip(before, after, strict=True)))
    assert [actor for actor, _ in seen].count(True) == 2
    assert all(critic for _, critic in seen)


def test_recent_steps_are_drawn_from_once_a_reward_is_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = make_agent(Rater(), config=make_config(recent_share=0.5, recent_steps=50))
    drawn: list[tuple[bool, Any]] = []
    draw = agent.replay_buffer.draw
    monkeypatch.setattr(
        agent.replay_buffer, "draw", lambda *args: drawn.append((agent.reward_learned, args[2])) or draw(*args)
    )
    agent.learn(200)
    assert {recent for learned, recent in drawn if not learned} == {(0, 50)}
    assert {recent for learned, recent in drawn if learned} == {(8, 50)}


def test_critics_with_layer_norm_are_saved_and_loaded(tmp_path: Path) -> None:
    agent = make_agent(Rater(), policy_kwargs={"net_arch": [16, 16], "layer_norm": True})
    agent.learn(150)
    agent.save(tmp_path / "model.zip")
    loaded = PEBBLE.load(tmp_path / "model.zip", device="cpu")
    observations, actions = torch.randn(10, 2), torch.rand(10, 1)
    for one, other in zip(agent.critic(observations, actions), loaded.critic(observations, actions), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    huge = agent.critic(1e6 * observations, actions)[0]
    assert huge.abs().max() < 1e3, "normalised layers do not extrapolate"


@pytest.mark.parametrize("body", ["simba", "bro"])
def test_residual_bodies_see_what_the_agent_sees_and_are_saved_with_it(body: str, tmp_path: Path) -> None:
    agent = make_agent(Rater(), policy_kwargs={"net_arch": [16, 16], "body": body})
    agent.learn(150)
    norm = agent.actor.features_extractor
    seen = agent.replay_buffer.observations[:150, 0]
    np.testing.assert_allclose(norm.mean, seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.variance, seen.var(0), rtol=1e-5)
    assert agent.critic_target.features_extractor is agent.critic.features_extractor is norm
    assert (len(agent.actor.latent_pi[0].blocks), len(agent.critic.q_networks[0].blocks)) == (1, 2)
    assert isinstance(agent.critic.optimizer, torch.optim.AdamW)
    agent.save(tmp_path / "model.zip")
    loaded = PEBBLE.load(tmp_path / "model.zip", device="cpu")
    observations, actions = torch.randn(10, 2), torch.rand(10, 1)
    for one, other in zip(agent.critic(observations, actions), loaded.critic(observations, actions), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    rows = observations.numpy()
    np.testing.assert_array_equal(
        agent.predict(rows, deterministic=True)[0], loaded.predict(rows, deterministic=True)[0]
    )


def test_residual_bodies_refuse_what_they_cannot_do() -> None:
    with pytest.raises(PrefenvsError, match="choose mlp, simba, bro"):
        make_agent(Rater(), policy_kwargs={"net_arch": [16], "body": "cnn"})
    with pytest.raises(PrefenvsError, match="bfloat16 is for plain layers"):
        make_agent(Rater(), config=make_config(precision="bfloat16"), policy_kwargs={"net_arch": [16], "body": "simba"})


def test_a_saved_model_predicts_the_same_without_environment_or_oracle(tmp_path: Path) -> None:
    agent = make_agent(Rater())
    agent.learn(150)
    agent.save(tmp_path / "model.zip")
    loaded = PEBBLE.load(tmp_path / "model.zip", device="cpu")
    observations = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    np.testing.assert_array_equal(
        agent.predict(observations, deterministic=True)[0], loaded.predict(observations, deterministic=True)[0]
    )


def test_a_resumed_run_ends_where_an_unbroken_one_would(tmp_path: Path) -> None:
    agent = make_agent(Rater())
    agent.learn(170)
    agent.feedback.total_steps = 400
    agent.save_checkpoint(tmp_path / "checkpoint")
    rater = Rater()
    resumed = make_agent(rater)
    resumed.resume(tmp_path / "checkpoint")
    assert resumed.num_timesteps == 170
    assert resumed.reward_learned
    assert resumed.feedback.labels == 20
    np.testing.assert_array_equal(resumed.replay_buffer.rewards[:170], agent.replay_buffer.rewards[:170])
    observations = np.random.default_rng(0).normal(size=(10, 2)).astype(np.float32)
    actions = np.zeros((10, 1), np.float32)
    before, after = (one.reward_model.predict(observations, actions) for one in (agent, resumed))
    np.testing.assert_array_equal(after, before)
    resumed.learn(230, reset_num_timesteps=False)
    assert resumed.num_timesteps == 400
    assert [len(queries) for queries in rater.asked] == [5]
    assert len(resumed.feedback.preferences) == 25
    assert resumed._n_updates == 400 - 40 + 3


def test_a_checkpoint_of_another_task_is_refused(tmp_path: Path) -> None:
    agent = make_agent(Rater())
    agent.learn(110)
    agent.recorder.buffer.task = "Other-v0"
    agent.save_checkpoint(tmp_path / "checkpoint")
    with pytest.raises(PrefenvsError, match="Other-v0"):
        make_agent(Rater()).resume(tmp_path / "checkpoint")
    with pytest.raises(PrefenvsError, match="not a checkpoint"):
        make_agent(Rater()).resume(tmp_path / "nowhere")


def test_a_checkpoint_survives_a_kill_between_its_two_renames(tmp_path: Path) -> None:
    agent = make_agent(Rater())
    agent.learn(110)
    agent.save_checkpoint(tmp_path / "checkpoint").rename(tmp_path / "checkpoint.old")
    resumed = make_agent(Rater())
    resumed.resume(tmp_path / "checkpoint")
    assert resumed.num_timesteps == 110


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": 5}, "smaller than one session"),
        ({"selector": "disagrement"}, "Did you mean disagreement"),
        ({"interact": 0}, "interact must be at least 1"),
        ({"per_session": 2, "reward": RewardConfig(validation_share=0.9)}, r"0\.9 holds out all 2 labels of the first"),
    ],
)
def test_bad_settings_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PrefenvsError, match=message):
        make_config(**change)


def test_runs_that_cannot_work_are_refused_before_they_start() -> None:
    with pytest.raises(PrefenvsError, match="needs a rater"):
        make_agent(None).learn(300)
    with pytest.raises(PrefenvsError, match="first session comes after 100 steps"):
        make_agent(Rater()).learn(100)


@pytest.mark.parametrize(
    ("task", "steps", "segment", "message"),
    [
        ("Pendulum-v1", 150, 60, "150 steps in 4 environments are 37 in each, too few for one segment"),
        ("dmc-cartpole-swingup-v0", 3_900, 20, "975 in each, less than one episode of 1000 steps"),
        ("metaworld-door-close-v3", 1_900, 20, "475 in each, less than one episode of 500 steps"),
    ],
)
def test_steps_in_which_no_question_can_be_asked_are_refused_before_they_start(task, steps, segment, message) -> None:
    venv = DummyVecEnv([lambda: prefenvs.make(task)] * 4)
    agent = make_agent(Rater(), env=venv, config=make_config(segment_length=segment))
    with pytest.raises(PrefenvsError, match=message) as error:
        agent.check_run(steps)
    assert "\n" not in str(error.value)
    agent.check_run(4_000)
    venv.close()


def test_steps_in_which_a_question_may_be_asked_are_warned_of() -> None:
    agent = make_agent(Rater(), env=prefenvs.make("Hopper-v5"))
    with pytest.warns(UserWarning, match=r"less than one episode of 1000 steps.*ends episodes earlier"):
        agent.start_feedback(900)


def test_a_budget_that_the_run_has_no_room_for_is_warned_of() -> None:
    agent = make_agent(Rater(), config=make_config(labels=500))
    with pytest.warns(
        UserWarning, match=r"at most 30 of 500 labels.*sessions of 10 every 60 steps from step 100"
    ) as seen:
        agent.start_feedback(250)
    assert len(seen) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_agent(Rater()).start_feedback(250)
    # Updates, before which sessions are held, come after every 100 steps alone.
    agent = make_agent(Rater(), train_freq=100)
    with pytest.warns(UserWarning, match=r"at most 20 of 25 labels.*sessions of 10 every 100 steps"):
        agent.learn(200)
    assert agent.feedback.asked == 20


def test_a_budget_that_can_hardly_teach_is_warned_of() -> None:
    agent = make_agent(Rater(), config=make_config(labels=3, per_session=3))
    with pytest.warns(UserWarning, match="a budget of 3 labels teaches little"):
        agent.start_feedback(250)
    reward = RewardConfig(validation_share=0.1, stop="validation")
    agent = make_agent(Rater(), config=make_config(per_session=4, interact=10, reward=reward))
    with pytest.warns(UserWarning, match=r"validation_share=0\.1 holds out none of the first session's 4 labels"):
        agent.start_feedback(250)


def test_a_reward_that_is_not_hidden_is_refused() -> None:
    import gymnasium as gym

    with pytest.raises(PrefenvsError, match=r"prefenvs\.make"):
        make_agent(Rater(), env=gym.make("Pendulum-v1")).learn(200)
