from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from prefenvs.agreement import bootstrap_agreement, krippendorff_alpha, measure_agreement, summarise
from prefenvs.cli import main
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query, make_pairs
from prefenvs.segments import SegmentBatch
from prefenvs.store import GOLD, TUTORIAL, Event, Store


def make_queries(count: int) -> list[Query]:
    """Clips of 20 steps, 1 s, of HalfCheetah."""
    rng = np.random.default_rng(0)
    batch = SegmentBatch(rng.random((2 * count, 20, 3)), rng.random((2 * count, 20, 2)), task="HalfCheetah-v5")
    return make_pairs(batch)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "labels.sqlite") as opened:
        yield opened


def say(query: Query, best: int | None, who: str, seconds: float = 2.0, left: int = 0) -> Preference:
    chances = None if best is None else np.eye(2)[best]
    return Preference(query, chances, who, "human", seconds=seconds, shown=(left, 1 - left))


def test_alpha_of_krippendorffs_own_example() -> None:
    """Four observers, twelve units (Krippendorff 2011, Computing Krippendorff's Alpha-Reliability, parts C and D)."""
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    votes = [(str(i), str(j), float(v)) for i, row in enumerate(observers) for j, v in enumerate(row) if v != "."]
    alpha, shared = krippendorff_alpha(votes, "nominal")
    assert (alpha, shared) == (pytest.approx(0.743, abs=0.001), 11)
    assert krippendorff_alpha(votes, "ordinal")[0] == pytest.approx(0.815, abs=0.001)


def test_alpha_needs_two_people_and_two_values() -> None:
    assert krippendorff_alpha([], "nominal") == (None, 0)
    assert krippendorff_alpha([("a", "x", 1.0), ("a", "y", 0.0)], "nominal") == (None, 0)
    assert krippendorff_alpha([("a", "x", 1.0), ("b", "x", 1.0)], "nominal") == (None, 1)
    assert krippendorff_alpha([("a", "x", 1.0), ("b", "x", None)], "nominal") == (None, 0)


def test_the_same_question_of_two_runs_is_two_labels_and_one_opinion(store: Store) -> None:
    queries = make_queries(3)
    for run, best in (("a", 0), ("b", 1)):
        for who in ("ann", "bob"):
            store.add_preferences([say(query, best, who) for query in queries], run=run)
    found = measure_agreement(store)
    assert {one.name: one.labels for one in found.annotators} == store.stats().by_annotator == {"ann": 6, "bob": 6}
    assert (found.shared, found.percent) == (3, 1.0)


def test_gold_and_practice_do_not_make_people_agree(store: Store) -> None:
    *asked, gold, practice = make_queries(6)
    for who, flip in (("ann", 0), ("bob", 1)):
        store.add_preferences([say(query, i % 2 ^ flip, who) for i, query in enumerate(asked)], run="r")
        store.add_preferences([say(gold, 0, who)], run=GOLD)
        store.add_preferences([say(practice, 0, who)], run=TUTORIAL)
    found = measure_agreement(store)
    assert (found.shared, found.percent, found.alpha) == (4, 0.0, measure_agreement(store, "r").alpha)
    assert {one.name: one.labels for one in found.annotators} == store.stats().by_annotator
    assert measure_agreement(store, GOLD).percent == 1.0


def test_two_who_agree_and_one_who_does_not(store: Store) -> None:
    queries = make_queries(40)
    best = np.random.default_rng(1).integers(2, size=40)
    for who, flip in (("ann", False), ("bob", False)):
        store.add_preferences(say(q, int(b) ^ flip, who) for q, b in zip(queries, best, strict=True))
    found = measure_agreement(store)
    assert (found.alpha, found.percent, found.shared) == (pytest.approx(1.0), 1.0, 40)
    store.add_preferences(say(q, 1 - int(b), "eve") for q, b in zip(queries, best, strict=True))
    worse = measure_agreement(store)
    assert worse.alpha is not None
    assert worse.alpha < 0
    assert worse.percent == pytest.approx(1 / 3)


def test_undone_and_replaced_answers_do_not_count(store: Store) -> None:
    queries = make_queries(2)
    store.add_preferences([say(queries[0], 0, "ann"), say(queries[1], 0, "ann")])
    store.undo(store.events_after()[0])
    store.add_preferences([say(queries[1], None, "ann")])
    [ann] = measure_agreement(store).annotators
    assert (ann.labels, ann.skip_rate, ann.left_share) == (1, 1.0, None)


