"""A model as one of two raters: routing by its own doubt, and `prefenvs train --oracle hybrid`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from server import hashes, judge_by

from prefenvs.cli import main
from prefenvs.errors import PrefenvsError
from prefenvs.oracles import HybridOracle, PartialReturnOracle, VLMOracle
from prefenvs.oracles.vlm import View
from prefenvs.preferences import Query
from prefenvs.store import Store

TASK = "Pendulum-v1"


def test_a_verdict_that_depends_on_the_order_goes_to_the_costly_rater(make_queries, serve) -> None:
    queries = make_queries(12)
    biased = {segment.hash for query in queries[:3] for segment in query.segments}
    fair = judge_by({s.hash: float(s.true_rewards.sum()) for q in queries for s in q.segments}.__getitem__)
    server = serve(lambda request: '{"verdict": "first"}' if biased & set(hashes(request)) else fair(request))
    settings = {"base_url": server.url, "stages": "one", "view": View(size=32), "wait": True}
    with HybridOracle(
        VLMOracle(TASK, "m", order="both", **settings), PartialReturnOracle("oracle"), route="inconsistency", audit=0.0
    ) as oracle:
        oracle.ask(queries)
        answers = oracle.collect()
    costly = {key for key, entry in oracle.log.items() if entry.by == "costly"}
    assert costly == {query.id for query in queries[:3]}
    assert len(answers) == 12
    assert not any(answer.skipped for answer in answers)


def test_pebble_asks_a_model_and_a_teacher_and_goes_on_after_a_stop(serve, tmp_path: Path, capsys) -> None:
    server = serve(judge_by(lambda key: int(key[:8], 16)))
    command = ["train", "pebble", "--task", TASK, "--oracle", "hybrid", "--cheap", "vlm", "--costly", "oracle",
               "--wait", "--preset", "small", "--no-progress", "--steps", "420", "--labels", "16", "--per-session", "8",
               "--interact", "100", "--segment-length", "10", "--unsupervised-steps", "100", "--learning-starts", "190",
               "--episodes", "1", "--costly-share", "0.5", "--audit-share", "0.2", "--vlm-url", server.url,
               "--vlm-model", "m", "--vlm-size", "32", "--vlm-stages", "one", "--vlm-price-in", "1000",
               "--folder", str(tmp_path / "a")]  # fmt: skip
    main(command)
    out = capsys.readouterr().out
    assert "of 16 queries" in out
    price = f"m: {len(server.requests)} queries, {110 * len(server.requests):,} tokens, cost "
    assert price in out
    with Store(tmp_path / "a" / "preferences.sqlite") as store:
        annotators = [answer.annotator for answer in store.preferences()]
    assert len(annotators) == 16
    assert set(annotators) == {"m", "oracle"}
    state = json.loads((tmp_path / "a" / "checkpoint" / "state.json").read_text())["feedback"]["oracle"]
    log = state["oracle"]["log"]
    assert sum(entry["by"] == "costly" for entry in log.values()) == annotators.count("oracle")
    main(["train", "pebble", "--resume", str(tmp_path / "a"), "--no-progress"])
    out = capsys.readouterr().out
    assert "of 16 queries" in out
    # What the first start has paid counts.
    assert price in out


def test_rate_tells_the_price_of_a_model_in_a_hybrid(make_queries, serve, tmp_path: Path, capsys) -> None:
    path, queries = tmp_path / "labels.sqlite", make_queries(4)
    with Store(path) as store:
        store.add_queries(queries, run="lesson")
    server = serve(judge_by(lambda key: int(key[:8], 16)))
    hybrid = ["--oracle", "hybrid", "--cheap", "vlm", "--costly", "oracle", "--route", "random", "--audit-share", "0",
              "--costly-share", "0", "--vlm-url", server.url, "--vlm-model", "m", "--vlm-size", "32", "--vlm-stages",
              "one", "--vlm-price-in", "1000", "--vlm-price-out", "1000"]  # fmt: skip
    main(["rate", "--check", "0", "--task", TASK, "--pairs", "10", *hybrid])
    assert re.search(r"cheap rater: nothing was sent;.* 10 queries: at most [\d,]+ tokens, \d", capsys.readouterr().out)
    main(["rate", "--check", "4", "--task", TASK, "--no-progress", *hybrid])
    assert "cost: 0.4400, 440 tokens; per useful label: 0.110000, 110 tokens" in capsys.readouterr().out
    main(["rate", "--store", str(path), "--no-progress", *hybrid])
    assert "lesson: 4 labels, 0 skips; tokens 440, cost 0.4400" in capsys.readouterr().out


def test_queries_of_three_clips_are_left_to_people(make_queries, serve, tmp_path: Path, capsys) -> None:
    path, queries = tmp_path / "labels.sqlite", make_queries(6)
    three = [Query((*one.segments, other.segments[0])) for one, other in zip(queries[:3], queries[3:], strict=True)]
    with Store(path) as store:
        store.add_queries(three, run="lesson", priority=1.0)
        store.add_queries(queries, run="lesson")
    server = serve(judge_by(lambda key: int(key[:8], 16)))
    for _ in range(2):
        with pytest.raises(SystemExit):
            main(["rate", "--store", str(path), "--no-progress", "--vlm-url", server.url, "--vlm-model", "m",
                  "--vlm-size", "32", "--vlm-stages", "one"])  # fmt: skip
        told = capsys.readouterr().err
        assert f"3 queries have more clips than vlm compares: people answer them, prefenvs label --store {path}" in told
        with Store(path) as store:
            assert len(store.preferences()) == len(server.requests) == 6
    for oracle in (
        VLMOracle(TASK, "m", base_url=server.url),
        HybridOracle(PartialReturnOracle(), VLMOracle(TASK, "m", base_url=server.url)),
    ):
        with pytest.raises(PrefenvsError, match="choose a selector of pairs"):
            oracle.ask(three)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--cheap", "hybrid"], "'hybrid' is not"),
        (["--cheap", "noisy", "--costly", "noisy"], "one rater"),
        (["--cheap", "mistake", "--costly", "human"], "--store"),
        (["--cheap", "mistake", "--costly", "oracle", "--wait"], "--wait"),
        (["--cheap", "mistake", "--costly", "oracle", "--costly-share", "2"], "share"),
        (["--cheap", "mistake", "--costly", "oracle", "--route", "inconsistency"], "--vlm-order both"),
    ],
    ids=str,
)
def test_bad_input_is_one_line(options, told, capsys, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", "pebble", "--task", TASK, "--oracle", "hybrid", *options, "--folder", str(tmp_path / "x")])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line
    assert not (tmp_path / "x").exists()
