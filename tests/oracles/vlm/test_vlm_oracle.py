"""The oracle over a real HTTP server: answers, skips, failures, limits, restarts."""

from __future__ import annotations

import json
import signal
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from server import completion, hashes, judge_by, pictures, texts

from prefenvs.errors import PrefenvsError
from prefenvs.oracles import VLMOracle
from prefenvs.oracles.contract import check_oracle
from prefenvs.oracles.vlm import View, copy_prompts
from prefenvs.preferences import Query
from prefenvs.store import list_calls, sum_calls

TASK = "Pendulum-v1"
FAST = {"view": View(size=32), "backoff": 0.01}


def true_returns(queries):
    return {s.hash: float(s.true_rewards.sum()) for q in queries for s in q.segments}.__getitem__


def make(server, store=None, **settings):
    settings = FAST | {"wait": True, "base_url": server.url} | settings
    return VLMOracle(TASK, settings.pop("model", "m"), store=store, **settings)


def right(answer):
    return answer.best == np.argmax([s.true_rewards.sum() for s in answer.query.segments])


def say(text):
    """Both stages in one: a description, then the verdict `text`."""
    return lambda request: "I see two pendulums." if hashes(request) else text


def test_keeps_the_contract(make_queries, serve) -> None:
    queries = make_queries(6)
    server = serve(judge_by(true_returns(queries)))
    oracles = []

    def fresh():
        oracles.append(make(server, wait=False))
        return oracles[-1]

    check_oracle(fresh, queries)
    for oracle in oracles:
        oracle.close()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"order": "both"},
        {"order": "given"},
        {"stages": "one"},
        {"stages": "one", "answer": "probability"},
        {"view": View("strip", 3, 32)},
        {"view": View("frames", 3, 32)},
    ],
    ids=str,
)
def test_a_model_that_sees_the_truth_is_understood(make_queries, serve, store, settings) -> None:
    queries = make_queries(6)
    server = serve(judge_by(true_returns(queries)))
    with make(server, store, **settings) as oracle:
        oracle.ask(queries)
        answers = oracle.collect()
    assert len(answers) == 6
    assert all(right(answer) for answer in answers)
    soft = settings.get("answer") == "probability"
    assert all(answer.probabilities.max() == (0.9 if soft else 1.0) for answer in answers)
    shown = {answer.shown for answer in answers}
    assert shown <= {"both": {None}, "given": {(0, 1)}}.get(settings.get("order", ""), {(0, 1), (1, 0)})
    first = server.requests[0]
    assert "pointing straight up" in texts(first)
    view = settings.get("view", View(size=32))
    assert len(pictures(first)) == 2 * (3 if view.kind == "frames" else 1)
    assert pictures(first)[0].size == (32 * 3 + 2 * 8 if view.kind == "strip" else 32, 32)


def test_a_clip_is_sent_as_a_video(make_queries, serve) -> None:
    server = serve(say("FIRST"))
    server.script = lambda request: "SECOND" if isinstance(request["messages"][0]["content"], str) else "seen"
    with make(server, view=View("clip", 4, 32)) as oracle:
        oracle.ask(make_queries(1))
        assert len(oracle.collect()) == 1
    urls = [p["video_url"]["url"] for p in server.requests[0]["messages"][0]["content"] if p["type"] == "video_url"]
    assert len(urls) == 2
    assert all(url.startswith("data:video/mp4;base64,") for url in urls)


