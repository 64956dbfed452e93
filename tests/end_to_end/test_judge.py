"""`prefenvs judge` from two trained runs to a ranking, by a simulated judge and by people at the page."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefenvs.cli import main
from prefenvs.store import Store

from .conftest import Page

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


def test_nothing_more_is_asked_once_the_best_is_certain(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--folder", str(tmp_path / "judging"), "--episodes", "30", "--oracle", "coin", "--ahead", "1"]
    early = judge(capsys, *runs, *options, "--matches", "30", "--stop", "0.9")
    assert early["agents"][0]["probability_best"] >= 0.9
    assert early["answers"] == early["matches"] < 30
    assert judge(capsys, *options, "--matches", "30", "--stop", "0.9") == early


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
    assert "--seed 1 is that of" in fails(*runs, "--seed", "1", "--folder", folder)
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


def test_a_judging_goes_on_as_it_was_begun(runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "judging")
    begun = judge(capsys, *runs, "--folder", folder, "--episodes", "2", "--oracle", "oracle", "--matches", "2")
    for others in (
        ["--episodes", "3"],
        ["--seed", "0"],
        ["--seconds", "1"],
        ["--oracle", "coin"],
        ["--oracle", "people"],
        ["--task", "Hopper-v5"],
        ["--skip-damaged"],
        ["--label"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(["judge", *runs, "--folder", folder, *others])
        assert ended.value.code == 2
        assert others[0] in capsys.readouterr().err
    # What is left out is as it was, who judges too.
    assert judge(capsys, "--folder", folder, "--matches", "2") == begun
    same = ["--episodes", "2", "--seed", "7919", "--oracle", "oracle", "--task", "InvertedPendulum-v5"]
    assert judge(capsys, *runs, "--folder", folder, *same, "--matches", "2") == begun


def test_a_judge_that_cannot_be_leaves_no_folder(
    runs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wrong in (["--oracle", "nosy"], ["--oracle", "vlm"], ["--oracle", "oracle", "--label"]):
        with pytest.raises(SystemExit):
            main(["judge", *runs, "--folder", str(tmp_path / "judging"), *wrong])
        assert wrong[1] in capsys.readouterr().err
    assert not (tmp_path / "judging").exists()


@contextlib.contextmanager
def judging(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], str, str]]:
    """Serve a judging's page from a process of its own; return it, the page's address and the manager's link."""
    command = [sys.executable, "-m", "prefenvs", "judge", *arguments, "--folder", str(folder), "--label", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [""]
        while not lines[-1].startswith("Ctrl-C"):
            lines.append(process.stdout.readline())
            assert lines[-1], process.communicate()
        links = re.findall(r"(label|manage)s? at (http://\S+)", "".join(lines))
        yield process, dict(links)["label"], dict(links)["manage"]
    finally:
        process.kill()
        process.wait()


def stop(process: subprocess.Popen[str]) -> str:
    """Stop it by Ctrl-C and return what it said."""
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert errors == ""
    return output


def test_people_judge_at_the_page_without_seeing_names(runs: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "judging"
    options = [*runs, "--episodes", "4", "--seconds", "0.2", "--matches", "3"]
    with judging(folder, *options) as (process, url, _):
        with httpx.Client(base_url=url, timeout=60) as client:
            answers = give_answers(client)
            live = client.get("/api/judging").raise_for_status().json()
            table = client.get("/api/judging.csv").raise_for_status().text
        output = stop(process)
    assert f"{answers} answers to 3 matches" in output
    # What the page told meanwhile is what was printed in the end.
    ranking = json.loads((folder / "ranking.json").read_text())
    assert (live["ranking"]["answers"], live["ranking"].pop("stop")) == (answers, None)
    assert live["ranking"] == ranking
    assert [person["name"] for person in live["judges"]] == ["annotator"]
    assert table.splitlines()[1].startswith(f"1,{ranking['agents'][0]['name']},{ranking['agents'][0]['win_rate']}")
    with Store(folder / "preferences.sqlite", create=False) as store:
        for query in store.find_queries([p.query.id for p in store.preferences("judge")]).values():
            assert {segment.source for segment in query.segments} == {"judge"}
            assert max(len(segment) for segment in query.segments) <= 5


def test_a_judging_is_clicked_through_in_a_browser(
    runs: list[str], tmp_path: Path, visit: Callable[[str], Page], capsys: pytest.CaptureFixture[str]
) -> None:
    """One match for each agent, one tie, one that cannot be told; the last is undone and answered anew."""
    folder = tmp_path / "judging"
    options = ["--episodes", "6", "--seconds", "1", "--matches", "4", "--annotators", "ann"]
    with judging(folder, *runs, *options) as (process, url, manage):
        page = visit(url)
        page.wait(lambda: "Which clip does it better?" in page.text)
        shown: list[tuple[str, ...]] = []
        for choice in ("0", "1", "equal", "skip"):
            assert "agent-" not in page.run("return document.documentElement.outerHTML")
            page.wait(lambda: page.clips() not in shown)
            shown.append(page.clips())
            page.click(f"[data-answer='{choice}']")
        page.wait(lambda: "All done" in page.text)
        page.press("u")
        page.wait(lambda: "All done" not in page.text and page.clips() == shown[3])
        page.click("[data-answer='0']")
        page.wait(lambda: "All done" in page.text)
        page.wait(lambda: page.unsent == 0)
        page.driver.get(url.split("?")[0] + "judging")
        assert "Not for you" in page.text
        page.driver.get(manage)
        page.click("a[href='/judging']")
        page.wait(lambda: "4 answers to 4 questions; 0 waiting." in page.text)
        rows = page.run("return [...document.querySelectorAll('#agents tr')].map(row => row.innerText)")
        assert {name for row in rows for name in ("agent-0", "agent-1") if name in row} == {"agent-0", "agent-1"}
        page.wait(lambda: page.run("return [...document.querySelectorAll('video')].every(v => v.readyState > 0)"))
        assert page.run("return document.querySelectorAll('.range[aria-label]').length") == 2
        output = stop(process)
    assert "4 answers to 4 matches" in output
    with Store(folder / "preferences.sqlite", create=False) as store:
        answers = store.preferences("judge")
        preferred = {p.query.segments[p.best].hash for p in answers if p.best is not None}
        assert preferred == {shown[0][0], shown[1][1], shown[3][0]}
        assert {p.annotator for p in answers} == {"ann"}
    capsys.readouterr()
    main(["judge", "--folder", str(folder), "--report", "--json"])
    ranking = json.loads(capsys.readouterr().out)
    assert (ranking["answers"], ranking["waiting"]) == (4, 0)
    # A tie is half a win for each.
    assert sum(agent["wins"] for agent in ranking["agents"]) == 4
    assert {agent["ties"] for agent in ranking["agents"]} == {1}


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
    # The server takes no answers faster than a person can look.
    time.sleep(1.0)
    headers = {"X-CSRF": session["csrf"], "Origin": str(client.base_url).rstrip("/")}
    posted = client.post("/api/answers", json={"answers": answers}, headers=headers).raise_for_status().json()
    assert len(posted["accepted"]) == 3, posted
    return len(answers)
