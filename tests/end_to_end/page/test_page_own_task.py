"""A task of one's own on the labelling page, in headless Chromium: shown and labelled, or said to be missing."""

import os
import textwrap

import numpy as np
import pytest

from prefenvs.cli import main
from prefenvs.datasets import load_dataset
from prefenvs.preferences import make_pairs
from prefenvs.store import Store

from .test_page import LEFT, RIGHT, chosen

MODULE = """
    from prefenvs.tasks import Task

    POLE = Task(id="pole", family="own", sentence="The pole of mine stands upright.", horizon=60, segment_length=4,
                fps=25, source="InvertedPendulum-v5")
"""


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    """A store that asks about episodes of a task of one's own, collected by the command line."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "my_pole_task.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    out = str(tmp_path / "data")
    main(["collect", "my_pole_task:POLE", "--episodes", "4", "--out", out, "--format", "npz", "--no-progress"])
    trajectories = load_dataset(out).trajectories
    assert trajectories.task == "my_pole_task:POLE"
    with Store(tmp_path / "labels.sqlite") as store:
        store.add_queries(make_pairs(trajectories.sample(4, 4, np.random.default_rng(0))))
    return tmp_path


def test_a_task_of_ones_own_is_labelled(labelled, store, serve_apart, visit, wait_for_events, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{labelled / 'modules'}:{os.environ.get('PYTHONPATH', '')}")
    page = visit(serve_apart()[1])
    page.wait(lambda: "The pole of mine stands upright." in page.text)
    left, right = page.answer(LEFT), page.answer(RIGHT)
    assert [chosen(event, store) for event in wait_for_events(2)] == [left[0], right[1]]
    page.wait(lambda: "All done" in page.text)


def test_a_task_that_cannot_be_found_is_named(labelled, serve_apart, visit) -> None:
    page = visit(serve_apart()[1])
    page.wait(lambda: "my_pole_task" in page.text)
    assert "Loading" not in page.text