def test_training_is_not_held_up(make_queries, serve) -> None:
    server = serve(say("FIRST"), delay=0.3)
    with make(server, wait=False) as oracle:
        begun = time.monotonic()
        oracle.ask(make_queries(4))
        assert oracle.collect() == []
        assert time.monotonic() - begun < 0.2
        assert oracle.pending == 4
        assert oracle.settle(10)
        assert len(oracle.collect()) == 4
        assert oracle.pending == 0


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("UNSURE", "unsure"),
        ("I would rather not say which is first", "wrong form"),
        ("", "wrong form"),
        ({"content": None}, "wrong form"),
        ({"content": 7}, "wrong form"),
        ("FIRST or SECOND", "wrong form"),
        ({"content": None, "refusal": "I cannot help with that"}, "refused"),
        ({"content": "FIRST", "finish_reason": "content_filter"}, "refused"),
        ({"content": "FIR", "finish_reason": "length"}, "cut off"),
    ],
    ids=str,
)
def test_no_clear_verdict_is_a_skip_with_its_reason(make_queries, serve, store, reply, reason) -> None:
    server = serve(say(reply))
    with make(server, store) as oracle:
        oracle.ask(make_queries(1))
        (answer,) = oracle.collect()
    assert answer.skipped
    assert reason in oracle.judgements[answer.query.id].reason
    assert sum(oracle.reasons.values()) == 1
    assert len(server.requests) == 2 == len(list_calls(store, query=answer.query.id))


def test_a_model_that_never_gives_a_verdict_is_told_of(make_queries, serve, store) -> None:
    server = serve(say("Hard to say."))
    with make(server, store) as oracle:
        oracle.ask(make_queries(20))
        with pytest.warns(UserWarning, match=r"none of the first 20 replies of .* the last is 'Hard to say\.'"):
            assert len(oracle.collect()) == 20


@pytest.mark.parametrize(
    "reply",
    [
        "no JSON at all",
        '{"analysis": "x", "verdict": "first"',
        '{"verdict": "third"}',
        '["first"]',
        '{"verdict": 1}',
        '{"verdict": "first", "probability": 7}',
        '{"verdict": "first", "probability": 0.1}',
    ],
)
def test_structured_replies_in_the_wrong_form_are_skips(make_queries, serve, reply) -> None:
    server = serve(lambda request: reply)
    with make(server, stages="one", answer="probability") as oracle:
        oracle.ask(make_queries(1))
        assert oracle.collect()[0].skipped
    assert server.requests[0]["response_format"]["type"] == "json_schema"


def test_a_position_bias_is_cancelled(make_queries, serve) -> None:
    server = serve(say("FIRST"))
    with make(server, order="both") as oracle:
        oracle.ask(make_queries(4))
        assert all(answer.skipped for answer in oracle.collect())
    assert {j.reason for j in oracle.judgements.values()} == {"verdict depends on the order"}
    assert {j.consistent for j in oracle.judgements.values()} == {False}


def test_identical_pictures_are_not_sent(make_queries, serve, store) -> None:
    (query,) = make_queries(1)
    twin = Query((query.segments[0], query.segments[0]))
    server = serve(say("FIRST"))
    with make(server, store) as oracle:
        oracle.ask([twin])
        assert oracle.collect()[0].skipped
    assert not server.requests
    assert oracle.reasons == {"identical pictures": 1}


@pytest.mark.parametrize(
    "failure",
    [
        (429, {"error": {"message": "slow down"}}, {"Retry-After": "0"}),
        (500, {"error": {"message": "oops"}}),
        (503, b"<html>busy</html>"),
        None,
        b"{ not json",
        b"<html>a proxy's page</html>",
        b'{"choices": []}',
    ],
    ids=["429", "500", "503", "dropped", "malformed", "page", "empty"],
)
def test_what_passes_is_tried_again(make_queries, serve, failure) -> None:
    queries = make_queries(3)
    good, bad = judge_by(true_returns(queries)), iter([True, True])
    server = serve(lambda request: failure if next(bad, False) else good(request))
    with make(server) as oracle:
        oracle.ask(queries)
        answers = oracle.collect()
    assert len(answers) == 3
    assert all(right(answer) for answer in answers)


