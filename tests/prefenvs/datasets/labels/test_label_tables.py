"""Labels from elsewhere and for elsewhere: CSV, JSON lines, Parquet, Label Studio's exports, Hugging Face folders."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from prefenvs.cli import main
from prefenvs.datasets import OfflineDataset, load_dataset, read_label_table, write_label_table, write_npz
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.store import Event, Store
from prefenvs.trajectories import Trajectories

from ....command_lines import refused

LENGTHS = (12, 5, 9)
HEADER = "episode_1,start_1,episode_2,start_2,choice,annotator,time\n"


def make_dataset(seed: int = 0, task: str = "") -> OfflineDataset:
    rng = np.random.default_rng(seed)
    steps = sum(LENGTHS)
    observations = rng.standard_normal((steps, 3)).astype(np.float32)
    actions = rng.uniform(-1, 1, (steps, 2)).astype(np.float32)
    return OfflineDataset("x", Trajectories(observations, actions, np.cumsum(LENGTHS), task=task, source="robot"))


DATA = make_dataset()


def read(tmp_path: Path, text: str, name: str = "labels.csv", **options: Any) -> Any:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_label_table(tmp_path / name, DATA, **{"length": 4, **options})


def places(preference: Preference) -> list[tuple[int, int, int]]:
    return [(segment.episode, segment.start, len(segment)) for segment in preference.query.segments]


@st.composite
def labels(draw: st.DrawFn) -> list[tuple[str, Preference]]:
    found = []
    names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8)
    for _ in range(draw(st.integers(1, 6))):
        segments = []
        for _ in range(2):
            episode = draw(st.integers(0, len(LENGTHS) - 1))
            length = draw(st.integers(1, LENGTHS[episode]))
            start = draw(st.integers(0, LENGTHS[episode] - length))
            segments.append(DATA.trajectories.cut(np.array([episode]), np.array([start]), length)[0])
        share = draw(st.none() | st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1))
        label = Preference(
            Query(tuple(segments)),
            None if share is None else np.array([share, 1.0 - share]),
            draw(st.just("") | names),
            draw(names),
            draw(st.floats(0, 1e10)),
            draw(st.none() | st.floats(0, 1e6)),
            draw(st.none() | st.sampled_from([(0, 1), (1, 0)])),
        )
        found.append((draw(names), label))
    return found


def content(label: Preference) -> tuple[Any, ...]:
    share = None if label.probabilities is None else label.probabilities.tolist()
    return label.query.id, share, label.annotator, label.oracle, label.time, label.seconds, label.shown


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl", "labels.parquet", "folder"])
@settings(deadline=None, max_examples=15)
@given(written=labels())
def test_what_is_written_is_read_again(name: str, written: list[tuple[str, Preference]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        assert write_label_table(written, path) == (len(written), 0)
        read = read_label_table(path, DATA)
        assert read.refused == ()
        assert read.runs == [run for run, _ in written]
        assert [content(label) for label in read.preferences] == [content(label) for _, label in written]


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.parquet", "folder"])
def test_segments_travel_with_their_labels(name: str, tmp_path: Path) -> None:
    segments = DATA.trajectories.sample(6, 4, np.random.default_rng(0))
    written = [
        ("r", Preference(Query((segments[i], segments[i + 3])), np.array([1.0, 0.0]), "ana", "h", 5.0))
        for i in range(3)
    ]
    write_label_table(written, tmp_path / name, arrays=True)
    read = read_label_table(tmp_path / name)
    assert [content(label) for label in read.preferences] == [content(label) for _, label in written]
    assert read.preferences[0].query.segments[0].source == "robot"


def test_a_folder_is_a_hugging_face_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    segments = DATA.trajectories.sample(4, 4, np.random.default_rng(0))
    written = [
        ("r", Preference(Query((segments[0], segments[1])), np.array([0.25, 0.75]), "ana", "human", 5.0)),
        ("r", Preference(Query((segments[2], segments[3])), None, "bo", "human", 6.0)),
    ]
    for arrays in (False, True):
        folder = tmp_path / f"labels-{arrays}"
        write_label_table(written, folder, arrays=arrays)
        found = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"), split="train")
        assert found["choice"] == ["second", "skip"]
        assert found["probability_1"] == [0.25, None]
        assert ("observations_1" in found.column_names) == arrays
        if arrays:
            np.testing.assert_array_equal(found[0]["observations_1"], segments[0].observations)
        card = datasets.load_dataset_builder(str(folder), cache_dir=str(tmp_path / "cache")).info
        assert card.splits["train"].num_examples == 2
        assert set(card.features) == set(found.column_names)


def test_a_csv_of_ones_own(tmp_path: Path) -> None:
    rows = [
        "0,0,1,1,left,ana,2025-01-31T12:00:00Z",
        "0,2,2,5,B,ana,1738324800",
        "1,0,0,8,tie,bo,2025-01-31 12:00:00",
        "0,0,2,0,skip,bo,",
    ]
    table = read(tmp_path, HEADER + "\n".join(rows) + "\n\n")
    assert [places(one) for one in table.preferences][:2] == [[(0, 0, 4), (1, 1, 4)], [(0, 2, 4), (2, 5, 4)]]
    shares = [None if one.probabilities is None else one.probabilities.tolist() for one in table.preferences]
    assert shares == [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], None]
    assert [one.time for one in table.preferences[:3]] == [1738324800.0] * 3
    assert [one.annotator for one in table.preferences] == ["ana", "ana", "bo", "bo"]
    report = "\n".join(table.report())
    assert "4 rows, 4 labels, 0 rows refused" in report
    assert "1 first, 1 second, 1 ties, 1 skips" in report
    assert "ana 2, bo 2" in report


def test_rows_that_are_no_label_are_told_with_their_lines(tmp_path: Path) -> None:
    bad = {
        "9,0,1,1,left,ana,": "there is no episode 9: 'x' has 3, numbered 0 to 2",
        "0,0,1,3,left,ana,": "segment 2 takes 4 steps from step 3, but episode 1 has 5",
        "0,-1,1,0,left,ana,": "segment 1 takes 4 steps from step -1",
        "0,0.5,1,0,left,ana,": "start_1 is '0.5', no whole number",
        "0,,1,0,left,ana,": "there is no start_1",
        "0,x,1,0,left,ana,": "start_1 is 'x', no number",
        "0,0,1,0,better,ana,": "the choice 'better' is unknown: say what it means by --choices better=first",
        "0,0,1,0,,ana,": "neither a choice nor a probability",
        "0,0,1,0,left,ana,yesterday": "time is 'yesterday'",
        "0,0,1,0,left,ana,1738324800000": "not milliseconds",
    }
    good = "0,0,1,0,left,ana,5\n"
    table = read(tmp_path, HEADER + good + "\n".join(bad) + "\n" + good)
    assert [place for place, _ in table.refused] == [f"line {number}" for number in range(3, 3 + len(bad))]
    for (_, reason), expected in zip(table.refused, bad.values(), strict=True):
        assert expected in reason
    assert len(table.preferences) == 2
    assert any(line.startswith("refused: line 3: there is no episode 9") for line in table.report())
    with pytest.raises(PrefenvsError, match="line 3 is refused, as 9 others are"):
        table.check()


def test_episodes_are_named_by_their_numbers_not_by_their_places(tmp_path: Path) -> None:
    kept = replace(DATA.trajectories, numbers=np.array([0, 2, 5]))
    (tmp_path / "labels.csv").write_text(HEADER + "2,0,5,1,left,ana,5\n1,0,0,0,left,ana,5\n")
    table = read_label_table(tmp_path / "labels.csv", replace(DATA, trajectories=kept), length=4)
    assert [places(one) for one in table.preferences] == [[(2, 0, 4), (5, 1, 4)]]
    first = table.preferences[0].query.segments[0]
    np.testing.assert_array_equal(first.observations, DATA.trajectories.observations[12:16])
    assert table.refused == (("line 3", "there is no episode 1: 'x' has 3, numbered 0 to 5"),)


@pytest.mark.parametrize(
    ("numbers", "given", "shares"),
    [
        ("0 1 0.5", {}, [1.0, 0.0, 0.5]),
        ("1 2 -1", {}, [1.0, 0.0, 0.5]),
        ("0 1", {"1": "first", "0": "second"}, [0.0, 1.0]),
        ("0 1 2", {"0": "tie", "1": "first", "2": "second"}, [0.5, 1.0, 0.0]),
        ("won lost", {"WON": "first", "lost": "second"}, [1.0, 0.0]),
    ],
)
def test_numbers_as_choices(numbers: str, given: dict[str, str], shares: list[float], tmp_path: Path) -> None:
    text = HEADER + "".join(f"0,0,1,1,{number},ana,5\n" for number in numbers.split())
    table = read(tmp_path, text, choices=given)
    assert [one.probabilities[0] for one in table.preferences] == shares
    if not given:
        assert "is first" in "\n".join(table.report())


@pytest.mark.parametrize("numbers", ["1", "0 1 2"])
def test_numbers_that_may_mean_either_are_refused(numbers: str, tmp_path: Path) -> None:
    text = HEADER + "".join(f"0,0,1,1,{number},ana,5\n" for number in numbers.split())
    with pytest.raises(PrefenvsError, match="--choices 1=first 2=second"):
        read(tmp_path, text)


def test_probabilities(tmp_path: Path) -> None:
    header = "episode_1;start_1;episode_2;start_2;probability_1;choice\n"
    rows = ["0;0;1;1;0.75;", "0;0;1;1;0.75;left", "0;0;1;1;0.75;right", "0;0;1;1;1.5;", "0;0;1;1;nan;"]
    table = read(tmp_path, header + "\n".join(rows))
    assert [one.probabilities.tolist() for one in table.preferences] == [[0.75, 0.25]] * 2
    reasons = [reason for _, reason in table.refused]
    assert "contradict each other" in reasons[0]
    assert "no shares of 1" in reasons[1]
    assert "no number" in reasons[2]


def test_a_probability_says_of_which_segment_it_is(tmp_path: Path) -> None:
    text = "episode_1,start_1,episode_2,start_2,probability\n0,0,1,1,0.75\n"
    with pytest.raises(PrefenvsError, match="probability_2=probability the second's"):
        read(tmp_path, text)
    for column, shares in (("probability_1", [0.75, 0.25]), ("probability_2", [0.25, 0.75])):
        table = read(tmp_path, text, columns={column: "probability"})
        assert [one.probabilities.tolist() for one in table.preferences] == [shares]


def test_duplicates_are_counted_and_kept(tmp_path: Path) -> None:
    rows = ["0,0,1,1,left,ana,1", "0,0,1,1,left,ana,2", "1,1,0,0,left,ana,3", "0,0,1,1,left,bo,4"]
    table = read(tmp_path, HEADER + "\n".join(rows))
    assert len(table.preferences) == 4
    assert (table.repeated, table.contradicted) == (2, 1)


def test_other_names_of_columns_and_a_map_of_ids(tmp_path: Path) -> None:
    (tmp_path / "clips.csv").write_text("id,episode,start,length\nclip-a,0,1,3\nclip-b,2,0,5\n")
    text = '{"one": "clip-a", "two": "clip-b", "better": "second"}\n{"one": "clip-a", "two": "clip-c", "better": "a"}\n'
    columns = {"segment_1": "one", "segment_2": "two", "choice": "better"}
    table = read(tmp_path, text, "labels.jsonl", columns=columns, segments=tmp_path / "clips.csv")
    assert [places(one) for one in table.preferences] == [[(0, 1, 3), (2, 0, 5)]]
    assert table.refused == (("line 2", "the table of segments has no id 'clip-c'"),)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    with pytest.raises(PrefenvsError, match=r"choice, a probability_1.*has the columns episode_1, winner"):
        read(tmp_path, "episode_1,winner\n0,left\n")
    with pytest.raises(PrefenvsError, match="two segments by episode_1, start_1"):
        read(tmp_path, "episode_1,choice\n0,left\n")
    with pytest.raises(PrefenvsError, match="has no column 'victor'"):
        read(tmp_path, HEADER + "0,0,1,1,left,ana,5\n", columns={"choice": "victor"})
    with pytest.raises(PrefenvsError, match=r"no column 'choise' of labels.*Did you mean choice"):
        read(tmp_path, HEADER + "0,0,1,1,left,ana,5\n", columns={"choise": "annotator"})
    with pytest.raises(PrefenvsError, match="--dataset"):
        read_label_table(tmp_path / "labels.csv")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("labels.csv", b"\xff\xfe\x00", "no text in UTF-8"),
        ("labels.csv", b"", "holds no row"),
        ("labels.csv", b"a,b\n1,2,3\n", "line 2: 3 cells, but the header has 2"),
        ("labels.csv", b'a,b\n"1,2\n', "line 2"),
        ("labels.jsonl", b"{]\n", "line 1 is no JSON"),
        ("labels.jsonl", b"[1]\n", "expected an object"),
        ("labels.json", b"{}", "a list of objects"),
        ("labels.parquet", b"PAR1", "no Parquet file"),
        ("labels.npz", b"PK", "cannot be read"),
        ("labels.xlsx", b"", "no label file"),
    ],
)
def test_damaged_files_are_told_in_one_line(name: str, text: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(PrefenvsError, match=message) as error:
        read_label_table(tmp_path / name, DATA)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl", "labels.json", "labels.parquet", "folder"])
def test_a_table_that_would_fill_the_memory_is_refused(name: str, tmp_path: Path) -> None:
    """Also one of equal rows, which Parquet keeps in a few bytes."""
    rows, path = 10_000, tmp_path / name
    cells = dict(zip(HEADER.strip().split(","), (0, 0, 1, 1, "left", "ana", 5), strict=True))
    if path.suffix == ".csv":
        path.write_text(HEADER + rows * "0,0,1,1,left,ana,5\n")
    elif path.suffix == ".jsonl":
        path.write_text(rows * (json.dumps(cells) + "\n"))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows * [cells]))
    else:
        file = path if path.suffix else path / "one.parquet"
        file.parent.mkdir(exist_ok=True)
        parquet.write_table(pyarrow.table({column: rows * [value] for column, value in cells.items()}), file)
    with pytest.raises(PrefenvsError, match=rf"{name} asks for .* GiB of memory.*--max-gib"):
        read_label_table(path, DATA, length=4, max_gib=0.001)
    assert read_label_table(path, DATA, length=4, max_gib=1).rows == rows


def test_labels_of_other_data_are_refused_by_their_checksums(tmp_path: Path) -> None:
    segments = DATA.trajectories.sample(2, 4, np.random.default_rng(0))
    label = Preference(Query((segments[0], segments[1])), np.array([1.0, 0.0]), "ana", "human", 5.0)
    write_label_table([("r", label)], tmp_path / "labels.csv")
    table = read_label_table(tmp_path / "labels.csv", make_dataset(seed=1))
    assert "another one than was labelled" in table.refused[0][1]


def annotation(selected: str | None, person: Any, **more: Any) -> dict[str, Any]:
    value = {"id": "x", "type": "pairwise", "from_name": "pw", "to_name": "a,b", "value": {"selected": selected}}
    result = [] if selected is None else [value]
    return {
        "completed_by": person,
        "created_at": "2025-01-31T12:00:00.500000Z",
        "lead_time": 7.5,
        "result": result,
    } | more


def test_an_export_of_label_studio(tmp_path: Path) -> None:
    data = {"video_1": "/data/a.mp4", "video_2": "/data/b.mp4"}
    answers = [
        annotation("left", 1),
        annotation("right", {"id": 2, "email": "bo@example.org"}),
        annotation(None, 3),
        annotation("left", 4, was_cancelled=True),
        annotation(None, 5, result=[{"type": "choices", "value": {"choices": ["Tie"]}}]),
    ]
    answers[1]["result"].insert(0, {"type": "choices", "value": {"choices": ["a good clip"]}})
    task = {"id": 7, "data": data, "annotations": answers, "predictions": [annotation("left", 9)]}
    (tmp_path / "clips.csv").write_text("id,episode,start\n/data/a.mp4,0,0\n/data/b.mp4,2,1\n")
    columns = {"segment_1": "video_1", "segment_2": "video_2"}
    options = {"columns": columns, "segments": tmp_path / "clips.csv"}
    table = read(tmp_path, json.dumps([task]), "export.json", **options)
    assert table.refused == ()
    assert [one.best for one in table.preferences] == [0, 1, None, None, None]
    assert [one.skipped for one in table.preferences] == [False, False, True, True, False]
    assert [one.annotator for one in table.preferences] == ["1", "bo@example.org", "3", "4", "5"]
    assert (table.preferences[0].time, table.preferences[0].seconds) == (1738324800.5, 7.5)
    assert places(table.preferences[0]) == [(0, 0, 4), (2, 1, 4)]
    # Its minimal JSON and its CSV have a column of the tag's name instead.
    flat = [data | {"pw": {"selected": "right"}, "annotator": 1, "created_at": "2025-01-31T12:00:00Z"}]
    for name, text in (
        ("min.json", json.dumps(flat)),
        ("min.csv", 'video_1,video_2,pw,annotator\n/data/a.mp4,/data/b.mp4,"{""selected"": ""right""}",1\n'),
    ):
        table = read(tmp_path, text, name, **options | {"columns": columns | {"choice": "pw"}})
        assert [one.best for one in table.preferences] == [1], name


def test_labelled_segments_of_an_npz(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    observations, actions = rng.random((2, 3, 4, 2)), rng.random((2, 3, 4, 1))
    np.savez(
        tmp_path / "labels.npz",
        obs_1=observations[0], obs_2=observations[1], action_1=actions[0], action_2=actions[1],
        label=np.array([0.0, 1.0, 0.5]), reward_1=np.zeros((3, 4)),
    )  # fmt: skip
    table = read_label_table(tmp_path / "labels.npz", task="Hopper-v5")
    assert [one.probabilities[0] for one in table.preferences] == [1.0, 0.0, 0.5]
    assert table.preferences[1].query.segments[1].task == "Hopper-v5"
    np.testing.assert_allclose(table.preferences[1].query.segments[1].observations, observations[1, 1], rtol=1e-6)


def test_from_a_csv_to_a_store_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, store = str(write_npz(DATA, tmp_path / "data")), str(tmp_path / "labels.sqlite")
    source = tmp_path / "mine.csv"
    source.write_text(HEADER + "0,0,1,1,left,ana,5\n0,0,9,1,left,ana,5\n0,1,2,2,right,bo,6\n")
    line = ["labels", "import", str(source), "--dataset", data, "--segment-length", "4"]
    assert "--dry-run" in refused(capsys, *line)
    main([*line, "--dry-run", "--store", store])
    printed = capsys.readouterr().out
    assert "refused: line 3: there is no episode 9" in printed
    assert "nothing was written" in printed
    assert not Path(store).exists()
    for _ in range(2):
        main([*line, "--store", store])
    with Store(store, create=False) as opened:
        assert [one.annotator for one in opened.preferences(run="mine")] == ["ana", "bo"]
        assert len(opened.events_after()) == 2
    main(["labels", "export", store, str(tmp_path / "out.parquet")])
    assert "2 labels" in capsys.readouterr().out
    main(["labels", "import", str(tmp_path / "out.parquet"), "--dataset", data, "--out", str(tmp_path / "again.csv")])
    again = read_label_table(tmp_path / "again.csv", load_dataset(data))
    assert (again.runs, len(again.preferences)) == (["mine", "mine"], 2)
    assert "exists already" in refused(capsys, "labels", "export", store, str(tmp_path / "out.parquet"))
    assert "give .csv, .jsonl, .parquet" in refused(capsys, "labels", "export", store, str(tmp_path / "out.txt"))
    assert "no label of run 'x'" in refused(
        capsys, "labels", "export", store, str(tmp_path / "x.csv"), "--task-run", "x"
    )
    assert "does not go with a label table" in refused(capsys, *line, "--dry-run", "--rows", "raw")
    assert "is no pair" in refused(capsys, *line, "--dry-run", "--columns", "choice")
    assert "choose one of first" in refused(capsys, *line, "--dry-run", "--choices", "left=best")


def test_people_without_a_name_may_say_the_same(tmp_path: Path) -> None:
    """Three to one is not one to one, however often the file is imported."""
    data, store = str(write_npz(DATA, tmp_path / "data")), str(tmp_path / "labels.sqlite")
    header = "episode_1,start_1,episode_2,start_2,choice\n"
    (tmp_path / "mine.csv").write_text(header + 3 * "0,0,1,1,left\n" + "0,0,1,1,right\n")
    for _ in range(2):
        main(
            [
                "labels",
                "import",
                str(tmp_path / "mine.csv"),
                "--dataset",
                data,
                "--segment-length",
                "4",
                "--store",
                store,
            ]
        )
        with Store(store, create=False) as opened:
            assert [one.best for one in opened.preferences()] == [0, 0, 0, 1]
            assert len(opened.events_after()) == 4


def test_lists_of_more_segments_fit_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segments = DATA.trajectories.sample(3, 4, np.random.default_rng(0))
    with Store(tmp_path / "labels.sqlite") as store:
        pair, three = Query((segments[0], segments[1])), Query(tuple(segments))
        store.add_preferences([Preference(pair, np.array([1.0, 0.0])), Preference(three, np.array([1.0, 0.0, 0.0]))])
        store.add_events([Event("rating", segment=segments[0].hash, annotator="ana", extra={"rating": 4})])
    main(["labels", "export", str(tmp_path / "labels.sqlite"), str(tmp_path / "out.csv")])
    printed = capsys.readouterr().out
    assert "left out: 1 about more than two segments" in printed
    assert "left out: 1 ratings of single clips" in printed
    assert "is a table of labels" in refused(capsys, "labels", "report", str(tmp_path / "out.csv"))
