"""Published settings stay published, and the schedule of a shorter run fits into it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.published import pebble_settings
from prefenvs.cli.train import TrainPebble
from prefenvs.tasks import find_task


@pytest.mark.parametrize("preset", ["published", "small"])
def test_a_run_of_published_length_has_the_published_schedule(preset) -> None:
    task = find_task("dmc-walker-walk-v0")
    for steps in (None, 500_000, 2_000_000):
        config, sac, total = pebble_settings(task, preset, 500, steps)
        assert (config.unsupervised_steps, config.interact, config.per_session) == (9_000, 20_000, 50)
        assert total == sac["buffer_size"] == (steps or 500_000)


@given(
    steps=st.integers(2_500, 499_999),
    labels=st.integers(100, 2_000),
    per_session=st.none() | st.integers(5, 100),
    unsupervised_steps=st.none() | st.integers(0, 400),
    name=st.sampled_from(["dmc-walker-walk-v0", "metaworld-door-close-v3", "Reacher-v5"]),
)
def test_a_shorter_run_spends_its_labels_before_it_ends(steps, labels, per_session, unsupervised_steps, name) -> None:
    options = TrainPebble(
        task=name,
        steps=steps,
        labels=labels,
        per_session=per_session,
        unsupervised_steps=unsupervised_steps,
    )
    config, sac, total = options.settings(find_task(name))
    assert total == sac["buffer_size"] == steps
    sessions = math.ceil(config.labels / config.per_session)
    last = sac["learning_starts"] + config.unsupervised_steps + (sessions - 1) * config.interact
    assert last <= 0.8 * steps + sessions
    if unsupervised_steps is None:
        assert config.unsupervised_steps <= min(steps / 6, 9_000)
    else:
        assert config.unsupervised_steps == unsupervised_steps


def test_what_is_given_stays() -> None:
    options = TrainPebble(task="Reacher-v5", steps=5_000, labels=100, interact=77, unsupervised_steps=2_222)
    config = options.settings(find_task("Reacher-v5")).config
    assert (config.interact, config.unsupervised_steps) == (77, 2_222)
