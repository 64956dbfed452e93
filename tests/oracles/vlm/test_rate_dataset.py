"""From a data set to a policy: collect, let a simulated model that reads true returns label, learn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from server import judge_by

from prefenvs.cli import main
from prefenvs.datasets.load import load_dataset
from prefenvs.store import Store, list_calls

TASK = "Pendulum-v1"


@pytest.fixture
def simulated_model(serve, tmp_path: Path, monkeypatch):
    """Start a server that judges the segments of a data set in tmp_path, and return the options that lead to it."""
    monkeypatch.chdir(tmp_path)
    labels = tmp_path / "data-labels.sqlite"

    def worth(key: str) -> float:
        with Store(labels) as store:
            return float(store.find_segments([key], with_true_rewards=True)[key].true_rewards.sum())

    server = serve(judge_by(worth))
    options = ["--vlm-url", server.url, "--vlm-model", "m", "--vlm-size", "32", "--vlm-stages", "one", "--no-progress"]
    return server, labels, options


def test_a_data_set_is_collected_labelled_and_learned_from(simulated_model, tmp_path: Path, capsys) -> None:
    server, labels, options = simulated_model
    rate = ["rate", "--dataset", "data", "--segment-length", "10", *options]
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
    assert "all 24 pairs have their answers already, by m; another --store asks anew" in out
    with Store(labels) as store:
        answers = store.preferences(with_true_rewards=True)
        assert len(answers) == len(list_calls(store)) == 32
        assert {(answer.oracle, answer.annotator) for answer in answers} == {("vlm", "m")}

    learn = ["train", "iql", "--dataset", "data", "--preferences", str(labels), "--preset", "small"]
    main([*learn, "--steps", "60", "--evaluate-every", "30", "--episodes", "1", "--no-progress", "--folder", "run"])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["labels"], summary["updates"], summary["signal"]) == (32, 60, "data-labels")


@pytest.mark.parametrize("lists", ["lire", "seqrank"])
def test_ranked_lists_of_a_data_set_go_on_and_ask_nothing_twice(
    lists: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["collect", TASK, "--episodes", "4", "--format", "npz", "--out", "data", "--no-progress"])
    rate = ["rate", "--dataset", "data", "--segment-length", "10", "--oracle", "oracle", "--lists", lists]
    rate += ["--list-questions", "20", "--no-progress"]
    for pairs, new in (("24", 24), ("24", 0), ("40", 16)):
        main([*rate, "--pairs", pairs])
        assert f"{pairs} questions, {new} of them asked now" in capsys.readouterr().out
    with Store("data-labels.sqlite") as store:
        answers = store.preferences(with_true_rewards=True)
    # Every pair of a list is there once, and in order.
    clips = [frozenset(segment.hash for segment in answer.query.segments) for answer in answers]
    assert len(set(clips)) == len(clips) > 40
    for answer in answers:
        returns = [float(segment.true_rewards.sum()) for segment in answer.query.segments]
        assert answer.best == int(returns[1] > returns[0])


def test_a_model_that_talks_nonsense_is_not_paid_for_lists_of_it(simulated_model, capsys) -> None:
    server, labels, options = simulated_model
    server.script = lambda request: "I like both."
    main(["collect", TASK, "--episodes", "2", "--format", "npz", "--out", "data", "--no-progress"])
    with pytest.raises(SystemExit):
        main(["rate", "--dataset", "data", "--segment-length", "10", "--lists", "lire", "--pairs", "40", *options])
    assert "none of the first 20 replies is a verdict, the last is 'I like both.'" in capsys.readouterr().err
    assert len(server.requests) == 20
    with Store(labels) as store:
        assert len(store.preferences()) == 20


def test_ranked_lists_need_a_data_set(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["rate", "--store", "labels.sqlite", "--lists", "lire", "--oracle", "oracle"])
    assert "name a --dataset" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_server_teaches_iql_a_task(simulated_model, tmp_path: Path) -> None:
    """A drawer is opened by a policy whose only signal are the server's verdicts on pictures of noisy episodes."""
    server, labels, options = simulated_model
    task = "metaworld-drawer-open-v3"
    mix = ["scripted:0.3=10", "scripted:0.5:0.85=90"]
    main(["collect", task, "--mix", *mix, "--format", "npz", "--out", "data", "--no-progress"])
    main(["rate", "--dataset", "data", "--segment-length", "64", "--pairs", "1000", *options])
    assert len(server.requests) == 1_000
    learn = ["--dataset", "data", "--preset", "small", "--normalise-observations", "--steps", "6000"]
    measure = ["--evaluate-every", "6000", "--episodes", "20", "--no-progress"]
    main(["train", "iql", "--preferences", str(labels), *learn, *measure, "--folder", "iql"])
    main(["bench", "random", "--task", task, "--episodes", "20", "--folder", "random"])
    summary = json.loads((tmp_path / "iql" / "summary.json").read_text())
    chance = json.loads((tmp_path / "random" / "summary.json").read_text())
    data = load_dataset("data").trajectories.returns
    print(f"learned {summary['last']}, by chance {chance}, data {data.mean():.0f}")
    assert summary["learns_from"] == "preferences"
    assert summary["last"]["mean_return"] > 1.5 * data.mean()
    assert summary["last"]["success"] >= 0.5
