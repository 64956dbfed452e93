"""Labels carried between tasks: the coupling's objective, its marginals, and labels of a task seen otherwise."""

import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest

from prefenvs import PrefenvsError, Preference, Query, Segment
from prefenvs.cli import main
from prefenvs.datasets.labels.transfer import couple, segment_distances, transfer_labels
from prefenvs.store import Store

from ....command_lines import refused
from ..recorded import write_robomimic


def clusters(count: int, mix: np.ndarray, seed: int) -> list[tuple[Query, bool]]:
    """Pairs of segments that lie in three clusters at unlike distances, seen through a matrix; the last is best."""
    rng, places = np.random.default_rng(seed), np.array([[0.0, 0.0], [1.0, 0.0], [4.0, 0.0]])
    kinds = rng.integers(3, size=2 * count)
    points = places[kinds] + 0.05 * rng.normal(size=(2 * count, 2))
    made = [Segment(np.tile(p @ mix, (3, 1)).astype(np.float32), np.zeros((3, 1), np.float32)) for p in points]
    pairs = [(2 * i, 2 * i + 1) for i in range(count) if kinds[2 * i] != kinds[2 * i + 1]]
    return [(Query((made[i], made[j])), bool(kinds[i] > kinds[j])) for i, j in pairs]


def test_labels_arrive_in_a_space_that_is_turned_and_has_more_dimensions() -> None:
    source = clusters(60, np.eye(2), 0)
    labels = [Preference(query, np.array([first, not first], float), "ann") for query, first in source]
    target = clusters(60, np.array([[0.0, -1.0, 1.0], [1.0, 0.0, 0.0]]), 1)
    found = transfer_labels(labels, [query for query, _ in target])
    right = [(one.probabilities[0] > 0.5) == first for one, (_, first) in zip(found, target, strict=True)]
    assert np.mean(right) > 0.9
    assert {one.annotator for one in found} == {"transfer"}
    flipped = [Preference(one.query, one.probabilities[::-1], "ann") for one in labels]
    turned = transfer_labels(flipped, [query for query, _ in target])
    assert np.allclose([one.probabilities[0] for one in found], [one.probabilities[1] for one in turned])


def test_the_coupling_has_uniform_marginals_and_beats_the_independent_one() -> None:
    rng = np.random.default_rng(0)
    points = rng.gamma(1.0, size=(12, 2))
    first = np.linalg.norm(points[:, None] - points, axis=2)
    first /= first.max()
    order = rng.permutation(12)
    second = first[np.ix_(order, order)]
    found = couple(first, second, 0.002)
    assert found.sum(0) == pytest.approx(np.full(12, 1 / 12), abs=1e-3)
    assert found.sum(1) == pytest.approx(np.full(12, 1 / 12), abs=1e-3)

    def objective(plan: np.ndarray) -> float:
        total = 0.0
        for i, k, j, m in np.ndindex(12, 12, 12, 12):
            total += (first[i, k] - second[j, m]) ** 2 * plan[i, j] * plan[k, m]
        return total

    assert objective(found) < 0.2 * objective(np.full((12, 12), 1 / 144))


def test_what_cannot_be_carried_is_refused() -> None:
    (query, _), *_ = clusters(10, np.eye(2), 0)
    tie = Preference(query, np.array([0.5, 0.5]))
    with pytest.raises(PrefenvsError, match="2 decided ones"):
        transfer_labels([tie, tie], [query])
    short = Segment(query.segments[0].observations[:1], query.segments[0].actions[:1])
    with pytest.raises(PrefenvsError, match=r"one length, got \[1, 3\]"):
        segment_distances([short, query.segments[1]])
    with pytest.raises(PrefenvsError, match="above 0, got 0"):
        couple(np.eye(2), np.eye(2), 0)


def test_the_command_fills_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "episodes"
    mix = ["--mix", "random=3", "--format", "npz", "--no-progress"]
    main(["collect", "Pendulum-v1", *mix, "--out", str(data)])
    source, made = tmp_path / "source.sqlite", tmp_path / "made.sqlite"
    with Store(source) as store:
        pairs = clusters(30, np.eye(2), 0)
        store.add_preferences([Preference(q, np.array([f, not f], float), "ann") for q, f in pairs], run="source")
    capsys.readouterr()
    options = ["--pairs", "12", "--segment-length", "5"]
    main(["labels", "transfer", str(source), "--dataset", str(data), "--store", str(made), *options])
    assert "labels became 12 of Pendulum-v1" in capsys.readouterr().out
    with Store(made, create=False) as store:
        assert len(store.preferences()) == 12


@pytest.mark.parametrize("command", ["transfer", "report"])
def test_damaged_episodes_may_be_left_out_as_the_error_says(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, source, folder = write_robomimic(tmp_path / "lift.hdf5"), str(tmp_path / "source.sqlite"), tmp_path / "labels"
    with h5py.File(data, "a") as file:
        file["data/demo_1/actions"][0] = np.nan
    with Store(source) as store:
        pairs = clusters(30, np.eye(2), 0)
        store.add_preferences([Preference(q, np.array([f, not f], float), "ann") for q, f in pairs], run="source")
    folder.mkdir()
    for name, rows in (("indices_num2_q4", [0, 1]), ("indices_2_num2_q4", [6, 7]), ("label_human", [0, 1])):
        (folder / name).write_bytes(pickle.dumps(rows))
    made = ["--store", str(tmp_path / "made.sqlite"), "--pairs", "4", "--segment-length", "4"]
    words = ["labels", command, *([source, *made] if command == "transfer" else [str(folder)]), "--dataset", str(data)]
    assert "demo_1" in (said := refused(capsys, *words))
    assert "--skip-damaged" in said
    with pytest.warns(UserWarning, match="1 of 3 episodes of .*lift.hdf5 are left out"):
        main([*words, "--skip-damaged"])
