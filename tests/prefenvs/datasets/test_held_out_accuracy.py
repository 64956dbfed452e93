"""`prefenvs labels accuracy`: folds share no episode and no step, and what people said is predicted or not."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from prefenvs.cli import main
from prefenvs.datasets.holdout import fold_pairs, sources_of
from prefenvs.datasets.labels.files import find_labels
from prefenvs.errors import PrefenvsError
from prefenvs.internal.csv_tables import read_table
from prefenvs.metrics.folds import COLUMNS, fold_table
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Segment

REAL = Path(os.environ.get("PREFENVS_REAL_DATA", Path(__file__).parents[4] / "shared" / "data" / "real"))
real_files = pytest.mark.skipif(
    not REAL.is_dir(), reason="real data are not here: name their folder in PREFENVS_REAL_DATA"
)


def segment(first: int, episode: int = -1, steps: int = 3) -> Segment:
    rows = np.arange(first, first + steps, dtype=np.float32)[:, None]
    return Segment(rows, rows, source="made", episode=episode)


def test_pairs_that_share_an_episode_or_a_step_are_held_out_together() -> None:
    known = sources_of([Query((segment(0, 1), segment(9, 2))), Query((segment(30, 2), segment(40, 3)))])
    assert known == [{("made", 1), ("made", 2)}, {("made", 2), ("made", 3)}]
    unknown = sources_of([Query((segment(a), segment(b))) for a, b in ((0, 100), (200, 300), (102, 400), (402, 500))])
    assert unknown[0] == unknown[2] == unknown[3] != unknown[1]


def test_every_pair_is_held_out_once_at_most_and_never_with_its_sources() -> None:
    rng = np.random.default_rng(0)
    sources = [frozenset(rng.integers(20, size=2).tolist()) for _ in range(200)]
    folds = fold_pairs(sources, 5, seed=3)
    assert sum(held.astype(int) for _, held in folds).max() == 1
    for train, held in folds:
        used, tested = ({one for i in np.flatnonzero(side) for one in sources[i]} for side in (train, held))
        assert tested
        assert not used & tested
    with pytest.raises(PrefenvsError, match="of 2 separate episodes, too few for 5 folds: choose 2 to 2"):
        fold_pairs([frozenset((1, 2))], 5)


class Right:
    """A reward of one's own that needs no label."""

    def __init__(self, observation_size: int, action_size: int, seed: int) -> None: ...

    def predict(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return observations[None, :, 0]

    def fit(self, preferences: list[Preference]) -> dict[str, float]:
        return {}

    def save(self, path: Path) -> None: ...

    @classmethod
    def load(cls, path: Path) -> Right:
        return cls(3, 1, 0)


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    """Labels that follow the first observation, in the form of published segments."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(2, 60, 5, 3)).astype(np.float32)
    better = (seen[1, :, :, 0].sum(1) > seen[0, :, :, 0].sum(1)).astype(np.float32)
    arrays = {"obs_1": seen[0], "obs_2": seen[1], "action_1": seen[0] * 0, "action_2": seen[1] * 0, "label": better}
    np.savez(tmp_path / "made.npz", **arrays)
    return tmp_path / "made.npz"


def test_a_model_predicts_answers_that_it_was_not_fitted_to(answers: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "accuracy.csv"
    words = ["labels", "accuracy", str(answers), "--folds", "3", "--models", "ensemble", "return", "--out", str(out)]
    main(words)
    rows = read_table(out, COLUMNS)
    assert [row[:5] for row in rows] == [["made", "ensemble", "drop", "0", str(fold)] for fold in range(3)]
    assert sum(float(row[6]) for row in rows) == 60
    assert sum(float(row[7]) for row in rows) > 42
    before = out.stat().st_mtime_ns
    main(words)
    assert out.stat().st_mtime_ns == before  # nothing is measured twice
    assert "| made | reward ensemble | 1 | 40 | 60 |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*words[:4], "2", *words[5:]])
    assert "accuracy.csv holds other folds of 'made', as by other --folds" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words[:-4], "image", "--out", str(out)])
    assert "'image' cannot be used here: choose return, ensemble" in capsys.readouterr().err
    main([*words[:-4], f"{__name__}:Right", "--out", str(out)])
    assert f"| made | {__name__}:Right | 1 | 40 | 60 | 100.0%" in capsys.readouterr().out
    store = tmp_path / "kept.sqlite"
    main(["labels", "import", str(answers), "--store", str(store)])
    main(["labels", "accuracy", str(store), *words[3:5], "--models", "ensemble", "--out", str(out)])
    assert "| kept | reward ensemble | 1 | 40 | 60 |" in capsys.readouterr().out


def test_the_table_adds_folds_up() -> None:
    row = ["pen", "return", "drop", "0", "0", "0", "10", "7", "abc"]
    assert len(row) == len(COLUMNS)
    text = fold_table([row, [*row[:4], "1", "0", "20", "8", "abc"]], {"pen": "a pen"})
    assert "| a pen | true return | 1 | 0 | 30 | 50.0% | 33% to 67% |" in text
    assert "pen" not in fold_table([row, ["door", *row[1:]]], {"door": ""}).replace("| open", "")
    with pytest.raises(PrefenvsError, match="no accuracy on the labels 'dor': there is one on pen"):
        fold_table([row], {"dor": ""})


def test_published_labels_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFENVS_HUMAN_LABELS", raising=False)
    with pytest.raises(
        PrefenvsError, match="no labels uni-rlhf/door: name the folder that holds them in PREFENVS_HUMAN"
    ):
        find_labels("uni-rlhf/door")
    monkeypatch.setenv("PREFENVS_HUMAN_LABELS", str(tmp_path))
    folder = tmp_path / "some" / "door_human_labels"
    folder.mkdir(parents=True)
    assert find_labels("uni-rlhf/door") == folder
    with pytest.raises(PrefenvsError, match="no labels uni-rlhf-script/door: PREFENVS_HUMAN_LABELS names"):
        find_labels("uni-rlhf-script/door")
    assert find_labels("data/labels.sqlite") == Path("data/labels.sqlite")


@real_files
def test_people_s_answers_on_the_door_agree_with_the_return(tmp_path: Path, capsys) -> None:
    door = REAL / "d4rl" / "door-human-v1.hdf5"
    words = ["labels", "accuracy", str(REAL / "labels_uni_rlhf" / "door-human-v1_human_labels"), "--dataset", str(door)]
    main([*words, "--models", "return", "--out", str(tmp_path / "accuracy.csv")])
    rows = read_table(tmp_path / "accuracy.csv", COLUMNS)
    held, hits = (sum(float(row[at]) for row in rows) for at in (6, 7))
    assert held > 150
    assert 0.85 < hits / held < 0.97
