"""From a data set to a policy: collect, let a model label, learn. The server is a stand-in that reads true returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from server import judge_by

from prefenvs.cli import main
from prefenvs.store import Store, list_calls

TASK = "Pendulum-v1"


def test_a_data_set_is_collected_labelled_and_learned_from(serve, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    labels = tmp_path / "data-labels.sqlite"

    def worth(key: str) -> float:
        with Store(labels) as store:
            return float(store.find_segments([key], with_true_rewards=True)[key].true_rewards.sum())

    server = serve(judge_by(worth))
    rate = ["rate", "--dataset", "data", "--segment-length", "10", "--no-progress", "--vlm-url", server.url,
            "--vlm-model", "m", "--vlm-size", "32", "--vlm-stages", "one"]  # fmt: skip
    main(["collect", TASK, "--episodes", "4", "--format", "npz", "--out", "data", "--no-progress"])
    with pytest.raises(SystemExit):
        main([*rate, "--pairs", "24", "--vlm-budget-queries", "10"])
    assert "14 queries are left" in capsys.readouterr().err
    assert len(server.requests) == 10
    for pairs, paid in (("24", 24), ("24", 24), ("32", 32)):
        main([*rate, "--pairs", pairs])
        # What has an answer is not asked again, nor are the pairs of a smaller number.
        assert len(server.requests) == paid
    out = capsys.readouterr().out
    assert "all 24 pairs have their answers already" in out
    with Store(labels) as store:
        answers = store.preferences(with_true_rewards=True)
        assert len(answers) == len(list_calls(store)) == 32
        assert {(answer.oracle, answer.annotator) for answer in answers} == {("vlm", "m")}

    learn = ["train", "iql", "--dataset", "data", "--preferences", str(labels), "--preset", "small"]
    main([*learn, "--steps", "60", "--evaluate-every", "30", "--episodes", "1", "--no-progress", "--folder", "run"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["labels"], summary["updates"], summary["signal"]) == (32, 60, "data-labels")
