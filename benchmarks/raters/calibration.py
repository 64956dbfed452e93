"""What `prefenvs rate --check` finds of simulated models whose accuracy, position bias and price are known.

    python -m benchmarks.raters.calibration [--queries 400] [--out docs/results/measured/calibration.csv]

The server speaks the OpenAI protocol over HTTP on this computer. It knows the segments by the hashes in their pictures
and prefers the one of greater true return with the chance `skill`; a share `habit` of the pairs it answers with FIRST
whatever is shown first, of a share `unsure` it says so. Draws are by model and pair: both orders of it meet the same.
"""

from __future__ import annotations

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import tyro
from PIL import Image

from benchmarks.raters.vlm import TASK, make_queries
from prefenvs.internal.csv_tables import write_table
from prefenvs.internal.seeding import derive_seed
from prefenvs.metrics.accuracy import Share
from prefenvs.oracles import VLMOracle
from prefenvs.oracles.calibration import calibrate
from prefenvs.oracles.vlm import Budget, View
from prefenvs.preferences import Query
from prefenvs.runs import provenance

TOKENS_IN, TOKENS_OUT, PRICE_IN, PRICE_OUT = 1_000, 10, 2.0, 10.0
COLUMNS = ("simulated model: right; FIRST; unsure", "orders", "accuracy", "found", "first shown chosen", "found",
           "abstention", "found", "cost of a query", "found")  # fmt: skip


class Model(NamedTuple):
    """A simulated model: chances of an answer that is right, of FIRST whatever it sees, and of none."""

    skill: float
    habit: float = 0.0
    unsure: float = 0.0
    order: Literal["mixed", "both"] = "mixed"

    def answer(self, first: str, second: str, better: str) -> str:
        """Return the verdict on two segments, by their hashes."""
        rng = np.random.default_rng(derive_seed(0, str(self), *sorted((first, second))))
        unsure, habit, right = rng.random(3)
        if unsure < self.unsure:
            return "unsure"
        if habit < self.habit:
            return "first"
        return "first" if (first == better) == (right < self.skill) else "second"

    @property
    def known(self) -> tuple[float, float, float, float]:
        """Its accuracy where it chooses, share of first ones, abstention, and price of a query."""
        both = self.order == "both"
        accuracy = self.skill if both else (1.0 - self.habit) * self.skill + 0.5 * self.habit
        calls = 2.0 if both else 1.0
        skipped = self.unsure + (1.0 - self.unsure) * self.habit if both else self.unsure
        cost = calls * (TOKENS_IN * PRICE_IN + TOKENS_OUT * PRICE_OUT) / 1e6
        return accuracy, 0.5 + 0.5 * self.habit, skipped, cost


MODELS = (Model(1.0), Model(0.8), Model(0.8, 0.3), Model(0.8, 0.3, order="both"), Model(0.7, 0.0, 0.2), Model(0.5))


def serve(model: Model, returns: dict[str, float]) -> ThreadingHTTPServer:
    """Start a server of the model in a thread."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
            urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
            pictures = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
            first, second = dict.fromkeys(str(picture.info["segment"]) for picture in pictures)
            verdict = model.answer(first, second, max(first, second, key=returns.__getitem__))
            message = {"role": "assistant", "content": json.dumps({"analysis": "", "verdict": verdict})}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {
                "prompt_tokens": TOKENS_IN,
                "completion_tokens": TOKENS_OUT,
                "total_tokens": TOKENS_IN + TOKENS_OUT,
            }
            body = {"id": "0", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
            reply = json.dumps(body | {"usage": usage}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def measure(model: Model, queries: list[Query]) -> tuple[list[str], bool]:
    """Return a row of the table, and whether all that is known lies within the intervals of what was found."""
    segments = [segment for query in queries for segment in query.segments]
    returns = {one.hash: float(one.true_rewards.sum()) for one in segments if one.true_rewards is not None}
    server = serve(model, returns)
    settings: dict[str, Any] = {
        "base_url": f"http://127.0.0.1:{server.server_port}/v1",
        "stages": "one",
        "order": model.order,
        "view": View(size=64),
        "budget": Budget(price_in=PRICE_IN, price_out=PRICE_OUT),
    }
    with VLMOracle(TASK, "m", **settings) as oracle:
        found = calibrate(oracle, queries)
    server.shutdown()
    skipped = Share(sum(found.skips.values()), found.queries)
    cost = found.cost / found.queries
    cells, inside = [f"{model.skill:.0%}; {model.habit:.0%}; {model.unsure:.0%}", model.order], True
    for known, share in zip(model.known, (found.right, found.first, skipped), strict=False):
        low, high = share.interval
        inside &= low - 1e-9 <= known <= high + 1e-9
        cells += [f"{known:.1%}", f"{share.value:.1%} ({low:.1%} to {high:.1%})"]
    inside &= abs(cost - model.known[3]) < 1e-9
    return [*cells, f"{model.known[3]:.4f}", f"{cost:.4f}"], inside


def run(queries: int = 400, out: Path = Path("docs/results/measured/calibration.csv")) -> None:
    """Measure each simulated model.

    Args:
        queries: Pairs of segments that each is asked about.
        out: The table.
    """
    pairs = make_queries(queries)
    rows = []
    for model in MODELS:
        row, inside = measure(model, pairs)
        rows.append(row)
        print("as known" if inside else "NOT as known", *row, sep="; ", flush=True)
    write_table(out, COLUMNS, rows)
    print(f"{out}, of {queries} queries each, at {provenance()['commit']}")


if __name__ == "__main__":
    tyro.cli(run)