def test_retry_after_is_kept(make_queries, serve) -> None:
    limits = iter([(429, {"error": {"message": "later"}}, {"Retry-After": "0.5"})])
    server = serve(lambda request: next(limits, "FIRST"))
    with make(server) as oracle:
        oracle.ask(make_queries(1))
        oracle.collect()
    assert server.times[1] - server.times[0] >= 0.5


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((401, {"error": {"message": "bad key", "code": "invalid_api_key"}}), "PREFENVS_VLM_KEY"),
        ((403, {"error": {"message": "not yours"}}), "may not use"),
        ((404, {"error": {"message": "no such model"}}), "'m' the model's name"),
        ((400, {"error": {"message": "no response_format here"}}), "--vlm-stages"),
        ((413, {"error": {"message": "too large"}}), "pictures are too large"),
        ((429, {"error": {"message": "pay first", "code": "insufficient_quota"}}), "no quota"),
    ],
    ids=["401", "403", "404", "400", "413", "quota"],
)
def test_what_is_in_vain_is_told_in_one_line(make_queries, serve, answer, told) -> None:
    server = serve(lambda request: answer)
    with make(server, concurrency=1) as oracle:
        oracle.ask(make_queries(3))
        with pytest.raises(PrefenvsError, match=told) as caught:
            oracle.collect()
        assert "\n" not in str(caught.value)
        assert oracle.pending == 3
    # No more than what was under way already.
    assert len(server.requests) <= 2


@pytest.mark.parametrize("kind", ["dropped", "500", "slow", "nobody"])
def test_a_server_that_stays_down_loses_nothing(make_queries, serve, store, kind) -> None:
    queries = make_queries(2)
    down = {"dropped": None, "500": (500, {"error": {"message": "down"}})}
    good = judge_by(true_returns(queries))
    state = {"up": False}

    def script(request):
        if kind == "slow" and not state["up"]:
            time.sleep(0.4)
        return good(request) if state["up"] or kind == "slow" else down[kind]

    server = serve(script)
    settings = {"attempts": 2, "timeout": 0.1 if kind == "slow" else 5.0}
    address = {"base_url": "http://127.0.0.1:9/v1"} if kind == "nobody" else {}
    with make(server, store, **settings, **address) as oracle:
        oracle.ask(queries)
        with pytest.raises(PrefenvsError, match=r"2 attempts.*2 queries wait, nothing is lost"):
            oracle.collect()
        assert oracle.pending == 2
    state["up"] = True
    with make(server, store, wait=True) as later:
        later.ask(queries)
        assert all(right(answer) for answer in later.collect())


def test_without_waiting_an_outage_is_a_warning(make_queries, serve) -> None:
    with make(serve(lambda request: None), attempts=1, wait=False) as oracle:
        oracle.ask(make_queries(2))
        assert oracle.settle(10)
        with pytest.warns(UserWarning, match="trying again"):
            assert oracle.collect() == []
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert oracle.collect() == []
            assert oracle.pending == 2


def test_nothing_is_paid_for_twice_and_a_run_is_replayed(make_queries, serve, store, tmp_path: Path) -> None:
    queries = make_queries(5)
    server = serve(judge_by(true_returns(queries)))
    with make(server, store) as oracle:
        oracle.ask(queries + queries[:2])
        first = {a.query.id: a.probabilities.tolist() for a in oracle.collect()}
    paid = len(server.requests)
    with make(server, store) as again, make(server, store, replay=True) as replay:
        for oracle in (again, replay):
            oracle.ask(queries)
            assert {a.query.id: a.probabilities.tolist() for a in oracle.collect()} == first
            assert oracle.cost == oracle.tokens == 0
    assert len(server.requests) == paid
    with make(server, store, replay=True) as replay:
        unknown = make_queries(2, seed=9)
        replay.ask(unknown + queries)
        assert len(replay.collect()) == 5
        with pytest.raises(PrefenvsError, match=r"2 queries with .* are not in the recording"):
            replay.collect()
    with make(server, store, temperature=0.7) as warmer:
        warmer.ask(queries[:1])
        warmer.collect()
    assert len(server.requests) > paid


