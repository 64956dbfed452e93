"""`prefenvs rate` and `prefenvs train --oracle vlm`, as programs against a real HTTP server."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from server import hashes, judge_by

from prefenvs.cli import main
from prefenvs.oracles import VLMOracle
from prefenvs.oracles.calibration import calibrate, describe_cost
from prefenvs.oracles.simulated.partial_return import PartialReturnOracle
from prefenvs.oracles.vlm import Budget
from prefenvs.preferences import Query
from prefenvs.runs import Run
from prefenvs.store import Store, list_calls

from ...awkward import LAMP

TASK = "Pendulum-v1"


def options(server, *more):
    return ["--vlm-url", server.url, "--vlm-model", "m", "--vlm-size", "32", "--vlm-stages", "one", *more]


def fill(path, queries, run="lesson"):
    with Store(path) as store:
        store.add_queries(queries, run=run)
    return judge_by({s.hash: float(s.true_rewards.sum()) for q in queries for s in q.segments}.__getitem__)


def test_pending_queries_are_labelled_once(make_queries, serve, tmp_path: Path, capsys) -> None:
    path = tmp_path / "labels.sqlite"
    server = serve(fill(path, make_queries(12)))
    for _ in range(2):
        main(["rate", "--store", str(path), "--no-progress", *options(server)])
    out = capsys.readouterr().out
    assert "lesson: 12 labels, 0 skips; tokens 1,320" in out
    assert "no query" in out
    assert len(server.requests) == 12
    with Store(path) as store:
        for answer in store.preferences(run="lesson", with_true_rewards=True):
            assert answer.best == np.argmax([s.true_rewards.sum() for s in answer.query.segments])
            assert (answer.oracle, answer.annotator) == ("vlm", "m")
    main(["rate", "--store", str(path), "--audit"])
    calls = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(calls) == 12
    assert all("pointing straight up" in json.dumps(call["prompt"]) and call["reply"] for call in calls)


def test_the_end_of_the_budget_is_told_and_a_larger_one_goes_on(make_queries, serve, tmp_path: Path, capsys) -> None:
    path = tmp_path / "labels.sqlite"
    server = serve(fill(path, make_queries(6)))
    command = ["rate", "--store", str(path), "--no-progress", *options(server)]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--vlm-budget-queries", "4"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "4 of 4 queries; 2 queries are left, which a larger budget goes on with" in told
    main([*command, "--vlm-budget-queries", "6"])
    assert len(server.requests) == 6


def test_a_model_that_talks_nonsense_is_not_paid_for_it(make_queries, serve, tmp_path: Path, capsys) -> None:
    path = tmp_path / "labels.sqlite"
    fill(path, make_queries(60))
    server = serve(lambda request: "I like\nboth.")
    with pytest.raises(SystemExit) as ended:
        main(["rate", "--store", str(path), "--no-progress", *options(server), "--vlm-concurrency", "1"])
    assert ended.value.code == 2
    out, told = capsys.readouterr()
    assert "replies is a verdict, the last is 'I like both.': mend the prompts" in told
    assert "most replies are no verdict, the last is 'I like both.'" in out
    assert 20 <= len(server.requests) < 60
    with Store(path) as store:
        assert len(store.preferences(run="lesson")) == len(server.requests)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "say what to rate"),
        (["--store", "absent.sqlite"], "no store"),
        (["--check", "10"], "name a --task"),
        (["--check", "10", "--task", TASK], "--vlm-model"),
        (["--check", "10", "--task", TASK, "--vlm-model", "m"], "OPENAI_API_KEY"),
        (["--dataset", "nowhere", "--oracle", "mistake"], "no data set"),
        (["--check", "4", "--task", TASK, "--vlm-model", "m", "--vlm-url", "http://127.0.0.1:9/v1",
          "--vlm-attempts", "1"], "cannot be reached"),
    ],
    ids=str,
)  # fmt: skip
def test_bad_input_is_one_line(arguments, told, capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["rate", *arguments])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert told in line


def test_a_stopped_program_goes_on_and_pays_for_nothing_twice(make_queries, serve, tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    server = serve(fill(path, make_queries(40)), delay=0.1)
    command = ["rate", "--store", str(path), "--no-progress", *options(server), "--vlm-concurrency", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "prefenvs", *command], stderr=subprocess.PIPE, text=True, env=environment
    )
    while len(server.requests) < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    paid = len(server.requests)
    assert 5 <= paid < 40
    with Store(path) as store:
        assert len(store.preferences(run="lesson")) == paid == len(list_calls(store))
    server.delay = 0.0
    main(command)
    assert len(server.requests) == 40


def test_answers_under_way_when_the_server_fails_are_waited_for(make_queries, serve, tmp_path: Path, capsys) -> None:
    path = tmp_path / "labels.sqlite"
    good, calls = fill(path, make_queries(8)), itertools.count(1)

    def script(request):
        if next(calls) == 3:
            return 503, {"error": {"message": "busy"}}
        time.sleep(1.0)
        return good(request)

    server = serve(script)
    main(["rate", "--store", str(path), "--no-progress", *options(server, "--vlm-attempts", "1")])
    assert "lesson: 8 labels" in capsys.readouterr().out
    assert len(server.requests) == 9


def test_a_second_process_is_sent_away_and_pays_for_nothing(make_queries, serve, tmp_path: Path, capsys) -> None:
    path = tmp_path / "labels.sqlite"
    server = serve(fill(path, make_queries(4)))
    command = ["rate", "--store", str(path), "--no-progress", *options(server)]
    with Store(path) as store, store.claim("a rating of run 'lesson'"):
        with pytest.raises(SystemExit):
            main(command)
        assert "another process has a rating of run 'lesson'" in capsys.readouterr().err
        assert server.requests == []
    main(command)
    assert len(server.requests) == 4
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".lock"] == []


def test_what_was_paid_for_is_told_when_the_server_turns_away(make_queries, serve, tmp_path: Path, capsys) -> None:
    path = tmp_path / "labels.sqlite"
    good, calls = fill(path, make_queries(8)), itertools.count(1)
    server = serve(lambda request: (401, {}) if next(calls) > 3 else good(request))
    with pytest.raises(SystemExit):
        main(["rate", "--store", str(path), "--no-progress", *options(server, "--vlm-concurrency", "1")])
    out, told = capsys.readouterr()
    assert "lesson: 3 labels, 0 skips; tokens 330" in out
    assert "check the key" in told


def test_a_biased_rater_is_seen_through(make_queries) -> None:
    queries = make_queries(200)
    found = calibrate(PartialReturnOracle("mistake", seed=0), queries)
    assert found.right.interval[0] < 0.9 < found.right.interval[1]
    assert found.queries == sum(part.queries for part in found.bins) == 200
    assert [part.high for part in found.bins] == sorted(part.high for part in found.bins)
    noisy = calibrate(PartialReturnOracle("noisy", seed=0), queries)
    assert noisy.bins[0].right.value < noisy.bins[-1].right.value


def test_check_prints_what_a_model_is_worth(serve, tmp_path: Path, capsys) -> None:
    verdicts = iter(["first", "unsure", "first", "first"] * 100)
    server = serve(lambda request: json.dumps({"verdict": next(verdicts)}))
    prices = ["--vlm-price-in", "1000", "--vlm-price-out", "1000", "--vlm-order", "both"]
    main(["rate", "--check", "20", "--task", TASK, "--segment-length", "10", *options(server, *prices)])
    out = capsys.readouterr().out
    assert "20 queries whose true returns are known" in out
    assert "shown first was chosen in 100.0%" in out
    assert "same choice in both orders: 0.0%" in out
    assert "verdict depends on the order" in out
    assert f"cost: {40 * 0.11:.4f}, 4,400 tokens; no useful label; 1,000 queries like these: 220.00, 220,000" in out
    assert len(server.requests) == 40


def test_check_films_a_task_that_tells_no_states(serve, tmp_path: Path, capsys, monkeypatch) -> None:
    (tmp_path / "filmed_lamps.py").write_text(LAMP)
    monkeypatch.syspath_prepend(str(tmp_path))
    server = serve(lambda request: json.dumps({"verdict": "first"}))
    main(["rate", "--check", "4", "--task", "filmed_lamps:Lamp", "--segment-length", "6", *options(server)])
    assert "4 queries whose true returns are known" in capsys.readouterr().out
    assert len({picture for request in server.requests for picture in hashes(request)}) > 1


def test_check_compares_no_pair_twice(capsys) -> None:
    # Segments as long as episodes: 14 of them, so 91 pairs.
    with pytest.warns(UserWarning, match="only 91 pairs"):
        main(["rate", "--check", "100", "--task", TASK, "--segment-length", "200", "--oracle", "oracle"])
    assert "91 queries whose true returns are known" in capsys.readouterr().out


def test_check_on_a_store_of_known_returns(make_queries, serve, tmp_path: Path, capsys) -> None:
    path = tmp_path / "labels.sqlite"
    server = serve(fill(path, make_queries(12)))
    main(["rate", "--check", "10", "--store", str(path), *options(server)])
    assert "accuracy: 100.0%" in capsys.readouterr().out


def test_check_takes_pairs_with_true_rewards_of_the_run_that_is_named(make_queries, tmp_path: Path, capsys) -> None:
    path, queries = tmp_path / "labels.sqlite", make_queries(12)
    with Store(path) as store:
        store.add_queries([Query((*queries[0].segments, queries[1].segments[0]))], run="best of three")
        store.add_queries(queries[:5], run="a")
        store.add_queries(queries[5:], run="b")
    for more, count in (([], 12), (["--task-run", "a"], 5)):
        main(["rate", "--check", "20", "--store", str(path), "--oracle", "mistake", *more])
        assert f"{count} queries whose true returns are known" in capsys.readouterr().out


def test_check_0_sends_nothing_and_tells_what_a_model_may_cost(serve, capsys) -> None:
    server = serve(lambda request: None)
    prices = ["--vlm-price-in", "1000", "--vlm-price-out", "1000"]
    check = ["rate", "--task", TASK, *options(server, *prices), "--vlm-order", "both", "--vlm-max-tokens", "100"]
    main([*check, "--check", "0", "--pairs", "10"])
    out = capsys.readouterr().out
    assert server.requests == []
    # What is told is what is set aside for a query: with that much it is asked, with less it is not.
    most = int(re.search(r"at most ([\d,]+) tokens, ", out)[1].replace(",", "")) // 10
    assert f"at most {10 * most:,} tokens, {most / 100:.2f}" in out
    assert most > 4 * 1_600 + 200
    for tokens in (most - 1, most):
        with pytest.raises(SystemExit):
            main([*check, "--check", "2", "--vlm-attempts", "1", "--vlm-budget-tokens", str(tokens)])
        assert bool(server.requests) == (tokens == most)


def test_a_check_whose_server_turns_away_measures_what_it_has(serve, capsys) -> None:
    calls = itertools.count(1)
    no_quota = 402, {"error": {"message": "insufficient_quota"}}
    server = serve(lambda request: no_quota if next(calls) > 6 else json.dumps({"verdict": "first"}))
    with pytest.raises(SystemExit):
        main(["rate", "--check", "10", "--task", TASK, *options(server, "--vlm-concurrency", "1")])
    out, told = capsys.readouterr()
    assert "6 queries whose true returns are known" in out
    assert "has no quota left" in told


def test_the_price_of_a_check_leaves_out_what_was_paid_before(make_queries, serve, store) -> None:
    server = serve(lambda request: json.dumps({"verdict": "first"}))
    budget, queries = Budget(price_in=1000, price_out=1000), make_queries(8)
    for count in (4, 8):
        with VLMOracle(TASK, "m", base_url=server.url, stages="one", store=store, budget=budget) as oracle:
            found = calibrate(oracle, queries[:count])
        assert (found.queries, found.paid) == (count, 4)
        assert found.cost_per_label == pytest.approx(0.11)
        assert "1,000 queries like these: 110.00, 110,000 tokens" in describe_cost(found, 1_000)


def test_a_check_says_for_how_many_queries_the_server_told_no_tokens(make_queries, serve) -> None:
    calls = itertools.count(1)

    def script(request):
        told = {} if next(calls) % 2 else {"usage": None}
        return told | {"content": json.dumps({"verdict": "first"})}

    server = serve(script)
    with VLMOracle(TASK, "m", base_url=server.url, stages="one", concurrency=1) as oracle:
        found = calibrate(oracle, make_queries(4))
    assert "; the most it can be for 2 queries whose tokens the server did not tell" in describe_cost(found, 1_000)


def test_pebble_is_trained_by_a_model_and_the_run_is_replayed(serve, tmp_path: Path, capsys) -> None:
    """The simulated model cannot know returns of segments it has not seen, so it prefers the greater hash."""
    server = serve(judge_by(lambda key: int(key[:8], 16)))
    command = ["train", "pebble", "--task", TASK, "--oracle", "vlm", "--wait", "--preset", "small", "--no-progress",
               "--steps", "420", "--labels", "8", "--per-session", "4", "--interact", "100", "--segment-length", "10",
               "--unsupervised-steps", "100", "--learning-starts", "190", "--episodes", "1"]  # fmt: skip
    path = str(tmp_path / "calls.sqlite")
    Store(path).close()
    main([*command, *options(server), "--folder", str(tmp_path / "a"), "--store", path])
    assert 6 < len(server.requests) <= 8
    with Store(path) as store:
        assert {call.run for call in list_calls(store)} == {"a"}
    with Store(tmp_path / "a" / "preferences.sqlite") as store:
        assert len(store.preferences()) == 8
    record = json.loads((tmp_path / "a" / "run.json").read_text())
    assert record["config"]["vlm_model"] == "m"
    paid = len(server.requests)
    server.close()
    main([*command, *options(server, "--vlm-replay"), "--folder", str(tmp_path / "b"), "--store", path])
    assert len(server.requests) == paid
    same = [Run.open(tmp_path / name).rows("evaluations")[-1]["mean_return"] for name in "ab"]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    ("given", "reply", "told"),
    [
        (["--vlm-budget-tokens", "10"], "", "wait for an answer: the budget is used up: 0 of 10 tokens"),
        ([], "I like both.", "were skipped (answer in the wrong form 8)"),
    ],
)
def test_a_run_that_got_no_label_says_what_ailed_the_model(serve, given, reply, told, tmp_path: Path, capsys) -> None:
    server = serve(lambda request: reply)
    with pytest.raises(SystemExit), pytest.warns(match="used up") if given else contextlib.nullcontext():
        main(["train", "pebble", "--task", TASK, "--oracle", "vlm", "--wait", "--preset", "small", "--no-progress",
              "--steps", "220", "--labels", "8", "--per-session", "8", "--segment-length", "10", "--episodes", "1",
              "--unsupervised-steps", "5", "--learning-starts", "200", "--hidden", "8", *options(server, *given),
              "--folder", str(tmp_path / "run")])  # fmt: skip
    assert told in capsys.readouterr().err


def test_training_without_a_model_is_refused_before_it_starts(capsys, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["train", "pebble", "--task", TASK, "--oracle", "vlm", "--folder", str(tmp_path / "x")])
    assert "--vlm-model" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_hashes_name_what_is_shown(make_queries, serve, tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    queries = make_queries(1)
    fill(path, queries)
    server = serve(lambda request: json.dumps({"verdict": "first"}))
    main(["rate", "--store", str(path), "--no-progress", *options(server)])
    assert sorted(hashes(server.requests[0])) == sorted(s.hash for s in queries[0].segments)