def test_one_who_presses_the_same_key_quickly_is_flagged(store: Store) -> None:
    queries = make_queries(40)
    rng = np.random.default_rng(2)
    sides = rng.integers(2, size=40)
    store.add_preferences(say(q, int(s), "lazy", 0.4, left=int(s)) for q, s in zip(queries, sides, strict=True))
    best = rng.integers(2, size=40)
    shown = zip(queries, sides, best, strict=True)
    store.add_preferences(say(q, int(b), "keen", 1.5, left=int(s)) for q, s, b in shown)
    keen, lazy = measure_agreement(store).annotators
    assert (lazy.left_share, lazy.too_fast, lazy.median_seconds) == (1.0, 1.0, 0.4)
    assert len(lazy.flags) == 2
    assert (keen.too_fast, keen.flags) == (0.0, ())


def test_repeats_measure_consistency_whatever_the_side(store: Store) -> None:
    queries = make_queries(4)
    store.add_preferences(say(query, 0, "ann") for query in queries)
    firsts = store.events_after()
    for event, chances in zip(firsts, ((1.0, 0.0), (1.0, 0.0), (0.0, 1.0), None), strict=True):
        about = {"query": event.query, "annotator": "ann", "oracle": "human", "shown": (1, 0)}
        repeat = Event(kind="repeat", probabilities=chances, extra={"repeats": event.id}, **about)  # type: ignore[arg-type]
        store.add_events([repeat])
    [ann] = measure_agreement(store).annotators
    assert (ann.labels, ann.repeats, ann.consistency) == (4, 4, pytest.approx(2 / 3))


def test_store_stats_shows_people(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    store.add_preferences(say(query, 0, "[b]ann[/b]") for query in make_queries(3))
    main(["store", "stats", store.stats().location])
    out = capsys.readouterr().out
    assert "Krippendorff" in out
    assert "[b]ann[/b]" in out


def test_the_agreement_of_a_store_is_printed_with_its_intervals(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    queries, location = make_queries(40), store.stats().location
    with pytest.raises(SystemExit):
        main(["store", "agreement", location])
    assert "no answer of a named annotator" in capsys.readouterr().err
    for who in ("ann", "bob"):
        answers = [say(query, (i + (who == "bob" and i < 10)) % 2, who) for i, query in enumerate(queries)]
        store.add_preferences([replace(answer, oracle="vlm") for answer in answers])
    main(["store", "agreement", location])
    out = capsys.readouterr().out
    for part in ("alpha 0.51 (95% interval", "75% (95% interval", "ann", "bob", "(35-65%)"):
        assert part in " ".join(out.split()), out
    main(["store", "agreement", location, "--oracle", "vlm", "--json"])
    figures = json.loads(capsys.readouterr().out)
    low, high = figures["alpha_interval"]
    assert low < figures["alpha"] < high
    assert figures["annotators"][0]["left_interval"] == pytest.approx([0.352, 0.648], abs=0.001)


def test_the_interval_of_alpha_holds_the_true_one() -> None:
    """Two observers of 60 questions, who answer alike with probability 0.8: alpha of very many questions is 0.6."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        first = rng.integers(2, size=60)
        second = np.where(rng.random(60) < 0.8, first, 1 - first)
        votes = [(who, str(i), float(v)) for who, row in (("a", first), ("b", second)) for i, v in enumerate(row)]
        interval, share = bootstrap_agreement(votes, resamples=300)
        assert interval is not None
        assert share is not None
        inside += interval[0] <= 0.6 <= interval[1]
    assert 182 <= inside <= 198
    assert bootstrap_agreement(votes[:1]) == (None, None)


@pytest.mark.parametrize("oracle", ["human", "imported", "", "crowd"])
def test_labels_count_whatever_rater_they_are_of(store: Store, oracle: str) -> None:
    queries = make_queries(20)
    for who in ("ann", "bob"):
        answers = [say(query, i % 2, who) for i, query in enumerate(queries)]
        store.add_preferences([replace(answer, oracle=oracle) for answer in answers])
    found = measure_agreement(store)
    assert (found.alpha, found.shared) == (pytest.approx(1.0), 20)
    assert dict(found.oracles) == {oracle: 40}


def test_a_mixture_is_said_and_can_be_narrowed(store: Store) -> None:
    queries = make_queries(20)
    for who, oracle in (("ann", "human"), ("bob", "human"), ("eve", "imported")):
        answers = [say(query, (i + (who == "eve")) % 2, who) for i, query in enumerate(queries)]
        store.add_preferences([replace(answer, oracle=oracle) for answer in answers])
    mixed = measure_agreement(store)
    assert dict(mixed.oracles) == {"human": 40, "imported": 20}
    assert "40 of human, 20 of imported" in summarise(mixed)[0]
    assert measure_agreement(store, oracle="human").alpha == pytest.approx(1.0)
    with pytest.raises(PrefenvsError, match="no answers of oracle 'people': it has those of human, imported"):
        measure_agreement(store, oracle="people")
