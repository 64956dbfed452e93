"""A real serving program, `transformers serve`, with a tiny vision model of random weights: its nonsense is skipped."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefenvs.oracles import VLMOracle
from prefenvs.oracles.vlm import View
from prefenvs.store import list_calls

MISSING = [name for name in ("transformers", "accelerate") if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"pip install {' '.join(MISSING)}"),
]
SERVE = "import sys; from transformers.cli.transformers import main; sys.argv[0] = 'transformers'; main()"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Address of the server, and the model's name."""
    folder = tmp_path_factory.mktemp("tiny")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, str(Path(__file__).with_name("tiny_model.py")), str(folder)], check=True, env=environment
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["serve", str(folder), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen([sys.executable, "-c", SERVE, *options], env=environment)
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).close()
                break
            except OSError:
                assert process.poll() is None
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize(
    "settings",
    [
        {"max_tokens": 24},
        {"stages": "one", "max_tokens": 24},
        {"view": View("frames", 3, 32), "max_tokens": 24, "order": "both"},
    ],
    ids=str,
)
def test_nonsense_ends_in_skips(served, make_queries, store, settings) -> None:
    url, model = served
    settings = {"view": View(size=32), "concurrency": 2} | settings
    with VLMOracle("Pendulum-v1", model, base_url=url, store=store, wait=True, **settings) as oracle:
        oracle.ask(make_queries(4))
        answers = oracle.collect()
    assert len(answers) == 4
    assert all(answer.skipped for answer in answers)
    assert set(oracle.reasons) <= {"cut off at the limit of tokens", "answer in the wrong form"}
    calls = list_calls(store)
    assert all(call.reply and call.tokens_in > 0 for call in calls)