def test_a_stopped_rater_writes_down_what_it_has_paid_for(make_queries, serve, store) -> None:
    queries = make_queries(30)
    server = serve(say("FIRST"), delay=0.1)
    with make(server, store, stages="one", concurrency=3, wait=False) as oracle:
        oracle.ask(queries)
        while len(server.requests) < 7:
            time.sleep(0.01)
    assert len(server.requests) < 20
    assert len(list_calls(store)) == len(server.requests)
    # The same object goes on where it was stopped.
    oracle.ask(make_queries(1, seed=5))
    assert oracle.settle(20)
    assert len(oracle.collect()) == 31
    assert oracle.pending == 0
    oracle.close()
    assert len(server.requests) == 31 == len(list_calls(store))


def test_concurrency_and_rate_are_limited(make_queries, serve) -> None:
    together, answer = threading.Barrier(3), say("FIRST")  # on a slow machine too three wait at a time
    server = serve(lambda request: (together.wait(60), answer(request))[1], delay=0.05)
    with make(server, stages="one", concurrency=3) as oracle:
        oracle.ask(make_queries(12))
        oracle.collect()
    assert server.most == 3
    with make(serve(say("FIRST")), stages="one", per_minute=600) as oracle:
        begun = time.monotonic()
        oracle.ask(make_queries(5))
        oracle.collect()
    assert time.monotonic() - begun >= 0.4


def test_keys_are_sent_and_never_kept(make_queries, serve, store, tmp_path: Path, monkeypatch, caplog) -> None:
    caplog.set_level("DEBUG")
    secret = "sk-very-secret-1234"
    monkeypatch.setenv("PREFENVS_VLM_KEY", secret)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    server = serve(say("FIRST"))
    with make(server, store) as oracle:
        oracle.ask(make_queries(1))
        oracle.collect()
    assert set(server.keys) == {f"Bearer {secret}"}
    echo = serve(lambda request: (401, {"error": {"message": f"Incorrect key {secret}"}}))
    with make(echo, store) as oracle:
        oracle.ask(make_queries(1, seed=3))
        with pytest.raises(PrefenvsError) as caught:
            oracle.collect()
    store.close()
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    for text in (kept.decode("latin1"), str(caught.value), json.dumps(oracle.state_dict()), repr(vars(oracle))):
        assert secret not in text
    assert secret not in caplog.text


def test_an_interrupt_ends_the_wait_for_answers(make_queries, serve) -> None:
    oracle = make(serve(say("FIRST"), delay=5))
    oracle.ask(make_queries(1))

    def interrupt() -> None:
        while not oracle.waiting:
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        oracle.collect()
    assert not oracle.waiting
    assert oracle.pending == 1
    oracle.close(patience=0.1)


