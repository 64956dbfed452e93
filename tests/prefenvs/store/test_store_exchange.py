"""Export and import: lossless, mergeable, and strict about what comes in."""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Segment
from prefenvs.store import Call, Event, Imported, Store, add_calls, export_store, import_store, list_calls, sum_calls
from prefenvs.store.events import LATEST
from prefenvs.store.schema import tables

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=6)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.floats(0, LATEST)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | NUMBERS | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def contents(store: Store) -> dict[str, list[Any]]:
    """Every table of a store, row by row; numbers that only order rows are left out."""
    found = {}
    with store.engine.connect() as connection:
        for table in tables.sorted_tables:
            columns = [column for column in table.c if column.name != "seq"]
            order = [table.c.seq] if "seq" in table.c else list(table.primary_key)
            rows = connection.execute(sa.select(*columns).order_by(*order)).all()
            found[table.name] = [tuple(row) for row in rows if row[0] != "created"]
    return found


@st.composite
def segments(draw: st.DrawFn, task: str) -> Segment:
    def array(*shape: int) -> np.ndarray[Any, Any]:
        dtype = draw(st.sampled_from(["<f4", "<f8", ">f4", "u1", "<i8", "?"]))
        return draw(hnp.arrays(dtype, shape))

    steps, width = draw(st.integers(0, 3)), draw(st.integers(0, 3))
    return Segment(
        observations=array(steps, width, 2),
        actions=array(steps, width),
        true_rewards=draw(st.none() | hnp.arrays("<f8", steps)),
        states=array(steps, 2) if draw(st.booleans()) else None,
        scene=array(3) if draw(st.booleans()) else None,
        task=task,
        source=draw(TEXT),
        episode=draw(st.integers(-1, 2**40)),
        start=draw(st.integers(-1, 2**40)),
    )


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[tuple[Query, str, float, str]], list[Event]]:
    """Requests (query, run, priority, policy), and events about these queries."""
    task = draw(TEXT)
    pool = draw(st.lists(segments(task), min_size=1, max_size=4))
    chosen = st.lists(st.sampled_from(pool), min_size=2, max_size=3).map(lambda picked: Query(tuple(picked)))
    asked = draw(st.lists(st.tuples(chosen, TEXT, NUMBERS, TEXT), min_size=1, max_size=4))
    events: list[Event] = []
    for _ in range(draw(st.integers(0, 5))):
        query = draw(st.sampled_from(asked))[0]
        about: dict[str, Any] = {
            "query": query.id,
            "id": str(draw(st.uuids())),
            "time": draw(TIMES),
            "seconds": draw(st.none() | TIMES),
            "shown": draw(st.none() | st.permutations(range(len(query.segments)))),
            "extra": draw(st.dictionaries(st.text(max_size=3), JSON, max_size=2)),
        }
        about |= {name: draw(TEXT) for name in ("run", "annotator", "oracle", "reason", "page")}
        kind = draw(st.sampled_from(["comparison", "skip", "undo", "rating"]))
        if kind == "comparison":
            weights = np.array(
                draw(st.lists(st.integers(1, 9), min_size=len(query.segments), max_size=len(query.segments)))
            )
            about["probabilities"] = tuple(weights / weights.sum())
        elif kind == "undo" and not events:
            kind = "skip"
        elif kind == "undo":
            about["target"] = draw(st.sampled_from(events)).id
        elif kind == "rating":
            about["segment"] = query.segments[0].hash
        events.append(Event(kind=kind, **about))
    return asked, events


def fill(store: Store, log: tuple[list[tuple[Query, str, float, str]], list[Event]]) -> None:
    for query, run, priority, policy in log[0]:
        store.add_queries([query], run=run, priority=priority, policy=policy)
    store.add_events(log[1])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(log=logs(), suffix=st.sampled_from(["", ".zip"]))
def test_export_and_import_make_an_equal_store(log: Any, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Store(folder / "one.sqlite") as one, Store(folder / "two.sqlite") as two:
            fill(one, log)
            export_store(one, folder / f"out{suffix}")
            new = import_store(two, folder / f"out{suffix}")
            assert contents(one) == contents(two)
            assert one.events_after() == two.events_after()
            assert new.events == len(log[1])
            assert import_store(two, folder / f"out{suffix}") == Imported(0, 0, 0)
            assert contents(one) == contents(two)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(TEXT, TEXT, st.none() | TEXT, st.integers(0, 2**40), NUMBERS), max_size=4, unique=True))
