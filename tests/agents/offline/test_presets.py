"""Offline presets: the published values of each domain, chosen by the task alone."""

import dataclasses

import pytest

from prefenvs.agents import BC, CPL, IPL, IQL
from prefenvs.agents.offline.iql import IQLConfig
from prefenvs.agents.registry import find_algorithm
from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.agents.rewards.kinds import kind_settings
from prefenvs.tasks import find_task, list_tasks

from ..worlds import ACTIONS, make_line_data, prefer_by_return

DOOR, BUTTON = find_task("AdroitHandDoor-v1"), find_task("metaworld-button-press-v3")
CHEETAH = find_task("HalfCheetah-v5")


def settings_of(name, task=CHEETAH, preset="published", **given):
    """Return an algorithm's configuration and steps."""
    settings = find_algorithm(name).preset(task, preset, **given)
    return settings.config, settings.steps


def of_rewards(rewards: str) -> dict[str, object]:
    return {"true_reward": True} if rewards == "true" else {"reward_model": rewards}


def check(config: object, **expected: object) -> None:
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("task", "tau", "beta", "dropout"),
    [
        ("HalfCheetah-v5", 0.7, 3.0, 0.0),
        ("Hopper-v5", 0.7, 3.0, 0.0),
        ("AntMaze_UMaze-v5", 0.9, 10.0, 0.0),
        ("AntMaze_Large_Diverse_GR-v5", 0.9, 10.0, 0.0),
        ("AdroitHandPen-v1", 0.7, 0.5, 0.1),
        ("AdroitHandRelocateSparse-v1", 0.7, 0.5, 0.1),
        ("FrankaKitchen-v1", 0.7, 0.5, 0.1),
        ("PointMaze_Open-v3", 0.7, 3.0, 0.0),
        ("FetchReach-v4", 0.7, 3.0, 0.0),
        ("dmc-walker-walk-v0", 0.7, 3.0, 0.0),
        ("metaworld-door-open-v3", 0.7, 3.0, 0.25),
    ],
)
@pytest.mark.parametrize("rewards", ["true", "mlp", "transformer"])
def test_iql_by_task(task, tau, beta, dropout, rewards) -> None:
    config, steps = settings_of("iql", find_task(task), **of_rewards(rewards))
    check(config, expectile=tau, inv_temperature=beta, dropout=dropout, discount=0.99, target_rate=0.005)
    check(config, learning_rate=3e-4, weight_clip=100.0, cosine=True)
    manipulation = find_task(task).family == "metaworld"
    assert steps == (500_000 if manipulation else 1_000_000)
    check(config, hidden=(512, 512) if manipulation else (256, 256), batch_size=12_288 if manipulation else 256)
    check(config, deterministic=manipulation, orthogonal=manipulation)


@pytest.mark.parametrize(
    ("task", "true", "learned"),
    [
        ("HalfCheetah-v5", ("range", 0.0), ("range", 0.5)),
        ("AntMaze_Medium-v5", ("none", -1.0), ("range_from_min", -1.0)),
        ("AdroitHandDoor-v1", ("none", 0.0), ("range", 0.0)),
        ("FrankaKitchen-v1", ("none", 0.0), ("range", 0.0)),
    ],
)
def test_rewards_of_iql(task, true, learned) -> None:
    for rewards, (rule, shift) in (("true", true), ("mlp", learned), ("transformer", learned), ("gaussian", learned)):
        check(
            settings_of("iql", find_task(task), **of_rewards(rewards))[0],
            reward_rule=rule,
            reward_shift=shift,
            return_range=None,
        )


def test_piql_is_cpls() -> None:
    config, _ = settings_of("iql", BUTTON)
    check(config, reward_rule="none", reward_shift=0.0)
    check(config.reward, members=1, layers=2, width=512, output="identity", batch_size=96, stop="never")
    # As many batches as its first 50,000 steps, of 10,000 labels.
    assert config.reward.epochs * 10_000 / 96 == 50_000
    for rewards in ("true", "transformer", "gaussian", "image"):
        check(settings_of("iql", BUTTON, **of_rewards(rewards))[0], reward_rule="range", reward_shift=0.0)


def test_small_presets_stay_small_on_every_task() -> None:
    for task in list_tasks():
        config, steps = settings_of("iql", task, "small")
        check(config, hidden=(128, 128), batch_size=256, learning_rate=1e-3)
        assert (steps, config.reward.width) == (20_000, 128)
        assert settings_of("ipl", task, "small")[1] == settings_of("bc", task, "small")[1] == 20_000


