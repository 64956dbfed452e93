"""What models have cost is added up alike by both databases: calls under way, failed ones, sums beyond an integer."""

from __future__ import annotations

import dataclasses

from prefenvs.store import Call, Store, add_calls, called_queries, list_calls, sum_calls
from prefenvs.store.calls import IDENTICAL, UNDER_WAY


def make_call(number: int, **about: object) -> Call:
    known = Call(f"{number:064}", "run", f"{number:032}", "m", "prompt", "A", "stop", 100, 7, 0.25, 1.5, 1e9 + number)
    return dataclasses.replace(known, **about)  # type: ignore[arg-type]


def test_a_budget_holds_over_restarts(location: str) -> None:
    with Store(location) as store:
        begun = make_call(1, reply=None, finish=UNDER_WAY, tokens_in=500)
        add_calls(store, [make_call(0), begun, make_call(0, time=2e9, reply=None, finish="error")])
        add_calls(store, [make_call(2, finish=IDENTICAL, tokens_in=0, tokens_out=0, cost=0.0)])
        add_calls(store, [make_call(3, run="other")])
    # As after a kill: the call under way is charged at what was set aside, one of identical clips not at all.
    with Store(location) as store:
        spent = sum_calls(store, "run")
        assert (spent.queries, spent.tokens_in, spent.tokens_out, spent.cost) == (2, 700, 21, 0.75)
        assert called_queries(store, "run") == {begun.query, make_call(0).query}
        add_calls(store, [make_call(1, tokens_in=120)], ended=[begun])
    with Store(location) as store:
        assert sum_calls(store, "run").tokens_in == 320
        assert [call.finish for call in list_calls(store, "run") if call.query == begun.query] == ["stop"]
        large = 2**62
        add_calls(store, [make_call(i, tokens_in=large, run="large") for i in range(3)])
        assert sum_calls(store, "large").tokens_in == 3 * large