def test_calls_of_models_go_along_and_are_not_doubled(found: Any) -> None:
    made = [
        Call(f"{i:064}", run, f"{i:032}", "m", json.dumps(prompt), reply, "stop", tokens, 7, 0.25, 1.5, time)
        for i, (run, prompt, reply, tokens, time) in enumerate(found)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Store(folder / "one.sqlite") as one, Store(folder / "two.sqlite") as two:
            add_calls(one, made)
            add_calls(two, made[:1])
            for suffix, new in (("", max(len(made) - 1, 0)), (".zip", 0)):
                export_store(one, folder / f"out{suffix}")
                assert import_store(two, folder / f"out{suffix}") == Imported(0, 0, 0, new)
            assert sorted(map(repr, list_calls(two))) == sorted(map(repr, list_calls(one)))
            assert sum_calls(two, "") == sum_calls(one, "")


def test_an_export_from_before_there_were_calls_is_imported(tmp_path: Path) -> None:
    with Store(tmp_path / "one.sqlite") as one, Store(tmp_path / "two.sqlite") as two:
        fill(one, example(0))
        export_store(one, tmp_path / "out")
        (tmp_path / "out" / "calls.jsonl").unlink()
        about = json.loads((tmp_path / "out" / "meta.json").read_text())
        del about["counts"]["calls"]
        (tmp_path / "out" / "meta.json").write_text(json.dumps(about))
        assert import_store(two, tmp_path / "out").events == 3
        assert contents(one) == contents(two)


def example(seed: int, count: int = 3) -> tuple[list[tuple[Query, str, float, str]], list[Event]]:
    rng = np.random.default_rng(seed)

    def segment() -> Segment:
        return Segment(
            rng.random((4, 3), np.float32), rng.random((4, 2), np.float32), rng.random(4), task="t", source="s"
        )

    asked = [(Query((segment(), segment())), "r", float(index), "p") for index in range(count)]
    probabilities = [(1.0, 0.0), (0.5, 0.5), (0.1, 0.9)]
    events = [
        Event("comparison", query.id, run="r", probabilities=probabilities[index % 3], annotator="ana", shown=(1, 0))
        for index, (query, *_) in enumerate(asked[:-1])
    ]
    return asked, [*events, events[0].undone(reason="slip")]


def test_both_databases_read_the_same_export(location: str, tmp_path: Path) -> None:
    with Store(tmp_path / "first.sqlite") as first, Store(location) as second:
        fill(first, example(0))
        export_store(first, tmp_path / "out.zip")
        import_store(second, tmp_path / "out.zip")
        export_store(second, tmp_path / "back")
        assert contents(first) == contents(second)
    with Store(tmp_path / "third.sqlite") as third:
        import_store(third, tmp_path / "back")
        assert contents(second) == contents(third)


def test_stores_are_merged(tmp_path: Path) -> None:
    ours, theirs, common = example(1), example(2), example(3)
    with Store(tmp_path / "a.sqlite") as one, Store(tmp_path / "b.sqlite") as two:
        for store, log in ((one, ours), (two, theirs)):
            fill(store, log)
            fill(store, common)
        export_store(two, tmp_path / "two")
        assert import_store(one, tmp_path / "two") == Imported(6, 3, 3)
        stats = one.stats()
        assert (stats.queries, stats.events, stats.segments, stats.undone) == (9, 9, 18, 3)
        assert {event.id for log in (ours, theirs, common) for event in log[1]} == {e.id for e in one.events_after()}


def test_an_export_without_true_rewards_holds_none_and_they_can_follow(tmp_path: Path) -> None:
    with Store(tmp_path / "a.sqlite") as one, Store(tmp_path / "b.sqlite") as two:
        fill(one, example(1))
        export_store(one, tmp_path / "public", with_true_rewards=False)
        assert not any("reward" in path.name for path in (tmp_path / "public").iterdir())
        import_store(two, tmp_path / "public")
        assert two.stats().with_true_rewards == 0
        export_store(one, tmp_path / "private")
        import_store(two, tmp_path / "private")
        assert contents(one) == contents(two)


def test_segments_are_plain_arrays_for_numpy(tmp_path: Path) -> None:
    log = example(1)
    with Store(tmp_path / "a.sqlite") as store:
        fill(store, log)
        export_store(store, tmp_path / "out")
    arrays = np.load(tmp_path / "out" / "segments.npz")
    index = arrays["0/hash"].tolist().index(log[0][0][0].segments[1].hash.encode())
    np.testing.assert_array_equal(arrays["0/observations"][index], log[0][0][0].segments[1].observations)
    assert (str(arrays["0/task"]), arrays["0/observations"].shape) == ("t", (6, 4, 3))
    lines = [json.loads(line) for line in (tmp_path / "out" / "labels.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["comparison", "comparison", "undo"]


def test_many_groups_and_full_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("prefenvs.store.exchange.exporting._GROUP", 2)
    monkeypatch.setattr("prefenvs.store.rows.CHUNK", 2)
    with Store(tmp_path / "a.sqlite") as one, Store(tmp_path / "b.sqlite") as two:
        for steps in range(1, 4):
            pool = [Segment(np.full((steps, 1), value), np.zeros((steps, 1)), task="t") for value in range(5)]
            one.add_preferences([Preference(Query((piece, pool[0])), None) for piece in pool])
        export_store(one, tmp_path / "out")
        import_store(two, tmp_path / "out")
        assert contents(one) == contents(two)


def test_an_export_never_overwrites_and_leaves_nothing_behind_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "a.sqlite") as store:
        fill(store, example(1))
        for name in ("out", "out.zip"):
            export_store(store, tmp_path / name)
            with pytest.raises(PrefenvsError, match="exists already"):
                export_store(store, tmp_path / name)
        with pytest.raises(PrefenvsError, match="does not exist"):
            export_store(store, tmp_path / "no" / "out")
        before = sorted(path.name for path in tmp_path.iterdir())

        def fail(*_: object, **__: object) -> None:
            raise OSError("no space left")

        monkeypatch.setattr(np.lib.format, "write_array", fail)
        for name in ("new", "new.zip"):
            with pytest.raises(OSError, match="no space left"):
                export_store(store, tmp_path / name)
        assert sorted(path.name for path in tmp_path.iterdir()) == before


def edit_line(name: str, number: int, **changes: object) -> Any:
    def damage(folder: Path) -> None:
        lines = (folder / name).read_text().splitlines()
        lines[number - 1] = json.dumps(json.loads(lines[number - 1]) | changes)
        (folder / name).write_text("\n".join(lines) + "\n")

    return damage


def edit_meta(**changes: object) -> Any:
    return lambda folder: (folder / "meta.json").write_text(
        json.dumps(json.loads((folder / "meta.json").read_text()) | changes)
    )


def edit_arrays(name: str, **changes: Any) -> Any:
    def damage(folder: Path) -> None:
        arrays = dict(np.load(folder / name))
        for key, change in changes.items():
            arrays[f"0/{key}"] = change(arrays[f"0/{key}"])
        np.savez(folder / name, **{key: value for key, value in arrays.items() if value is not None})

    return damage


def cut(name: str, keep: float) -> Any:
    return lambda folder: (folder / name).write_bytes(
        (folder / name).read_bytes()[: int(keep * (folder / name).stat().st_size)]
    )


DAMAGE = [
    (lambda folder: (folder / "meta.json").unlink(), "no meta.json"),
    (lambda folder: (folder / "labels.jsonl").unlink(), "no labels.jsonl"),
    (lambda folder: (folder / "segments.npz").unlink(), "no segments.npz"),
    (cut("meta.json", 0.5), "meta.json of the export is malformed"),
    (edit_meta(format="other"), "meta.json .*'other'"),
    (edit_meta(counts={}), "meta.json"),
    (edit_meta(schema_version=7), "schema version 7, this prefenvs reads version 1"),
    (cut("labels.jsonl", 0.5), "labels.jsonl of the export is malformed: line 2"),
    (lambda folder: (folder / "labels.jsonl").write_text(""), "labels.jsonl .* 0 lines, expected 3"),
    (lambda folder: (folder / "labels.jsonl").write_bytes(b"\xff\xfe{}\n"), "labels.jsonl"),
    (lambda folder: (folder / "labels.jsonl").write_text("[1]\n"), "labels.jsonl .* line 1"),
    (edit_line("labels.jsonl", 2, probabilities=[0.9, 0.9]), "labels.jsonl .* line 2.* sum to 1"),
    (edit_line("labels.jsonl", 2, probabilities=1), "labels.jsonl .* line 2"),
    (edit_line("labels.jsonl", 2, time=10**400), "labels.jsonl .* line 2.*finite"),
    (edit_line("labels.jsonl", 1, colour="red"), "line 1.*colour"),
    (edit_line("labels.jsonl", 1, query="0" * 32), "does not hold"),
    (edit_line("labels.jsonl", 3, target=str(uuid.UUID(int=5))), "does not hold"),
    (edit_line("queries.jsonl", 1, id="0" * 32), "queries.jsonl .* line 1.*does not match"),
    (edit_line("queries.jsonl", 2, segments=["x", "y"]), "queries.jsonl .* line 2"),
    (edit_line("requests.jsonl", 3, query="0" * 32), "requests.jsonl .* line 3.*not in queries.jsonl"),
    (edit_line("requests.jsonl", 3, priority="high"), "requests.jsonl .* line 3.*finite"),
    (edit_line("requests.jsonl", 3, priority=10**400), "requests.jsonl .* line 3.*finite"),
    (cut("segments.npz", 0.6), "segments.npz"),
    (lambda folder: (folder / "segments.npz").write_text("text"), "segments.npz"),
    (edit_arrays("segments.npz", observations=lambda a: a + 1), "does not match its hash"),
    (edit_arrays("segments.npz", task=lambda a: np.array("u")), "does not match its hash"),
    (edit_arrays("segments.npz", actions=lambda a: a[:2]), "segments.npz"),
    (edit_arrays("segments.npz", actions=lambda a: None), "segments.npz"),
    (edit_arrays("segments.npz", source=lambda a: a.astype(object)), "segments.npz"),
    (edit_arrays("true_rewards.npz", hash=lambda a: a[::-1][:2]), "true_rewards.npz"),
    (edit_arrays("true_rewards.npz", hash=lambda a: np.array([b"0" * 64] * 6)), "not in segments.npz"),
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Store]]:
    """An export, and another store that must stay as it is."""
    folder = tmp_path_factory.mktemp("sound")
    with Store(folder / "a.sqlite") as one, Store(folder / "b.sqlite") as two:
        fill(one, example(1))
        fill(two, example(2))
        export_store(one, folder / "out")
        yield folder / "out", two


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_a_malformed_export_gets_one_line_and_stores_nothing(
    tmp_path: Path, sound: tuple[Path, Store], damage: Any, message: str
) -> None:
    export, store = sound
    before = contents(store)
    source = tmp_path / "out"
    shutil.copytree(export, source)
    damage(source)
    for path in (source, Path(shutil.make_archive(str(source), "zip", source))):
        with pytest.raises(PrefenvsError, match=message) as caught:
            import_store(store, path)
        assert "\n" not in str(caught.value)
        assert contents(store) == before


def test_a_source_that_is_no_export(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("no archive")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("../meta.json", "{}")
    with Store(tmp_path / "a.sqlite") as store:
        for name, message in (("no.zip", "no export at"), ("text.zip", "text.zip"), ("other.zip", "no meta.json")):
            with pytest.raises(PrefenvsError, match=message):
                import_store(store, tmp_path / name)


def test_an_import_that_contradicts_the_log_stores_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "a.sqlite") as one, Store(tmp_path / "b.sqlite") as two:
        fill(one, example(1))
        export_store(one, tmp_path / "out")
        import_store(two, tmp_path / "out")
        before = contents(two)
        edit_line("labels.jsonl", 1, probabilities=[0.0, 1.0])(tmp_path / "out")
        with pytest.raises(PrefenvsError, match="never overwritten"):
            import_store(two, tmp_path / "out")
        assert contents(two) == before
