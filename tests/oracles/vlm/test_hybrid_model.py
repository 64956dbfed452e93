"""A model as one of two raters: routing by its own doubt, and `prefenvs train --oracle hybrid`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from server import hashes, judge_by

from prefenvs.cli import main
from prefenvs.oracles import HybridOracle, PartialReturnOracle, VLMOracle
from prefenvs.oracles.vlm import View
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
               "--vlm-model", "m", "--vlm-size", "32", "--vlm-stages", "one",
               "--folder", str(tmp_path / "a")]  # fmt: skip
    main(command)
    out = capsys.readouterr().out
    assert "of 16 queries" in out
    with Store(tmp_path / "a" / "preferences.sqlite") as store:
        annotators = [answer.annotator for answer in store.preferences()]
    assert len(annotators) == 16
    assert set(annotators) == {"m", "oracle"}
    state = json.loads((tmp_path / "a" / "checkpoint" / "state.json").read_text())["feedback"]["oracle"]
    log = state["oracle"]["log"]
    assert sum(entry["by"] == "costly" for entry in log.values()) == annotators.count("oracle")
    main(["train", "pebble", "--resume", str(tmp_path / "a"), "--no-progress"])
    assert "of 16 queries" in capsys.readouterr().out


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
