"""A program that is killed while calls are under way, and started again."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from prefenvs.cli import main
from prefenvs.store import Call, Store, add_calls, export_store, import_store, list_calls, sum_calls
from prefenvs.store.calls import UNDER_WAY


def options(server, *more):
    limits = ["--vlm-max-tokens", "20", "--vlm-concurrency", "4"]
    return ["--vlm-url", server.url, "--vlm-model", "m", "--vlm-size", "32", "--vlm-stages", "one", *limits, *more]


def test_calls_under_way_are_in_the_budget_after_a_kill(make_queries, serve, tmp_path: Path, capsys) -> None:
    path = tmp_path / "labels.sqlite"
    with Store(path) as store:
        store.add_queries(make_queries(30), run="a")
    server = serve(lambda request: json.dumps({"verdict": "first"}))
    number = itertools.count()

    def slow(request):
        # The first calls are answered, those after them are under way when the program dies.
        time.sleep(0.0 if next(number) < 4 else 30.0)
        return json.dumps({"verdict": "first"})

    server.script = slow
    command = ["rate", "--store", str(path), "--no-progress", *options(server)]
    process = subprocess.Popen(
        [sys.executable, "-m", "prefenvs", *command], stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    try:
        while len(server.requests) < 8:
            time.sleep(0.01)
            assert process.poll() is None, process.communicate()[1]
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    server.script = lambda request: json.dumps({"verdict": "first"})
    with Store(path) as store:
        calls = list_calls(store, "a")
        under_way = [call for call in calls if call.finish == UNDER_WAY]
        assert len(under_way) == 4
        assert len(calls) == 8 == sum_calls(store, "a").queries
        assert all(call.reply is None and call.tokens_in > 3_000 and call.tokens_out == 20 for call in under_way)
        spent = sum_calls(store, "a")
    # Those four are asked again and stay queries that have been called; two more fit.
    with pytest.raises(SystemExit):
        main([*command, "--vlm-budget-queries", "10"])
    assert "10 of 10 queries; 20 queries are left" in capsys.readouterr().err
    assert len(server.requests) == 8 + 4 + 2
    with Store(path) as store:
        now = sum_calls(store, "a")
        assert now.queries == 10
        assert now.tokens_in == spent.tokens_in + 6 * 100
        assert [call.finish for call in list_calls(store, "a")].count(UNDER_WAY) == 4
        assert not any(answer.skipped for answer in store.preferences(run="a"))
    # What the killed program may have been charged is out of reach.
    tokens = now.tokens_in + now.tokens_out
    with pytest.raises(SystemExit):
        main([*command, "--vlm-budget-tokens", str(tokens + 3_000)])
    assert len(server.requests) == 14


def test_a_record_of_a_call_under_way_gives_way_to_its_end(tmp_path: Path) -> None:
    begun = Call("k", "a", "q", "m", "{}", None, UNDER_WAY, 9, 5, 0.5, 0.0, 1.0)
    other = Call("k", "b", "q", "m", "{}", None, UNDER_WAY, 9, 5, 0.5, 0.0, 1.0)
    ended = Call("k", "a", "q", "m", "{}", "FIRST", "stop", 4, 1, 0.1, 1.0, 2.0)
    with Store(tmp_path / "one.sqlite") as one, Store(tmp_path / "two.sqlite") as two:
        add_calls(one, [begun, other])
        export_store(one, tmp_path / "before")
        add_calls(one, [ended], [begun])
        assert list_calls(one) == [other, ended]
        # An end is never taken away.
        add_calls(one, [], [ended])
        assert list_calls(one) == [other, ended]
        # Who took over the record while the call was under way gets the reply as well.
        export_store(one, tmp_path / "after")
        for name in ("before", "after"):
            import_store(two, tmp_path / name)
        assert ended in list_calls(two)


@pytest.mark.parametrize("tokens", [0, 10**18])
def test_old_counts_are_summed(tmp_path: Path, tokens) -> None:
    """A store may hold counts as servers sent them: 0 for a call that was made, or more than a sum can hold."""
    calls = [Call("k", "a", f"q{i}", "m", "{}", "FIRST", "stop", tokens, 1, 0.0, 1.0, float(i)) for i in range(20)]
    identical = Call("k", "a", "other", "m", "{}", "", "identical pictures", 0, 0, 0.0, 0.0, 3.0)
    with Store(tmp_path / "s.sqlite") as store:
        add_calls(store, [*calls, identical])
        assert sum_calls(store, "a").queries == 20
        assert sum_calls(store, "a").tokens_in == pytest.approx(20 * tokens)
