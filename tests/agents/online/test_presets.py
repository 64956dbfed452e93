"""Published settings stay published, and the schedule of a shorter run fits into it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefenvs.agents.online.pebble import PebbleConfig
from prefenvs.agents.online.pebble import preset as pebble_preset
from prefenvs.agents.online.prefppo import preset as prefppo_preset
from prefenvs.tasks import find_task


@pytest.mark.parametrize("preset", ["published", "small"])
def test_a_run_of_published_length_has_the_published_schedule(preset) -> None:
    task = find_task("dmc-walker-walk-v0")
    for steps in (None, 500_000, 2_000_000):
        settings = pebble_preset(task, preset, labels=500, steps=steps)
        config = settings.config
        assert (config.unsupervised_steps, config.interact, config.per_session) == (9_000, 20_000, 50)
        assert settings.steps == settings.options.buffer_size == (steps or 500_000)


@given(
    steps=st.integers(2_500, 499_999),
    labels=st.integers(100, 2_000),
    per_session=st.none() | st.integers(5, 100),
    unsupervised_steps=st.none() | st.integers(0, 400),
    name=st.sampled_from(["dmc-walker-walk-v0", "metaworld-door-close-v3", "Reacher-v5"]),
)
def test_a_shorter_run_spends_its_labels_before_it_ends(steps, labels, per_session, unsupervised_steps, name) -> None:
    given = {"labels": labels, "per_session": per_session, "unsupervised_steps": unsupervised_steps}
    settings = pebble_preset(find_task(name), steps=steps, **given)
    config, options = settings.config, settings.options
    assert settings.steps == options.buffer_size == steps
    sessions = math.ceil(config.labels / config.per_session)
    last = options.learning_starts + config.unsupervised_steps + (sessions - 1) * config.interact
    assert last <= 0.8 * steps + sessions
    if unsupervised_steps is None:
        assert config.unsupervised_steps <= min(steps / 6, 9_000)
    else:
        assert config.unsupervised_steps == unsupervised_steps


def test_what_is_given_stays() -> None:
    task = find_task("Reacher-v5")
    config = pebble_preset(task, steps=5_000, labels=100, interact=77, unsupervised_steps=2_222).config
    assert (config.interact, config.unsupervised_steps) == (77, 2_222)


@pytest.mark.parametrize(
    ("task", "labels", "per_session", "interact", "steps", "epochs", "rate", "net", "batch"),
    [
        ("dmc-walker-walk-v0", 500, 50, 20_000, 500_000, 50, 5e-4, [1024] * 2, 1024),
        ("dmc-walker-walk-v0", 1_000, 100, 20_000, 500_000, 50, 5e-4, [1024] * 2, 1024),
        ("dmc-quadruped-walk-v0", 1_000, 100, 30_000, 1_000_000, 50, 1e-4, [1024] * 2, 1024),
        ("dmc-quadruped-walk-v0", 2_000, 200, 30_000, 1_000_000, 50, 1e-4, [1024] * 2, 1024),
        ("metaworld-button-press-v3", 10_000, 50, 5_000, 1_000_000, 10, 3e-4, [256] * 3, 512),
        ("metaworld-button-press-v3", 20_000, 100, 5_000, 1_000_000, 10, 3e-4, [256] * 3, 512),
        ("metaworld-sweep-into-v3", 10_000, 50, 5_000, 1_000_000, 10, 3e-4, [256] * 3, 512),
        ("metaworld-sweep-into-v3", 20_000, 100, 5_000, 1_000_000, 10, 3e-4, [256] * 3, 512),
    ],
)
def test_pebble_is_b_prefs(task, labels, per_session, interact, steps, epochs, rate, net, batch) -> None:
    settings = pebble_preset(find_task(task), labels=labels)
    config, sac = settings.config, settings.options
    assert (config.labels, config.per_session, config.interact, settings.steps) == (
        labels,
        per_session,
        interact,
        steps,
    )
    assert (config.segment_length, config.unsupervised_steps, config.reward.epochs) == (50, 9_000, epochs)
    assert (sac.learning_rate, sac.batch_size, list(sac.hidden)) == (rate, batch, net)
    reward = config.reward
    assert (reward.members, reward.layers, reward.width, reward.output) == (3, 3, 256, "tanh")
    assert (reward.learning_rate, reward.batch_size) == (3e-4, 128)
    assert (reward.stop, reward.stop_accuracy) == (None, 0.97)
    assert PebbleConfig().bonus == 0.0
    # RIME's own code stops later than B-Pref's.
    assert pebble_preset(find_task(task), labels=labels, rime=True).config.reward.stop_accuracy == 0.98


@pytest.mark.parametrize(
    ("task", "envs", "n_steps", "batch", "gae", "rate", "steps", "epochs"),
    [
        ("dmc-walker-walk-v0", 32, None, 64, 0.92, None, 4_000_000, 100),
        ("dmc-quadruped-walk-v0", 16, None, 128, 0.9, None, 4_000_000, 100),
        ("metaworld-button-press-v3", 16, 250, 128, 0.92, 3e-4, 3_000_000, 50),
        ("metaworld-sweep-into-v3", 32, 250, 256, 0.92, 3e-4, 3_000_000, 50),
        # Without scripts of their own: walker-walk's and button-press's.
        ("HalfCheetah-v5", 32, None, 64, 0.92, None, 4_000_000, 100),
        ("metaworld-door-close-v3", 16, 250, 128, 0.92, 3e-4, 3_000_000, 50),
    ],
)
def test_prefppo_is_b_prefs(task, envs, n_steps, batch, gae, rate, steps, epochs) -> None:
    """None stands for the learner's own default, walker-walk's 500 steps and 5e-5."""
    settings = prefppo_preset(find_task(task))
    ppo = settings.options
    assert (ppo.envs, settings.steps, settings.config.reward.epochs) == (envs, steps, epochs)
    assert (ppo.n_steps, ppo.learning_rate) == (n_steps or 500, rate or 5e-5)
    assert (ppo.batch_size, ppo.gae_lambda) == (batch, gae)
    clip = ppo.keywords()["clip_range"]
    assert (clip(1.0), clip(0.5), ppo.sde_sample_freq) == (0.4, 0.2, 4)
    assert (settings.config.unsupervised_steps, settings.config.unsupervised_epochs) == (32_000, 50)
    # Published everywhere; what differs on Meta-World is told by the settings' docstring.
    assert settings.config.normalise_observations == (not task.startswith("metaworld"))
    assert "observations are not normalised" in " ".join((prefppo_preset.__doc__ or "").split())
