"""Actions that are inferred from observations: how well, marked as such, with their labels, and learned from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prefenvs import PrefenvsError, Trajectories
from prefenvs.agents.inverse_dynamics import InverseDynamics, InverseDynamicsConfig
from prefenvs.cli import main
from prefenvs.datasets import OfflineDataset, load_dataset
from prefenvs.datasets.formats.npz import write_npz
from prefenvs.preferences import Preference, make_pairs
from prefenvs.store import Store

STEPS = 30


def points(episodes: int, seed: int, source: str, act: bool = True) -> Trajectories:
    """A point that actions push, seen with its position alone: the second push counts half, through its velocity."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (episodes, STEPS, 2)).astype(np.float32)
    velocity = np.cumsum(actions * [1.0, 0.5], axis=1)
    position = np.cumsum(np.concatenate([np.zeros((episodes, 1, 2)), velocity[:, :-1]], 1), axis=1)
    rows = position.reshape(-1, 2).astype(np.float32)
    ends = STEPS * np.arange(1, episodes + 1)
    pushed = actions.reshape(-1, 2) if act else np.zeros((len(rows), 0), np.float32)
    return Trajectories(rows, pushed, ends, source=source)


def test_it_tells_the_actions_that_a_point_was_pushed_by() -> None:
    known, bare = points(20, 0, "known"), points(6, 1, "bare", act=False)
    model = InverseDynamics(2, 2, InverseDynamicsConfig(steps=400, held_out=0.25), device="cpu")
    errors = model.fit(known, progress=False)
    assert errors is not None
    assert errors.steps == 5 * STEPS
    told, true = model.predict(bare), points(6, 1, "bare").actions
    # What came after the last two steps of an episode nobody saw.
    inner = np.arange(STEPS * 6) % STEPS < STEPS - 2
    assert np.corrcoef(told[inner, 0], true[inner, 0])[0, 1] > 0.95
    assert np.abs(told).max() <= 1.0
    # The error of held-out episodes is that of new ones.
    fresh = float(np.square(told - true).mean(0).sum() / np.var(true, axis=0).sum())
    assert errors.unexplained == pytest.approx(fresh, abs=0.1)
    assert errors.unexplained < 0.4


def test_the_command_joins_marks_and_takes_labels_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known, bare = points(8, 0, "known"), points(4, 1, "bare", act=False)
    for name, data in (("known", known), ("bare", bare)):
        write_npz(OfflineDataset(name, data), tmp_path / name)
    queries = [
        *make_pairs(known.sample(8, 10, np.random.default_rng(0))),
        *make_pairs(bare.sample(8, 10, np.random.default_rng(0))),
        *make_pairs(points(3, 5, "stranger").sample(2, 10, np.random.default_rng(0))),
    ]
    with Store(str(tmp_path / "old.sqlite")) as store:
        store.add_preferences([Preference(query, np.array([1.0, 0.0])) for query in queries])
    command = ["actions", str(tmp_path / "bare"), "--known", str(tmp_path / "known"), "--out", str(tmp_path / "both")]
    stores = ["--preferences", str(tmp_path / "old.sqlite"), "--labels-to", str(tmp_path / "new.sqlite")]
    main([*command, *stores, "--steps", "50", "--device", "cpu"])
    told = capsys.readouterr().out
    assert "held-out episodes (60 steps) miss by" in told
    assert "12 episodes; the actions of 33.3% of all steps are inferred" in told
    assert "8 of 9 labels are in" in told
    both = load_dataset(tmp_path / "both")
    assert both.inferred is not None
    assert both.inferred.tolist() == [False] * 8 + [True] * 4
    assert np.array_equal(both.trajectories.actions[: 8 * STEPS], known.actions)
    with Store(str(tmp_path / "new.sqlite")) as store:
        moved = [segment for preference in store.preferences() for segment in preference.query.segments]
    for segment in moved:
        episode = both.trajectories.episode(segment.episode)
        assert np.array_equal(segment.observations, episode.observations[segment.start : segment.start + 10])
        assert segment.actions.shape == (10, 2)
    assert {segment.episode >= 8 for segment in moved} == {True, False}
    run = ["train", "bc", "--dataset", str(tmp_path / "both"), "--preferences", str(tmp_path / "new.sqlite")]
    main([*run, "--best-share", "0.5", "--steps", "20", "--folder", str(tmp_path / "run")])
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["inferred_actions"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("bare", "known", "says"),
    [
        ("known", "known", "known has actions"),
        ("bare", "bare", "holds no actions"),
        ("wide", "known", "have 2 entries"),
    ],
)
def test_bad_pairs_of_data_sets(
    bare: str, known: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = Trajectories(np.zeros((5, 3), np.float32), np.zeros((5, 0), np.float32), np.array([5]))
    made = {"known": points(8, 0, "known"), "bare": points(4, 1, "bare", act=False), "wide": odd}
    for name in {bare, known}:
        write_npz(OfflineDataset(name, made[name]), tmp_path / name)
    command = ["actions", str(tmp_path / bare), "--known", str(tmp_path / known), "--out", str(tmp_path / "both")]
    with pytest.raises(SystemExit):
        main(command)
    assert says in capsys.readouterr().err


def test_labels_that_may_be_of_either_data_set_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both folders are called alike: the labels of the one would judge the other's episodes."""
    for side, data in (("known", points(8, 0, "clips")), ("bare", points(4, 1, "clips", act=False))):
        write_npz(OfflineDataset("clips", data), tmp_path / side / "clips")
    command = ["actions", str(tmp_path / "bare/clips"), "--known", str(tmp_path / "known/clips")]
    with pytest.raises(SystemExit):
        main([*command, "--out", str(tmp_path / "both"), "--preferences", "old.sqlite", "--labels-to", "new.sqlite"])
    assert "both data sets are called 'clips', so labels do not tell which" in capsys.readouterr().err
    assert not (tmp_path / "both").exists()


def test_a_full_folder_is_refused_before_anything_is_learned(tmp_path: Path) -> None:
    write_npz(OfflineDataset("bare", points(4, 1, "bare", act=False)), tmp_path / "bare")
    from prefenvs.cli.data.actions import Actions

    with pytest.raises(PrefenvsError, match="exists and is not empty"):
        Actions(str(tmp_path / "bare"), str(tmp_path / "bare"), tmp_path / "bare").run()