def test_edited_prompts_are_used(make_queries, serve, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    paths = copy_prompts(folder)
    assert {path.name for path in paths} == {"analysis.txt", "verdict.txt", "combined.txt"}
    (folder / "combined.txt").write_text('{first} against {second}: {task} Reply {"verdict": ...}')
    server = serve(say("FIRST"))
    with make(server, stages="one", prompts=folder, sentence="Stand up.") as oracle:
        oracle.ask(make_queries(1))
        oracle.collect()
    parts = server.requests[0]["messages"][0]["content"]
    assert [p["type"] for p in parts] == ["image_url", "text", "image_url", "text"]
    assert texts(server.requests[0]) == 'against\n: Stand up. Reply {"verdict": ...}'
    (folder / "verdict.txt").write_text("no field")
    with pytest.raises(PrefenvsError, match=r"lacks \{analysis\}"):
        make(server, prompts=folder)
    with pytest.raises(PrefenvsError, match="holds no prompt"):
        make(server, prompts=tmp_path)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"base_url": "localhost:8000"}, "no address"),
        ({"base_url": "http://me:secret@host/v1"}, "would be written"),
        ({"base_url": "https://host/v1?key=secret"}, "would be written"),
        ({"base_url": "https://api.openai.com/v1"}, "OPENAI_API_KEY"),
        ({"key_env": "MY_KEY"}, "MY_KEY"),
        ({"model": ""}, "which model"),
        ({"temprature": 1}, "temprature"),
        ({"answer": "probability"}, "one stage"),
        ({"concurrency": 0}, "at least 1"),
        ({"order": "swapped"}, "choose"),
        ({"concurrency": 2.5}, "concurrency must be a whole number"),
        ({"attempts": "6"}, "attempts must be a number"),
        ({"timeout": None}, "timeout must be a number"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"view": "strip"}, "view must be a View"),
        ({"budget": 500}, "budget must be a Budget"),
        ({"extra": ["top_p"]}, "extra must be a Mapping"),
        ({"prompts": "nowhere"}, "nowhere holds no prompt"),
    ],
    ids=str,
)
def test_bad_settings_are_named(serve, settings, told, monkeypatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(PrefenvsError, match=told) as caught:
        make(serve(say("FIRST")), **settings)
    assert "secret" not in str(caught.value)


def test_pictures_too_large(make_queries, serve) -> None:
    with pytest.raises(PrefenvsError, match="at most 8000"):
        View("strip", 40, 256)
    server = serve(say("FIRST"))
    with make(server, view=View(size=64, max_bytes=500)) as oracle:
        oracle.ask(make_queries(1))
        with pytest.raises(PrefenvsError, match="more than 500"):
            oracle.collect()
    assert not server.requests


def test_segments_without_states_and_of_other_tasks_are_refused(make_queries, serve) -> None:
    from dataclasses import replace

    (query,) = make_queries(1)
    with make(serve(say("FIRST"))) as oracle:
        with pytest.raises(PrefenvsError, match="Hopper"):
            oracle.ask([Query(tuple(replace(s, task="Hopper-v5") for s in query.segments))])
        oracle.ask([Query(tuple(replace(s, states=None) for s in query.segments))])
        with pytest.raises(PrefenvsError, match="no simulator states"):
            oracle.collect()


def test_the_budget_of_a_run_counts_what_former_processes_spent(make_queries, serve, store) -> None:
    from prefenvs.oracles.vlm import Budget

    server = serve(say("FIRST"))
    for total, asked in ((4, 10), (6, 10)):
        budget = Budget(queries=total)
        with make(server, store, stages="one", budget=budget, run="a") as oracle:
            oracle.ask(make_queries(asked))
            answered = len(oracle.collect())
            assert answered == total
            assert oracle.pending == asked - total
            with pytest.warns(UserWarning, match="budget is used up"):
                assert oracle.collect() == []
        assert len(server.requests) == total == sum_calls(store, "a").queries


@pytest.mark.parametrize("limit", [{"tokens": 5_000}, {"cost": 5e-3, "price_in": 1.0, "price_out": 1.0}], ids=str)
def test_calls_under_way_together_never_overspend(make_queries, serve, store, limit) -> None:
    from prefenvs.oracles.vlm import Budget

    usage = {"prompt_tokens": 400, "completion_tokens": 60}
    server = serve(lambda request: {"content": '{"verdict": "first"}', "usage": usage}, delay=0.02)
    settings = {"stages": "one", "concurrency": 16, "max_tokens": 60, "picture_tokens": 200}
    with make(server, store, budget=Budget(**limit), **settings) as oracle:
        oracle.ask(make_queries(40))
        answers = oracle.collect()
        assert oracle.pending == 40 - len(answers)
    spent = sum_calls(store, "")
    tokens = spent.tokens_in + spent.tokens_out
    # Another query would not have fitted by what a query is set aside for.
    assert 5_000 - 1_000 <= tokens <= 5_000
    assert tokens == 460 * len(server.requests)
    assert spent.cost == pytest.approx(tokens / 1e6 if "cost" in limit else 0.0)


def test_a_reply_without_usage_counts_as_estimated(make_queries, serve, store) -> None:
    server = serve(lambda request: completion_without_usage())
    with make(server, store, stages="one", max_tokens=77) as oracle:
        oracle.ask(make_queries(1))
        oracle.collect()
    (call,) = list_calls(store)
    assert call.tokens_out == 77
    assert call.tokens_in > 3_200


def completion_without_usage():
    body = completion('{"verdict": "first"}')
    del body["usage"]
    return json.dumps(body).encode()
