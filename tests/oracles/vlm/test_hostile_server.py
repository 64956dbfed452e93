"""What a server may do to a rater: charge for what fails, stumble over one query, send what nobody can store."""

from __future__ import annotations

import math
import socket
import sys
import time
from email.utils import formatdate
from pathlib import Path

import pytest
from server import hashes, is_probe, judge_by, texts

from prefenvs.errors import PrefenvsError
from prefenvs.oracles import VLMOracle
from prefenvs.oracles.vlm import Budget, View
from prefenvs.oracles.vlm.client import read_wait
from prefenvs.store import list_calls, sum_calls

TASK = "Pendulum-v1"
FIRST = '{"verdict": "first"}'
SECRET = "sk-very-secret-1234"


def make(server, store=None, **settings):
    fast = {"view": View(size=32), "backoff": 0.01, "wait": True, "stages": "one", "base_url": server.url}
    return VLMOracle(TASK, "m", store=store, **(fast | settings))


def true_returns(queries):
    return {s.hash: float(s.true_rewards.sum()) for q in queries for s in q.segments}.__getitem__


def told(*answer):
    return lambda request: answer if len(answer) > 1 else answer[0]


# What an attempt costs though it fails: a 500, a reply that is no JSON, a broken connection, one that never comes.
CHARGED = {
    "500": (500, {"error": {"message": "oops"}}),
    "malformed": b"{ not json",
    "empty": b'{"choices": []}',
    "dropped": None,
    "slow": "slow",
}


TOKENS, MONEY = {"tokens": 9_000}, {"cost": 9e-3, "price_in": 1.0, "price_out": 1.0}


@pytest.mark.parametrize(
    ("kind", "limit", "stages"),
    [
        *((kind, TOKENS, "one") for kind in CHARGED),
        ("500", MONEY, "two"),
        ("slow", TOKENS, "two"),
        ("slow", MONEY, "one"),
    ],
    ids=str,
)
def test_every_attempt_fits_the_budget(make_queries, serve, store, kind, limit, stages) -> None:
    """What the server may have charged by its own count: an attempt is one prompt and one full reply."""

    def script(request):
        if kind == "slow":
            time.sleep(0.15)
        return FIRST if kind == "slow" or is_probe(request) else CHARGED[kind]

    server = serve(script)
    settings = {"max_tokens": 200, "picture_tokens": 200, "attempts": 6, "concurrency": 4, "stages": stages}
    timeout = {"timeout": 0.05} if kind == "slow" else {}
    with make(server, store, budget=Budget(**limit), wait=False, **settings, **timeout) as oracle:
        oracle.ask(make_queries(8))
        assert oracle.settle(30)
        assert oracle.trouble is not None
    spent = sum_calls(store, "")
    calls = [call for call in list_calls(store) if call.tokens_in]
    attempts = sum(not is_probe(request) for request in server.requests)
    # A request may be given up before the server has read it.
    assert len(calls) >= attempts > 4
    assert len(calls) == attempts or kind == "slow"
    assert spent.tokens_in + spent.tokens_out == sum(call.tokens_in + call.tokens_out for call in calls) <= 9_000
    assert all(call.tokens_out == 200 and call.reply is None for call in calls)