@pytest.mark.parametrize("horizon", [100, 200, None])
def test_learned_rewards_are_scaled_to_the_time_limit_and_true_ones_to_1000(horizon) -> None:
    dataset = dataclasses.replace(make_line_data(20), horizon=horizon)
    reward = RewardConfig(members=1, layers=1, width=8, epochs=1)
    config = IQLConfig(hidden=(8,), batch_size=8, reward=reward)
    labels = prefer_by_return(dataset, 20, 5)
    common = {"device": "cpu", "action_space": ACTIONS}

    def spread(learner: IQL) -> float:
        assert learner.data is not None
        assert learner.data.rewards is not None
        returns = learner.data.rewards.view(len(dataset), -1).sum(1)
        return float(returns.max() - returns.min())

    learned = IQL(dataset, labels, config, **common)
    given = IQL(dataset, config=config, rewards=dataset.trajectories.true_rewards, **common)
    again = IQL(dataset, config=config, reward_model=learned.reward_model, **common)
    own = IQL(dataset, labels, dataclasses.replace(config, return_range=7.0), **common)
    # Without a time limit of its own or a task's, the longest episode counts: 25 steps.
    assert spread(learned) == pytest.approx(horizon or 25, rel=1e-4)
    assert spread(again) == pytest.approx(horizon or 25, rel=1e-4)
    assert spread(given) == pytest.approx(1000.0, rel=1e-4)
    assert spread(own) == pytest.approx(7.0, rel=1e-4)


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("cpl", {"alpha": 0.1, "conservative": 0.5, "bc_coefficient": 0.0, "kl": False, "rate_factor": 1.0}),
        ("cpl-bc", {"alpha": 0.1, "conservative": 1.0, "bc_coefficient": 1.0, "kl": False, "rate_factor": 1.0}),
        ("cpl-kl", {"alpha": 0.2, "conservative": 0.75, "bc_coefficient": 0.0, "kl": True, "rate_factor": 0.1}),
    ],
)
def test_cpl(variant, expected) -> None:
    config, steps = settings_of("cpl", variant=variant)
    check(config, **expected, hidden=(512, 512), dropout=0.25, gaussian=False, batch_size=96, learning_rate=1e-4)
    check(config, pretrain_updates=200_000, warmup_updates=10_000, discount=1.0)
    assert steps == 500_000
    assert CPL.config_type() == settings_of("cpl")[0]


def test_behaviour_cloning() -> None:
    config, steps = settings_of("bc", BUTTON)
    check(config, loss="mse", hidden=(512, 512), dropout=0.25, learning_rate=1e-4, batch_size=2 * 96 * 64)
    assert steps == 500_000
    assert settings_of("bc", DOOR) == (BC.config_type(), 1_000_000)


def test_ipl_by_task() -> None:
    config, steps = settings_of("ipl")
    check(config, regularisation=0.5, expectile=0.7, inv_temperature=3.0, hidden=(256, 256), pairs=8, limit_values=True)
    check(config, batch_size=256, replay_weight=0.5)
    assert steps == 1_000_000
    config, steps = settings_of("ipl", BUTTON)
    check(config, regularisation=3.0, expectile=0.75, hidden=(256, 256, 256), pairs=16, segment_steps=16)
    check(config, limit_values=False)
    assert steps == 200_000


def test_ipl_limits_v_only_where_it_is_told_to() -> None:
    """With V far above 1 / (lambda (1 - gamma)) = 4 the implied reward tells whether it was limited."""
    dataset = make_line_data(20)
    labels = prefer_by_return(dataset, 20, 5)
    implied = {}
    for limited in (True, False):
        config = IPL.config_type(hidden=(8,), discount=0.5, limit_values=limited)
        learner = IPL(dataset, labels, config, device="cpu", action_space=ACTIONS)
        learner.value[-1].bias.data.fill_(1e4)  # type: ignore[union-attr,operator]
        implied[limited] = float(learner._update()["implied_reward"])
    assert -10.0 < implied[True] < 0.0
    assert implied[False] == pytest.approx(-5e3, rel=0.05)


def test_transformers() -> None:
    config, steps = settings_of("oppo")
    check(config, window=20, context_size=8, width=128, layers=3, heads=1, encoder_heads=2, dropout=0.1, batch_size=64)
    check(config, learning_rate=1e-4, weight_decay=1e-4, warmup_steps=10_000, best_learning_rate=1e-3, margin=1.0)
    check(config, preference_weight=0.1, norm_weight=0.1, gradient_clip=0.25)
    assert steps == 100_000
    dppo, steps = settings_of("dppo")
    check(dppo, conservatism=1.0, temperature=0.1, batch_size=256, hidden=(256, 256), learning_rate=3e-4)
    for reward in (kind_settings("transformer"), kind_settings("gaussian"), dppo.predictor):
        check(reward, width=256, layers=1, heads=4, dropout=0.1, batch_size=256, epochs=10_000, aggregate="mean")
        check(reward, learning_rate=1e-4, peak=10.0, warmup=0.1)
    # The paper's layer, which the released command leaves out, as its docstring says.
    assert kind_settings("transformer").attention
    assert not kind_settings("transformer").scaled
