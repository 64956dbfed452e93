"""Published settings stay published, and the schedule of a shorter run fits into it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.published import pebble_settings
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
    labels=st.integers(50, 2_000),
    name=st.sampled_from(["dmc-walker-walk-v0", "metaworld-door-close-v3", "Reacher-v5"]),
)
def test_a_shorter_run_spends_its_labels_before_it_ends(steps: int, labels: int, name: str) -> None:
    config, _, total = pebble_settings(find_task(name), "small", labels, steps)
    assert total == steps
    sessions = math.ceil(config.labels / config.per_session)
    random_steps = min(1_000, steps // 10)
    last = random_steps + config.unsupervised_steps + (sessions - 1) * config.interact
    assert last < 0.95 * steps or config.interact == 1
    assert config.unsupervised_steps <= min(steps / 6, 9_000)
