"""`prefenvs ask`: a store is filled with questions about a data set, and the labelling page hands them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from prefenvs.agents import RewardEnsemble
from prefenvs.cli import main
from prefenvs.datasets import load_dataset, read_label_table
from prefenvs.preferences import Query, make_pairs
from prefenvs.store import AssignmentPlan, Assignments, Store

TASK = "InvertedPendulum-v5"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data") / "random"
    main(["collect", TASK, "--mix", "random=30", "--out", str(folder), "--format", "npz", "--no-progress"])
    return str(folder)


def first_pairs(pool, count, length, reward_model, labelled, rng):  # type: ignore[no-untyped-def]
    """A selector of one's own: always the same pairs."""
    return make_pairs(pool.sample(2 * count, length, np.random.default_rng(5)))


def pairs(store: Store) -> list[frozenset[str]]:
    return [frozenset(segment.hash for segment in query.segments) for query in store.pending_queries()]


def test_the_page_hands_out_what_was_asked(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    location = str(tmp_path / "my labels.sqlite")
    line = ["ask", data, "--store", location, "--count", "8", "--segment-length", "4"]
    main(line)
    printed = capsys.readouterr().out
    assert "8 questions about 4 steps each are new" in printed
    assert f"prefenvs label --store '{location}'" in printed
    main(line)
    assert "16 wait" in capsys.readouterr().out
    with Store(location, create=False) as store:
        assert len(set(pairs(store))) == 16
        assert store.pending_runs() == [f"ask {data}"]
        assert all(segment.states is not None for query in store.pending_queries() for segment in query.segments)
        assert store.pending_queries()[0].segments[0].source == Path(data).name
        desk = Assignments(store, AssignmentPlan())
        assert desk.count_open() == 16
        (assignment,) = desk.lease("ana", 1)
        assert assignment.run == f"ask {data}"


@pytest.mark.parametrize("selector", ["k-center", "disagreement", f"{__name__}:first_pairs"])
def test_any_selector_chooses(selector: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    selector = selector.replace(__name__, Path(__file__).stem)
    location, model = str(tmp_path / "labels.sqlite"), tmp_path / "reward.pt"
    RewardEnsemble(4, 1, seed=0, device="cpu").save(model)
    line = ["ask", data, "--store", location, "--count", "6", "--segment-length", "3", "--task-run", "mine"]
    for _ in range(2):
        main([*line, "--selector", selector, "--reward-model", str(model)])
    with Store(location, create=False) as store:
        # Of the same pairs again none is new.
        assert len(set(pairs(store))) == store.count_pending("mine") == (6 if "first_pairs" in selector else 12)


def test_bad_input_is_one_line_and_makes_no_store(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Not above: the command imports this file by its bare name, for `first_pairs`.
    from ..command_lines import refused

    def fail(*words: str) -> str:
        return refused(capsys, "ask", *words, "--store", str(tmp_path / "labels.sqlite"))

    assert "unknown query selector 'nearest'" in fail(data, "--selector", "nearest")
    assert "asks a reward model's opinion" in fail(data, "--selector", "disagreement", "--segment-length", "3")
    assert "keeps no reward model" in fail(data, "--reward-model", str(tmp_path))
    assert "a query needs 2 segments of 900 steps" in fail(data, "--segment-length", "900")
    assert not list(tmp_path.iterdir())


def test_a_label_table_is_learned_from(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    trajectories = load_dataset(data).trajectories
    rows = []
    for query in make_pairs(trajectories.sample(24, 3, rng)):
        assert isinstance(query, Query)
        first, second = query.segments
        rows.append(
            f"{first.episode},{first.start},{second.episode},{second.start},{'left' if rng.random() < 0.5 else 'b'}"
        )
    table = tmp_path / "labels.csv"
    table.write_text("episode_1,start_1,episode_2,start_2,choice\n" + "\n".join(rows))
    assert len(read_label_table(table, load_dataset(data), length=3).preferences) == 12
    line = ["train", "cpl", "--dataset", data, "--preferences", str(table), "--preset", "small", "--steps", "20"]
    line += ["--segment-length", "3", "--evaluate-every", "20", "--episodes", "1", "--no-progress"]
    main([*line, "--folder", str(tmp_path / "run")])
    assert "labels: 12" in capsys.readouterr().out
    table.write_text(table.read_text() + "\n99,0,0,0,left\n")
    with pytest.raises(SystemExit):
        main([*line, "--folder", str(tmp_path / "other")])
    assert "line 14 is refused: there is no episode 99" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
