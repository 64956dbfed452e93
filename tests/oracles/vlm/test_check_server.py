"""What is wrong with a server or a model's name is told before anything else happens."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from server import texts

from prefenvs.cli import main
from prefenvs.errors import PrefenvsError
from prefenvs.oracles import VLMOracle
from prefenvs.oracles.vlm import VLMConfig, check_server

TASK = "Pendulum-v1"
UNKNOWN = (404, {"error": {"message": "no such model", "code": "model_not_found"}})
BAD_KEY = (401, {"error": {"message": "bad key"}})


def check(server, model="m", **settings) -> None:
    check_server(model, VLMConfig(base_url=server.url, **settings))


def test_a_model_on_the_list_costs_nothing_to_check(serve) -> None:
    server = serve(lambda request: "FIRST", models=("other", "m"))
    check(server)
    VLMOracle(TASK, "m", base_url=server.url).check()
    assert not server.requests


@pytest.mark.parametrize("models", [None, (), ("other",)], ids=str)
def test_servers_without_a_list_or_with_a_short_one_are_asked_for_one_token(serve, models) -> None:
    server = serve(lambda request: "Hi", models=models)
    check(server)
    (request,) = server.requests
    assert (request["model"], request["max_tokens"], texts(request)) == ("m", 1, "Hello")


@pytest.mark.parametrize(
    "failure", [(500, {}), (429, {}), (400, {"error": {"message": "no picture"}}), b"<html>"], ids=str
)
def test_what_may_pass_is_left_to_the_calls(serve, failure) -> None:
    check(serve(lambda request: failure, models=None))


def test_a_wrong_name_is_told_with_those_there_are(serve) -> None:
    server = serve(lambda request: UNKNOWN, models=("Qwen/Qwen2.5-VL-7B-Instruct", "llava"))
    with pytest.raises(
        PrefenvsError, match=r"does not know the model 'Qwen2.5-VL-7B'; it has .*llava.*Did you mean Qwen/"
    ):
        check(server, "Qwen2.5-VL-7B-Instruct"[:13])
    with pytest.raises(PrefenvsError, match=r"end in /v1"):
        check(serve(lambda request: UNKNOWN, models=None))


def test_a_refused_key_names_its_variable_and_not_the_key(serve, monkeypatch) -> None:
    monkeypatch.setenv("PREFENVS_VLM_KEY", "sk-secret")
    with pytest.raises(PrefenvsError, match="PREFENVS_VLM_KEY") as caught:
        check(serve(lambda request: BAD_KEY, models=None))
    assert "sk-secret" not in str(caught.value)


def test_a_server_that_does_not_answer(serve) -> None:
    server = serve(lambda request: time.sleep(0.5) or "FIRST", models=None)
    check(server, timeout=0.1)
    with pytest.raises(PrefenvsError, match=r"cannot be reached .*is the server running"):
        check_server("m", VLMConfig(base_url="http://127.0.0.1:9/v1"))


@pytest.mark.parametrize("command", ["train", "rate", "check"])
@pytest.mark.parametrize("wrong", ["model", "server"])
def test_commands_end_before_they_begin(command, wrong, serve, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    server = serve(lambda request: UNKNOWN, models=("m",))
    address = {"model": [server.url, "--vlm-model", "n"], "server": ["http://127.0.0.1:9/v1", "--vlm-model", "m"]}
    begin = {
        "train": ["train", "pebble", "--task", TASK, "--oracle", "vlm"],
        "rate": ["rate", "--dataset", "nowhere"],
        "check": ["rate", "--check", "5", "--task", TASK],
    }[command]
    with pytest.raises(SystemExit) as ended:
        main([*begin, "--vlm-url", *address[wrong]])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert {"model": "does not know the model 'n'; it has m", "server": "cannot be reached"}[wrong] in line
    assert not list(tmp_path.iterdir())
