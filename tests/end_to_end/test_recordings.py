"""Recorded robots from the command line: rated, judged by policy, and refused in one line where they must be."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prefenvs.cli import main
from prefenvs.store import Store


@pytest.fixture
def videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pictures with its table: episodes of two policies, of which b's are brighter."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "robot"
    with_row = []
    for episode in range(6):
        shots = folder / f"shots{episode}"
        shots.mkdir(parents=True)
        for step in range(20):
            Image.new("RGB", (48, 32), (60 + 120 * (episode % 2), 5 * step, episode)).save(shots / f"{step}.png")
        with_row.append({"video": shots.name, "fps": 10, "task": "wave", "policy": "ab"[episode % 2]})
    with (folder / "episodes.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, list(with_row[0]))
        table.writeheader()
        table.writerows(with_row)
    return folder


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(words))
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_policies_of_a_data_set_are_judged(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["judge", "--dataset", "robot", "--matches", "3", "--seconds", "1"])
    assert "3 matches wait for an answer" in capsys.readouterr().out
    with Store("judging/preferences.sqlite") as store:
        queries = store.pending_queries(run="judge")
        assert [len(segment) for query in queries for segment in query.segments] == [10] * 6
        # Whoever looks sees which is brighter.
        from prefenvs import Preference
        from prefenvs.frames import frames

        answers = []
        for query in queries:
            shown = [frames(segment, size=32)[0, 16, 24, 0] for segment in query.segments]
            answers.append(Preference(query, np.eye(2)[int(np.argmax(shown))], annotator="person"))
        store.add_preferences(answers, run="judge")
    main(["judge", "--report"])
    assert "recorded:wave: 3 answers" in capsys.readouterr().out
    main(["judge", "--report", "--json"])
    ranking = json.loads(capsys.readouterr().out)
    assert [agent["name"] for agent in ranking["agents"]] == ["b", "a"]
    assert ranking["agents"][0]["wins"] == 3
    assert "does not judge other" in fails(capsys, "judge", "--dataset", "other")


def test_data_sets_of_a_policy_each_are_judged(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As LeRobot records evaluations: a data set for each policy."""
    import shutil

    shutil.copytree(videos, "before/robot")
    shutil.copytree(videos, "after")
    (Path("after") / "shots1" / "3.png").write_bytes(b"no picture")
    words = ["judge", "--dataset", "before/robot", "after", "--matches", "4", "--oracle", "coin"]
    with pytest.warns(UserWarning, match="1 of 6 episodes of after are left out"):
        main([*words, "--skip-damaged", "--max-gib", "1"])
    main(["judge", "--report", "--json"])
    ranking = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sorted(agent["name"] for agent in ranking["agents"]) == ["after", "robot"]
    assert ranking["answers"] == 4


def test_data_without_policies_cannot_be_judged(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = (videos / "episodes.csv").read_text().replace(",a\n", ",b\n").replace(",a\r\n", ",b\r\n")
    (videos / "episodes.csv").write_text(table)
    assert "tells of 1 policies, and a judging compares at least 2: name a data set of each" in fails(
        capsys, "judge", "--dataset", "robot"
    )


def test_a_rater_labels_recordings_and_a_reward_is_learned(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A coin, as no model is here: what matters is that recordings reach the store and come back from it."""
    main(["rate", "--dataset", "robot", "--oracle", "coin", "--pairs", "12", "--segment-length", "8", "--no-progress"])
    assert "12 labels" in capsys.readouterr().out
    words = ["reward", "robot", "--preferences", "robot-labels.sqlite", "--held-out", "0.34", "--folder", "fit"]
    main(words)
    assert "labels predicted" in capsys.readouterr().out
    assert Path("fit/report.html").is_file()
    said = fails(
        capsys, "reward", "robot", "--preferences", "robot-labels.sqlite", "--kind", "ensemble", "--folder", "x"
    )
    assert "robot holds no observations: take --kind image" in said


def test_a_policy_cannot_learn_without_actions(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds no actions" in fails(capsys, "train", "bc", "--dataset", "robot", "--steps", "10")


def test_what_is_left_out_is_told_in_one_line(videos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (videos / "shots1" / "3.png").write_bytes(b"no picture")
    with pytest.warns(
        UserWarning, match="1 of 6 episodes of robot are left out: episode 1: robot/shots1/3.png"
    ) as told:
        main(["ask", "robot", "--store", "labels.sqlite", "--count", "3", "--segment-length", "8", "--skip-damaged"])
    said = capsys.readouterr().out
    assert "3 questions about 8 steps each are new" in said
    assert "learn from the answers: prefenvs reward robot --preferences labels.sqlite" in said
    (line,) = [warnings.formatwarning(one.message, one.category, one.filename, one.lineno) for one in told]
    assert line.startswith("UserWarning: 1 of 6")
    assert line.count("\n") == 1
