"""Learners from fixed data on the command line: runs, resuming, where labels come from, and bad input."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from prefenvs.agents import RewardEnsemble
from prefenvs.cli import main
from prefenvs.cli.train import labels as offline_labels
from prefenvs.cli.train.labels import LabelOptions, LabelSource
from prefenvs.datasets.load import load_dataset
from prefenvs.preferences import Preference, make_pairs
from prefenvs.runs import Run
from prefenvs.store import GOLD, TUTORIAL, Store

from ...command_lines import refused

QUICK = ["--preset", "small", "--steps", "40", "--evaluate-every", "20", "--episodes", "2", "--no-progress"]
LABELS = ["--labels", "12", "--segment-length", "4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Forty episodes of random actions."""
    folder = tmp_path_factory.mktemp("data") / "random"
    task = "InvertedPendulum-v5"
    main(["collect", task, "--mix", "random=40", "--out", str(folder), "--format", "npz", "--no-progress"])
    return str(folder)


@pytest.fixture(scope="module")
def expert(data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of IQL on true rewards."""
    folder = tmp_path_factory.mktemp("runs") / "expert"
    main(["train", "iql", "--dataset", data, "--true-reward", *QUICK, "--folder", str(folder)])
    return folder


def test_a_run_reports_the_final_and_the_best_policy_apart(expert, capsys):
    summary = json.loads((expert / "summary.json").read_text())
    assert summary["learns_from"] == "true reward (upper bound)"
    assert summary["last"]["steps"] == summary["updates"] == 40
    assert summary["best"]["mean_return"] >= summary["last"]["mean_return"]
    names = {path.name for path in expert.iterdir()}
    assert {"run.json", "evaluations.csv", "learning_curve.png", "checkpoint", "log"} <= names
    main(["evaluate", str(expert), "--episodes", "2", "--json"])
    assert json.loads(capsys.readouterr().out)["task"] == "InvertedPendulum-v5"


@pytest.mark.parametrize(
    ("algorithm", "options", "labels", "learns_from"),
    [
        ("iql", ["--held-out", "0.25"], 12, "preferences"),
        ("cpl", ["--preferences", "oracle:noisy", "--held-out", "0.25"], 12, "preferences"),
        ("cpl", ["--variant", "cpl-kl", "--preferences", "regret:EXPERT"], 12, "preferences"),
        ("cpl", ["--dense"], 12, "preferences"),
        ("cpl", ["--shuffle-labels"], 12, "preferences"),
        ("iql", ["--constant-reward"], 0, "a constant reward (control)"),
        ("bc", ["--best-share", "0.5"], 12, "the best 50% of the labelled segments by preference"),
        ("bc", ["--best-share", "0.5", "--true-reward"], 0, "the best 50% of the episodes by true return"),
        ("bc", [], 0, "the data's actions"),
        ("bc", ["--evaluate-async"], 0, "the data's actions"),
    ],
)
def test_each_learner_and_signal(algorithm, options, labels, learns_from, data, expert, tmp_path, capsys):
    options = [option.replace("EXPERT", str(expert)) for option in options]
    asked = LABELS if labels else []
    main(["train", algorithm, "--dataset", data, *QUICK, *asked, *options, "--folder", str(tmp_path / "run")])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["labels"], summary["learns_from"]) == (labels, learns_from)
    printed = capsys.readouterr().out
    assert "final" in printed
    # A line for each evaluation; the best one is told where it is not the final one.
    evaluations = (tmp_path / "run" / "evaluations.csv").read_text().splitlines()[1:]
    assert printed.count("(std over episodes), ") == len(evaluations)
    assert ("chosen by this very evaluation" in printed) == (summary["best"] != summary["last"])
    if "--held-out" in options:
        assert summary["held_out_labels"] == 3
        assert 0.0 <= summary["held_out_accuracy"] <= 1.0


def test_the_published_size_on_a_cpu_is_told_where_nobody_chose_it(data, tmp_path, capsys):
    line = ["train", "bc", "--dataset", data, "--device", "cpu", *QUICK[2:], "--hidden", "8", "8"]
    main([*line, "--folder", str(tmp_path / "default")])
    assert (
        capsys.readouterr().err
        == "preset published: 40 steps and networks of 2x8, on a CPU; --preset small is made for one\n"
    )
    main([*line, "--preset", "published", "--folder", str(tmp_path / "chosen")])
    assert not capsys.readouterr().err


def test_shuffled_labels_are_the_same_ones_on_other_queries(data):
    dataset = load_dataset(data)
    plain, shuffled = (
        LabelSource(LabelOptions(labels=60, segment_length=4, shuffle_labels=shuffle), 0).read(dataset).train
        for shuffle in (False, True)
    )
    assert [answer.query.id for answer in plain] == [answer.query.id for answer in shuffled]
    answers = [[tuple(answer.probabilities) for answer in side] for side in (plain, shuffled)]
    assert sorted(answers[0]) == sorted(answers[1])
    assert answers[0] != answers[1]


def test_a_resumed_run_learns_from_all_answers_also_from_those_given_again(data, tmp_path):
    lines = ["episode_1,start_1,episode_2,start_2,length,choice,annotator"]
    lines += ["0,0,1,0,2,left,ana", "0,1,1,1,2,left,ana", "0,0,1,0,2,right,ana", "0,0,1,0,2,skip,ana"]
    lines += ["0,1,1,1,2,left,ana"]  # word for word
    (tmp_path / "labels.csv").write_text("\n".join([*lines, "0,0,1,0,2,left,"]) + "\n")
    labels = LabelSource(LabelOptions(str(tmp_path / "labels.csv")), 0).read(load_dataset(data))
    run = Run.create(tmp_path / "run", "train iql", {})
    offline_labels.keep(run, labels)
    told = [
        [(one.query.id, one.skipped or one.probabilities.tolist(), one.annotator) for one in side]
        for side in (labels.train, offline_labels.kept(run).train)
    ]
    assert len(told[0]) == 6
    assert told[0] == told[1]


def test_ranked_lists_are_learned_from_and_resumed(data, tmp_path, capsys):
    folder = tmp_path / "run"
    options = [*QUICK, "--labels", "40", "--segment-length", "3", "--lists", "lire", "--list-questions", "20"]
    main(["train", "iql", "--dataset", data, *options, "--reward.score", "linear", "--folder", str(folder)])
    assert "40 questions: " in capsys.readouterr().out
    assert json.loads((folder / "summary.json").read_text())["labels"] > 40
    told = refused(capsys, "train", "iql", "--dataset", data, *QUICK, "--lists", "lire",
        "--preferences", str(folder / "preferences.sqlite"),
    )  # fmt: skip
    assert "holds answers already" in told


def test_a_control_of_labels_needs_labels(data, capsys):
    told = refused(capsys, "train", "iql", "--dataset", data, *QUICK, "--constant-reward", "--shuffle-labels")
    assert "--shuffle-labels is about labels" in told
    told = refused(capsys, "train", "iql", "--dataset", data, *QUICK, "--constant-reward", "--true-reward")
    assert "choose one" in told


def test_held_out_labels_come_from_other_episodes(data, tmp_path):
    folder = tmp_path / "run"
    options = [*QUICK, "--labels", "60", "--segment-length", "3", "--held-out", "0.3"]
    main(["train", "cpl", "--dataset", data, *options, "--folder", str(folder)])
    with Store(folder / "preferences.sqlite", create=False) as store:
        sides = [store.preferences(run=run) for run in ("training", "held-out")]
    assert [len(side) for side in sides] == [60, 18]
    episodes = [{s.episode for preference in side for s in preference.query.segments} for side in sides]
    assert not episodes[0] & episodes[1]
    assert all(s.true_rewards is None for side in sides for p in side for s in p.query.segments)


def test_labels_of_a_store(data, tmp_path):
    location = str(tmp_path / "labels.sqlite")
    with Store(location) as store:
        store.add_preferences([Preference(query, np.array([1.0, 0.0])) for query in _pairs(data, 20)])
    options = ["--dataset", data, *QUICK, "--preferences", location]
    main(["train", "cpl", *options, "--folder", str(tmp_path / "run")])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["labels"], summary["signal"]) == (20, "labels")


def test_answers_to_gold_questions_are_checks_and_no_labels(data, tmp_path, capsys):
    """They measure people: everybody is asked, the answer was known, and the pairs are the easiest."""
    location = str(tmp_path / "labels.sqlite")
    known = [Preference(query, np.array([0.0, 1.0]), "ann") for query in _pairs(data, 12)]
    with Store(location) as store:
        store.add_preferences(known[:3], run=GOLD)
        store.add_preferences(known[3:5], run=TUTORIAL)
    options = ["--dataset", data, *QUICK, "--preferences", location]
    assert "no answer yet but to gold questions" in refused(capsys, "train", "cpl", *options)
    with Store(location) as store:
        store.add_preferences(known[4:], run="walker")
        assert len(store.preferences()) == 8
        assert len(store.preferences(run=GOLD)) == 3
    main(["train", "cpl", *options, "--folder", str(tmp_path / "run")])
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["labels"], summary["left_out_because"]) == (8, {"to gold questions": 5})
    assert "labels left out: 5 (5 to gold questions)" in capsys.readouterr().out
    told = "left out: 5 answers to gold questions"
    main(["labels", "export", location, str(tmp_path / "all.csv")])
    assert told in (printed := capsys.readouterr()).err
    assert "8 labels" in printed.out
    main(["labels", "accuracy", location, "--folds", "2", "--models", "return", "--out", str(tmp_path / "folds.csv")])
    assert told in capsys.readouterr().err
    main(["labels", "export", location, str(tmp_path / "gold.csv"), "--task-run", GOLD])
    assert "3 labels" in (printed := capsys.readouterr()).out
    assert printed.err == ""


def _pairs(data, count):
    return make_pairs(load_dataset(data).trajectories.sample(2 * count, 4, np.random.default_rng(0)))


def test_each_rater_has_a_run_folder_of_its_own(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for rater in ("oracle", "noisy", "mistake:mistake=0.2"):
        main(["train", "cpl", "--dataset", data, *QUICK, *LABELS, "--preferences", rater])
    names = {path.name.removeprefix("InvertedPendulum-v5-cpl-") for path in (tmp_path / "runs").iterdir()}
    assert names == {"oracle-0", "noisy-0", "mistake-mistake-0.2-0"}


def test_seeds_learn_rewards_and_policies_side_by_side_as_each_does_alone(data, tmp_path):
    options = ["train", "iql", "--dataset", data, *QUICK, *LABELS, "--held-out", "0.25"]
    main([*options, "--seeds", "0", "1", "--folder", str(tmp_path / "{seed}")])
    main([*options, "--seed", "1", "--folder", str(tmp_path / "alone")])
    together, alone = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("1", "alone"))
    for name in ("labels", "learns_from", "held_out_labels", "held_out_accuracy"):
        assert together[name] == alone[name], name
    models = [RewardEnsemble.load(tmp_path / name / "checkpoint" / "reward.pt") for name in ("0", "1", "alone")]
    observations, actions = np.ones((1, 4), np.float32), np.zeros((1, 1), np.float32)
    other, one, same = (model.predict(observations, actions) for model in models)
    np.testing.assert_allclose(one, same, rtol=1e-4)
    assert not np.allclose(one, other)
    assert together["last"]["mean_return"] == pytest.approx(alone["last"]["mean_return"], rel=0.2)


def test_ctrl_c_keeps_a_run_that_can_be_resumed(data, tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "prefenvs", "train", "iql"]
    long = [*QUICK, *LABELS, "--steps", "1000000", "--evaluate-every", "1000000"]
    process = subprocess.Popen([*command, "--dataset", data, *long, "--folder", str(folder)], stdout=subprocess.PIPE)
    deadline = time.time() + 60
    while not (folder / "evaluations.csv").exists() and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"--resume" in output
    record = json.loads((folder / "run.json").read_text())
    assert record["config"]["task"] == "InvertedPendulum-v5"
    # The rest of the run is cut short, so that the test need not wait for it.
    record["config"]["steps"] = stopped_after(folder) + 10
    (folder / "run.json").write_text(json.dumps(record))
    main(["train", "iql", "--resume", str(folder), "--no-progress"])
    assert json.loads((folder / "summary.json").read_text())["updates"] == stopped_after(folder)
    assert os.path.getsize(folder / "preferences.sqlite")


def stopped_after(folder: Path) -> int:
    from prefenvs.agents.offline.files import read_state

    steps: int = read_state(folder / "checkpoint" / "model.zip")["counters"]["num_timesteps"]
    return steps


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--preferences", "regret"], "regret needs an expert of InvertedPendulum-v5"),
        (["--preferences", "regret:nowhere"], "no expert at nowhere"),
        (["--preferences", "nowhere.sqlite"], "no store"),
        (["--preferences", "nowhere"], "there is no such file"),
        (["--preferences", "oracle:nobody"], "unknown teacher"),
        (["--labels", "0"], "--labels must be at least 1"),
        (["--held-out", "1"], "--held-out must be less than 1"),
        (["--segment-length", "900"], "choose a shorter segment"),
        (["--steps", "0"], "--steps must be at least 1"),
        (["--dense", "--held-out", "0.2"], "no held-out labels"),
        (["--compile", "--seeds", "0", "1"], "--compile goes with one seed"),
    ],
)
def test_bad_options_are_told_in_one_line_and_leave_nothing(options, message, data, tmp_path, capsys):
    folder = tmp_path / "run"
    error = refused(capsys, "train", "cpl", "--dataset", data, *QUICK, *options, "--folder", str(folder))
    assert message in error
    assert not folder.exists()


def test_speed_that_a_learner_cannot_have_is_refused(data, tmp_path, capsys):
    line = ["train", "oppo", "--dataset", data, *QUICK, "--folder", str(tmp_path / "run")]
    assert "--compile goes with iql, bc and cpl, not with oppo" in refused(capsys, *line, "--compile")
    with pytest.raises(SystemExit):
        main([*line, "--precision", "bfloat16"])
    assert "--precision" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_bad_data_are_told_in_one_line(data, tmp_path, capsys):
    assert "there is no data set 'nothing'" in refused(capsys, "train", "bc", "--dataset", "nothing")
    line = refused(capsys, "ask", "lerobot/pusht", "--store", str(tmp_path / "labels.sqlite"))
    assert "hf download lerobot/pusht --repo-type dataset --local-dir pusht" in line
    assert "say what to learn from" in refused(capsys, "train", "bc")
    error = refused(capsys, "train", "bc", "--dataset", data, "--task", "Hopper-v5", *QUICK)
    assert "Hopper-v5" in error
    assert "give --best-share too" in refused(capsys, "train", "bc", "--dataset", data, "--true-reward", *QUICK)


@pytest.mark.parametrize("options", [["bc"], ["iql", "--true-reward"], ["iql", "--constant-reward"]])
def test_labels_that_nobody_learns_from_are_refused(options, data, capsys):
    for about in (["--labels", "12"], ["--preferences", "oracle"], ["--held-out", "0.2"], ["--lists", "lire"]):
        told = refused(capsys, "train", *options, "--dataset", data, *QUICK, *about)
        assert f"{about[0]} is about labels" in told


def test_an_expert_of_iql_is_measured_and_judges_with_the_discount_that_is_told(data, expert, tmp_path, capsys):
    main(["critic", str(expert), "--states", "2", "--segment-length", "2", "--rollouts", "2", "--steps", "3", "--json"])
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures["task"] == "InvertedPendulum-v5"
    assert figures["gamma"] == 0.99
    assert "--critics" in refused(capsys, "critic", str(expert), "--critics", "mean")
    options = LabelOptions(f"regret:{expert}", "visited", 0.5, labels=10, segment_length=4)
    oracle = LabelSource(options, 0).make_oracle(load_dataset(data))
    assert (oracle.form, oracle.discount) == ("visited", 0.5)
    told = refused(capsys, "train", "cpl", "--dataset", data, *QUICK, "--regret-discount", "0")
    assert "--regret-discount must be larger than 0" in told


def test_values_of_a_learned_reward_are_no_expert(data, tmp_path, capsys):
    learned = str(tmp_path / "learned")
    main(["train", "iql", "--dataset", data, *QUICK, *LABELS, "--folder", learned])
    capsys.readouterr()
    told = refused(capsys, "train", "cpl", "--dataset", data, *QUICK, "--preferences", f"regret:{learned}")
    assert "no expert" in told
    assert "no expert" in refused(capsys, "critic", learned)
