"""Queries per second of a model as rater, against a server that takes a fixed time for each reply.

    python -m benchmarks.raters.vlm [--latency 0.5] [--queries 832]

The server speaks the OpenAI protocol over HTTP on this computer, in a process of its own, and replies after `latency`
seconds. The reference is what the limit of concurrent calls allows: concurrency / latency. Pictures are drawn, encoded
and sent, and each reply is on the disk before it counts: nothing is left out. A second figure is how fast the same
queries are answered again from the store. Measured after a first round of calls, since a cold start (the first picture
opens OpenGL, the first call a connection) happens once in a run.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import prefenvs
from prefenvs.oracles import VLMOracle
from prefenvs.oracles.vlm import View
from prefenvs.preferences import Query, make_pairs
from prefenvs.store import Store
from prefenvs.trajectories import TrajectoryBuffer

TASK = "HalfCheetah-v5"
REPLY = {
    "id": "x",
    "object": "chat.completion",
    "created": 0,
    "model": "m",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": json.dumps({"verdict": "first"})},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010},
}


async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, latency: float) -> None:
    """Serve one connection: read a request, wait, reply, again."""
    content = json.dumps(REPLY).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    try:
        while True:
            header = await reader.readuntil(b"\r\n\r\n")
            lines = header.decode().lower().split("\r\n")
            size = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
            await reader.readexactly(size)
            await asyncio.sleep(latency)
            writer.write(head + content)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


def serve(latency: float, pipe: Any) -> None:
    """Run the server until the process is ended; its port goes through the pipe."""

    async def run() -> None:
        server = await asyncio.start_server(lambda r, w: reply(r, w, latency), "127.0.0.1", 0, limit=2**26)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def make_queries(count: int) -> list[Query]:
    """Pairs of segments of a random cheetah."""
    env, rng = prefenvs.make(TASK), np.random.default_rng(0)
    buffer = TrajectoryBuffer(TASK)
    observation, info = env.reset(seed=0)
    for step in range(1000):
        action = rng.uniform(-1, 1, 6).astype(np.float32)
        state = info["state"]
        following, _, _, _, info = env.step(action)
        buffer.add_step(0, observation, action, info["true_reward"], state, done=step == 999)
        observation = following
    return make_pairs(buffer.trajectories().sample(2 * count, 50, rng))


def rate(queries: list[Query], url: str, concurrency: int, store: Store) -> tuple[float, int]:
    """Return queries per second, all but a first round of calls, and how many calls were made."""
    settings: dict[str, Any] = {"stages": "one", "concurrency": concurrency, "view": View(size=224)}
    with VLMOracle(TASK, "m", base_url=url, store=store, **settings) as oracle:
        for part in (queries[:concurrency], queries[concurrency:]):
            begun, answered = time.perf_counter(), 0
            oracle.ask(part)
            while oracle.pending:
                answered += len(oracle.collect())
                time.sleep(0.001)
            taken = time.perf_counter() - begun
        calls = sum(not judgement.cached for judgement in oracle.judgements.values())
    return answered / taken, calls


def run(latency: float = 0.5, queries: int = 832, repeats: int = 3) -> None:
    """Measure.

    Args:
        latency: Seconds that the server takes for a reply.
        queries: Most pairs in a run; 26 for each call at a time.
        repeats: Runs, of which the median is printed.
    """
    pairs = make_queries(queries)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(latency, theirs), daemon=True)
    process.start()
    url = f"http://127.0.0.1:{ours.recv()}/v1"
    print(f"{platform.machine()}, Python {platform.python_version()}; replies after {latency:g} s")
    try:
        for concurrency in (4, 16, 32):
            count = min(len(pairs), 26 * concurrency)
            speeds, again = [], []
            for _ in range(repeats):
                with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "calls.sqlite") as store:
                    speeds.append(rate(pairs[:count], url, concurrency, store)[0])
                    cached, calls = rate(pairs[:count], url, concurrency, store)
                    assert calls == 0
                    again.append(cached)
            speed, allowed = statistics.median(speeds), concurrency / latency
            print(
                f"{concurrency:3} calls at a time: {speed:6.1f} queries/s, {speed / allowed:.1%} of the {allowed:.0f} "
                f"that the limit allows; from the store {statistics.median(again):.0f} queries/s"
            )
    finally:
        process.terminate()
        process.join()


if __name__ == "__main__":
    tyro.cli(run)