def test_a_server_that_cannot_be_reached_charges_nothing(make_queries, store) -> None:
    """Its connections wait, as behind a firewall: nothing was sent that could be charged."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/v1"
        with VLMOracle(TASK, "m", base_url=url, store=store, timeout=5.0, attempts=1, wait=True) as oracle:
            oracle.ask(make_queries(1))
            with pytest.raises(PrefenvsError, match="sent no reply"):
                oracle.collect()
        for one in waiting:
            one.close()
    assert sum_calls(store, "").tokens_in == 0


def test_a_query_that_is_begun_anew_counts_once(make_queries, serve, store) -> None:
    """Also where the server reports that nothing was used."""
    usage = {"prompt_tokens": 0, "completion_tokens": 0}
    server = serve(lambda request: {"content": FIRST, "usage": usage})
    for asked, answered in ((4, 4), (10, 6)):
        with make(server, store, budget=Budget(queries=6), run="a") as oracle:
            oracle.ask(make_queries(10)[-asked:])
            assert len(oracle.collect()) == answered
            assert sum_calls(store, "a").queries == len(server.requests)
    assert all(call.tokens_in > 0 < call.tokens_out for call in list_calls(store))
    down = serve(told(500, {"error": {"message": "down"}}))
    for _ in range(3):
        with make(down, store, budget=Budget(queries=1), run="b", attempts=1) as oracle:
            oracle.ask(make_queries(1, seed=4))
            with pytest.raises(PrefenvsError, match="status 500"):
                oracle.collect()
    assert sum_calls(store, "b").queries == 1


POISON = {
    "500": (500, {"error": {"message": "assertion in the image encoder"}}),
    "400": (400, {"error": {"message": "cannot decode the image data"}}),
    "413": (413, b"too large"),
    "422": (422, {"detail": [{"msg": "no"}]}),
    "malformed": b"{ not json",
    "nested": b"[" * 100_000,
    "dropped": None,
    "empty": b'{"choices": []}',
    "error with status 200": b'{"error": {"message": "upstream failed", "code": 599}}',
}


@pytest.mark.parametrize(
    ("kind", "place"), [*((kind, 3) for kind in POISON), ("500", 0), ("500", 5), ("400", 0), ("400", 5), ("dropped", 5)]
)
def test_one_query_that_fails_is_skipped_and_the_others_are_labelled(make_queries, serve, store, kind, place) -> None:
    queries = make_queries(6)
    good, bad = judge_by(true_returns(queries)), {s.hash for s in queries[place].segments}

    def script(request):
        return "Hi" if is_probe(request) else POISON[kind] if bad == set(hashes(request)) else good(request)

    server = serve(script)
    with make(server, store, attempts=2, concurrency=1) as oracle:
        oracle.ask(queries)
        answers = oracle.collect()
        assert len(answers) == 6
        assert oracle.pending == 0
    skipped = [answer for answer in answers if answer.skipped]
    assert [answer.query.id for answer in skipped] == [queries[place].id]
    (reason,) = oracle.reasons
    assert reason.startswith("no reply to this query alone")
    assert "\n" not in reason
    asked = len(server.requests)
    # It is skipped again without a call, also in a replay.
    for replay in (False, True):
        with make(server, store, replay=replay) as again:
            again.ask(queries)
            assert [a.query.id for a in again.collect() if a.skipped] == [queries[place].id]
    assert len(server.requests) == asked


def test_a_lone_query_is_skipped_where_the_model_is_known_to_answer(make_queries, serve, store) -> None:
    good, bad = make_queries(1), make_queries(1, seed=7)
    server = serve(lambda request: FIRST)
    with make(server, store) as oracle:
        oracle.ask(good)
        oracle.collect()
    server.script = lambda request: "Hi" if is_probe(request) else (500, {"error": {"message": "oops"}})
    with make(server, store, attempts=1) as oracle:
        oracle.ask(bad)
        assert oracle.collect()[0].skipped
    with make(server, attempts=1) as unknown:
        unknown.ask(bad)
        with pytest.raises(PrefenvsError, match=r"status 500.*1 queries wait"):
            unknown.collect()


@pytest.mark.parametrize("stages", ["one", "two"])
@pytest.mark.parametrize("kind", ["500", "dropped"])
def test_an_outage_skips_nothing(make_queries, serve, store, kind, stages) -> None:
    """The server answers for a while, and then no more."""
    queries = make_queries(12)
    left = iter(range(4))
    down = {"500": (500, {"error": {"message": "down"}}), "dropped": None}[kind]
    server = serve(lambda request: FIRST if next(left, None) is not None else down)
    with make(server, store, attempts=2, concurrency=2, stages="one", wait=False) as oracle:
        oracle.ask(queries)
        assert oracle.settle(20)
        answers = oracle.collect()
        assert oracle.trouble.kind == "outage"
        assert not any(answer.skipped for answer in answers)
        assert oracle.pending == 12 - len(answers) == 8


def test_pictures_that_all_fail_are_the_servers_fault(make_queries, serve, store) -> None:
    """It answers what has no pictures, so only the number of queries that fail tells."""
    server = serve(lambda request: "Hi" if is_probe(request) else (500, {"error": {"message": "out of memory"}}))
    with make(server, store, attempts=1, concurrency=2) as oracle:
        oracle.ask(make_queries(9))
        with pytest.raises(PrefenvsError, match=r"out of memory.*9 queries wait"):
            oracle.collect()
    assert not any(call.reply for call in list_calls(store))


REFUSALS = [
    (400, {"error": {"message": "Rejected", "code": "moderation_blocked"}}),
    (400, {"error": {"message": "Rejected", "code": "content_policy_violation"}}),
    (400, {"error": {"message": "x", "code": "400", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}),
    (400, {"error": {"message": "x", "code": "data_inspection_failed"}}),
    (400, {"error": {"message": "Your request was flagged as potentially violating our usage policy"}}),
    (403, {"error": {"message": "Your input was flagged", "code": 403}}),
    b'{"error": {"message": "no", "code": "content_filter"}}',
    {"content": None, "finish_reason": "SAFETY"},
    {"content": "", "finish_reason": "content_filter"},
    {"content": [{"type": "refusal", "refusal": "No."}], "refusal": "No."},
    {"content": None, "refusal": {"reason": 1}},
]


@pytest.mark.parametrize("answer", REFUSALS, ids=str)
def test_refusals_are_skips_after_one_call(make_queries, serve, store, answer) -> None:
    server = serve(lambda request: answer)
    with make(server, store) as oracle:
        oracle.ask(make_queries(1))
        assert oracle.collect()[0].skipped
    assert dict(oracle.reasons) == {"refused to answer": 1}
    assert len(server.requests) == 1 == len(list_calls(store))


PERMANENT = [
    (400, {"error": {"message": "m is not a multimodal model"}}, "takes no such pictures"),
    (500, {"error": {"message": "image input is not supported - hint: provide the mmproj"}}, "takes no such pictures"),
    (500, {"error": {"message": "this model is missing data required for image input"}}, "takes no such pictures"),
    (400, {"error": {"message": "This model does not support image inputs"}}, "takes no such pictures"),
    (400, {"error": {"message": "image_url is only supported by certain models."}}, "takes no such pictures"),
    (402, {"error": {"message": "Insufficient Balance"}}, "no quota"),
    (429, {"error": {"message": "x", "type": "insufficient_quota"}}, "no quota"),
    (405, {"detail": "Method Not Allowed"}, "Method Not Allowed"),
    (501, {"error": {"message": "no"}}, "status 501"),
    (404, {"error": "model 'm' not found"}, "model's name"),
]


@pytest.mark.parametrize(("status", "body", "line"), PERMANENT, ids=str)
def test_what_stays_wrong_is_asked_once(make_queries, serve, status, body, line) -> None:
    server = serve(told(status, body))
    with make(server, concurrency=1) as oracle:
        oracle.ask(make_queries(1))
        with pytest.raises(PrefenvsError, match=line) as caught:
            oracle.collect()
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [307, 308])
def test_redirects_in_a_circle_are_told(make_queries, serve, status) -> None:
    server = serve(told(status, b"", {"Location": "/v1/chat/completions"}), models=None)
    with make(server) as oracle:
        oracle.ask(make_queries(2))
        with pytest.raises(PrefenvsError, match="in a circle"):
            oracle.collect()
    assert len(server.requests) <= 8


def test_a_redirect_is_followed(make_queries, serve) -> None:
    there = serve(lambda request: FIRST)
    here = serve(told(307, b"", {"Location": f"{there.url}/chat/completions"}))
    with make(here) as oracle:
        oracle.ask(make_queries(1))
        assert not oracle.collect()[0].skipped


@pytest.mark.parametrize("header", ["0", "-5", "nan", "-inf", "0.001", "soon", "", formatdate(0, usegmt=True)])
@pytest.mark.parametrize("name", ["Retry-After", "Retry-After-Ms"])
def test_no_header_takes_the_pause_away(make_queries, serve, name, header) -> None:
    limits = iter([(429, {"error": {"message": "later"}}, {name: header})] * 2)
    server = serve(lambda request: next(limits, FIRST))
    with make(server, backoff=0.1) as oracle:
        oracle.ask(make_queries(1))
        oracle.collect()
    assert server.times[1] - server.times[0] >= 0.07
    assert server.times[2] - server.times[1] >= 0.14


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"retry-after": "2.5"}, 2.5, 2.5),
        ({"retry-after-ms": "300"}, 0.3, 0.3),
        ({"retry-after-ms": "nan", "retry-after": "4"}, 4, 4),
        ({"retry-after": "1e400"}, math.inf, math.inf),
    ],
    ids=str,
)
def test_waits_are_read(headers, least, most) -> None:
    assert least <= read_wait(headers) <= most


def test_a_date_is_a_wait() -> None:
    assert 390 <= read_wait({"retry-after": formatdate(time.time() + 400, usegmt=True)}) <= 400


@pytest.mark.parametrize("headers", [{}, {"retry-after": "Fri, 99 Foo 2015"}, {"retry-after": "nan"}], ids=str)
def test_what_is_no_wait_is_none(headers) -> None:
    assert read_wait(headers) is None


@pytest.mark.parametrize("dirt", ["\x00", "\ud800", "\udfff\x00"], ids=ascii)
def test_what_no_store_keeps_is_paid_once_and_replayed(make_queries, serve, store, dirt) -> None:
    queries = make_queries(2)
    server = serve(lambda request: f"Seen {dirt} {hashes(request)}." if hashes(request) else "FIRST")
    with make(server, store, stages="two") as oracle:
        oracle.ask(queries)
        first = {a.query.id: a.best for a in oracle.collect()}
    paid = len(server.requests)
    assert paid == 4
    for replay in (False, True):
        with make(server, store, stages="two", replay=replay) as again:
            again.ask(queries)
            assert {a.query.id: a.best for a in again.collect()} == first
    assert len(server.requests) == paid


USAGES = [
    {"prompt_tokens": 10**18, "completion_tokens": 10**18},
    {"prompt_tokens": 10**30, "completion_tokens": 1},
    {"prompt_tokens": -1, "completion_tokens": True},
    {"prompt_tokens": "many", "completion_tokens": None},
    {"prompt_tokens": [1], "completion_tokens": {}},
    {"prompt_tokens": math.nan, "completion_tokens": math.inf},
    {"prompt_tokens": 0, "completion_tokens": 0},
    [1],
    "none",
    None,
]


@pytest.mark.parametrize("usage", USAGES, ids=str)
def test_whatever_the_usage_a_paid_reply_is_kept(make_queries, serve, store, usage) -> None:
    server = serve(lambda request: {"content": FIRST, "usage": usage})
    with make(server, store, max_tokens=77) as oracle:
        oracle.ask(make_queries(3))
        assert not any(answer.skipped for answer in oracle.collect())
    calls = list_calls(store)
    assert [call.reply for call in calls] == [FIRST] * 3
    assert all(0 < call.tokens_in < 10_000 and call.tokens_out in (1, 77) for call in calls)
    assert sum_calls(store, "").tokens_in == sum(call.tokens_in for call in calls)


BODIES = {
    "nested reply": FIRST.replace("}", ', "analysis": ' + "[" * 50_000),
    "nested object": '{"a":' * 50_000,
    "long number": b'{"choices": [], "usage": ' + b"9" * (sys.get_int_max_str_digits() + 1) + b"}",
    "nested body": b'{"choices": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "not UTF-8": b'{"choices": "\xff\xfe"}',
    "list": b"[]",
    "null": b"null",
}


@pytest.mark.parametrize("kind", BODIES)
def test_bodies_nobody_can_read_end_in_a_skip(make_queries, serve, store, kind) -> None:
    queries = make_queries(4)
    server = serve(lambda request: BODIES[kind] if hashes(request) == shown else FIRST)
    shown = [s.hash for s in queries[1].segments]
    with make(server, store, order="given", attempts=2) as oracle:
        oracle.ask(queries)
        answers = {answer.query.id: answer.skipped for answer in oracle.collect()}
    assert answers == {query.id: query is queries[1] for query in queries}


@pytest.mark.parametrize("status", [200, 400, 500])
def test_nested_errors_are_told(make_queries, serve, status) -> None:
    server = serve(told(status, b'{"error": ' * 50_000))
    with make(server, attempts=1) as oracle:
        oracle.ask(make_queries(1))
        with pytest.raises(PrefenvsError, match=r"1 queries wait") as caught:
            oracle.collect()
    assert len(str(caught.value)) < 1_000


ECHOES = {
    "reply": {"content": f"I was called with {SECRET}"},
    "parts": {"content": [{"type": "text", "text": f"Bearer {SECRET}"}]},
    "finish": {"content": FIRST, "finish_reason": f"by {SECRET}"},
    "refusal": {"content": None, "refusal": f"not with {SECRET}"},
    "filter": (400, {"error": {"message": SECRET, "code": "content_filter"}}),
    "500": (500, {"error": {"message": SECRET}}),
    "400": (400, {"error": {"message": SECRET}}),
    "status 200": b'{"error": {"message": "%s"}}' % SECRET.encode(),
}


@pytest.mark.parametrize("kind", ECHOES)
def test_a_key_that_is_echoed_is_not_kept(
    make_queries, serve, store, kind, tmp_path: Path, monkeypatch, caplog
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("PREFENVS_VLM_KEY", SECRET)
    queries = make_queries(3)
    shown = [s.hash for s in queries[0].segments]
    server = serve(lambda request: ECHOES[kind] if hashes(request) == shown else FIRST)
    with make(server, store, order="given", attempts=2) as oracle:
        oracle.ask(queries)
        assert len(oracle.collect()) == 3
    calls = list_calls(store)
    assert "***" in repr(calls)
    store.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir()).decode("latin1")
    for text in (kept, repr(calls), repr(oracle.judgements), repr(dict(oracle.reasons)), caplog.text):
        assert SECRET not in text


@pytest.mark.parametrize("key", ["sk-a\nb", "sk-a b", "“sk-abc”", "sk-a\x00b"], ids=ascii)
def test_a_key_that_cannot_be_sent_is_named_by_its_variable(serve, key, monkeypatch) -> None:
    monkeypatch.setattr("os.environ", {"PREFENVS_VLM_KEY": key})
    with pytest.raises(PrefenvsError, match="PREFENVS_VLM_KEY") as caught:
        make(serve(lambda request: FIRST))
    assert key not in str(caught.value)


@pytest.mark.parametrize("seed", [None, 0, 5])
def test_the_seed_can_be_left_out(make_queries, serve, seed) -> None:
    server = serve(lambda request: FIRST)
    with make(server, seed=seed) as oracle:
        oracle.ask(make_queries(1))
        oracle.collect()
    assert server.requests[0].get("seed", None) == seed
    assert ("seed" in server.requests[0]) == (seed is not None)


@pytest.mark.parametrize("parts", [["FIR", "ST"], [{"type": "text", "text": "FIRST"}], [{"type": "thinking"}, "FIRST"]])
def test_parts_of_a_text_belong_together(make_queries, serve, parts) -> None:
    server = serve(lambda request: {"content": [{"type": "text", "text": "Seen "}, {"text": "both."}]})
    server.script = lambda request: {"content": parts} if not hashes(request) else server.described
    server.described = {"content": [{"type": "text", "text": "Seen "}, {"type": "text", "text": "both."}]}
    with make(server, stages="two", order="given") as oracle:
        oracle.ask(make_queries(1))
        assert oracle.collect()[0].best == 0
    assert "Seen both." in texts(server.requests[1])


@pytest.mark.parametrize("answer", [{"content": None}, {"content": ""}, {"content": [{"type": "audio"}]}], ids=str)
def test_no_description_needs_no_verdict(make_queries, serve, answer) -> None:
    server = serve(lambda request: answer)
    with make(server, stages="two") as oracle:
        oracle.ask(make_queries(1))
        assert oracle.collect()[0].skipped
    assert dict(oracle.reasons) == {"answer in the wrong form": 1}
    assert len(server.requests) == 1
