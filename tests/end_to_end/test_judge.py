"""`prefenvs judge` from two trained runs to a ranking, by a simulated judge and by people at the page."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefenvs.cli import main
from prefenvs.store import Store

TRAIN = ["train", "pebble", "--task", "InvertedPendulum-v5", "--segment-length", "5", "--steps", "400"]
TRAIN += ["--labels", "10", "--per-session", "10", "--interact", "100", "--unsupervised-steps", "100"]
TRAIN += ["--evaluate-every", "400", "--episodes", "1", "--learning-starts", "100", "--preset", "small"]
TRAIN += ["--no-progress"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("agents")
    for seed in (0, 1):
        main([*TRAIN, "--seed", str(seed), "--folder", str(folder / f"agent-{seed}")])
    return [str(folder / "agent-0"), str(folder / "agent-1")]


def judge(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    main(["judge", *arguments, "--json"])
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_a_simulated_judge_ranks_two_runs_and_continues(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "judging"
    options = ["--folder", str(folder), "--episodes", "6", "--oracle", "oracle"]
    first = judge(capsys, *runs, *options, "--matches", "4")
    assert (first["matches"], first["answers"], first["waiting"]) == (4, 4, 0)
    assert {agent["name"] for agent in first["agents"]} == {"agent-0", "agent-1"}
    more = judge(capsys, *options, "--matches", "100", "--pairing", "informative")
    assert 4 < more["answers"] == more["matches"] <= 6
    assert json.loads((folder / "ranking.json").read_text()) == more
    # Over all episodes the judge by return agrees with the returns of those episodes.
    wins = {agent["name"]: agent["wins"] for agent in more["agents"]}
    best = max(more["agents"], key=lambda agent: agent["wins"])
    assert best["place"] == 1 or wins["agent-0"] == wins["agent-1"]
    assert judge(capsys, "--folder", str(folder), "--report") == more
    main(["judge", "--folder", str(folder), "--report"])
    assert "agent-0" in capsys.readouterr().out
    record = json.loads((folder / "run.json").read_text())
    assert record["command"] == "judge"
    # The runs are not needed any more: what is judged was rolled out once.
    assert judge(capsys, *runs, "--folder", str(folder), "--report") == more


def test_bad_input_is_one_line(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def fails(*arguments: str) -> str:
        with pytest.raises(SystemExit) as stop:
            main(["judge", *arguments])
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        return str(line)

    folder = str(tmp_path / "judging")
    assert "at least 2 runs" in fails(runs[0], "--folder", folder)
    assert "twice" in fails(runs[0], runs[0], "--folder", folder)
    assert "no judging yet" in fails("--report", "--folder", folder)
    assert "not a run folder" in fails(runs[0], str(tmp_path), "--folder", folder)
    assert "--seconds" in fails(*runs, "--seconds", "0", "--folder", folder)
    assert "prefenvs train pebble" in fails(*runs, "--folder", runs[0])
    other = tmp_path / "other"
    shutil.copytree(runs[1], other)
    record = json.loads((other / "run.json").read_text())
    record["config"]["task"] = "Hopper-v5"
    (other / "run.json").write_text(json.dumps(record))
    assert "Hopper-v5" in fails(runs[0], str(other), "--folder", folder)
    assert not Path(folder).exists()
    main(["judge", *runs, "--folder", folder, "--episodes", "2"])
    capsys.readouterr()
    assert "not these runs" in fails(runs[0], str(other), "--folder", folder)


def test_people_judge_at_the_page_without_seeing_names(runs: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "judging"
    command = [sys.executable, "-m", "prefenvs", "judge", *runs, "--folder", str(folder), "--episodes", "4"]
    command += ["--seconds", "0.2", "--matches", "3", "--label", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = []
        while not (found := re.search(r"http://\S+", lines[-1] if lines else "")):
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()
        with httpx.Client(base_url=found[0], timeout=60) as client:
            answers = give_answers(client)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    assert f"{answers} answers to 3 matches" in output
    with Store(folder / "preferences.sqlite", create=False) as store:
        for query in store.find_queries([p.query.id for p in store.preferences("judge")]).values():
            assert {segment.source for segment in query.segments} == {"judge"}
            assert max(len(segment) for segment in query.segments) <= 5


def give_answers(client: httpx.Client) -> int:
    """Answer all questions by "left", as the page does, and look for names of agents in what it gets."""
    session = client.get("/api/session").raise_for_status().json()
    response = client.get("/api/next", params={"count": 5}).raise_for_status()
    assert "agent-" not in response.text
    questions = response.json()["questions"]
    assert len(questions) == 3
    clip = client.get(questions[0]["clips"][0]["url"]).raise_for_status()
    assert clip.content[4:8] == b"ftyp"
    answers = [
        {
            "uuid": f"00000000-0000-4000-8000-{number:012d}",
            "question": question["id"],
            "choice": 0,
            "rating": None,
            "undo": None,
            "reason": "",
            "seconds": 2.0,
            "replays": 1,
            "time": 1.7e9,
        }
        for number, question in enumerate(questions)
    ]
    headers = {"X-CSRF": session["csrf"], "Origin": str(client.base_url).rstrip("/")}
    posted = client.post("/api/answers", json={"answers": answers}, headers=headers).raise_for_status().json()
    assert len(posted["accepted"]) == 3, posted
    return len(answers)
