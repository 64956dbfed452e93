"""An OpenAI-compatible server that judges pictures of `own_environment:Reach` by measuring pixels: no model.

    python simulated_model.py [--port 8001] [--habit 0.3]

In a share `--habit` of the questions it says FIRST whatever it sees, as models that favour a position do.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image


def distance(picture: bytes) -> int:
    """Pixels between the middle of what is white and the middle of what is green."""
    pixels = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    white = np.argwhere(pixels.min(-1) > 200)
    green = np.argwhere((pixels[..., 1] > 140) & (pixels[..., 0] < 120))
    return round(float(np.linalg.norm(white.mean(0) - green.mean(0)))) if len(green) else 0  # hidden by the dot


def answer(content: Any, habit: float) -> str:
    """First the pictures are described, then the description alone is judged."""
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    if urls:
        pictures = [base64.b64decode(url.partition(",")[2]) for url in urls]
        if hashlib.sha256(b"".join(pictures)).digest()[0] < 256 * habit:
            return "I did not look."
        return "The dot is {} pixels from the square in the first, {} in the second.".format(*map(distance, pictures))
    seen = re.search(r"(\d+) pixels from the square in the first, (\d+) in", " ".join(part["text"] for part in parts))
    if seen is None:
        return "FIRST"
    first, second = map(int, seen.groups())
    return "UNSURE" if first == second else "FIRST" if first < second else "SECOND"


class Handler(BaseHTTPRequestHandler):
    """The two addresses that prefenvs asks: the list of models, and a chat completion."""

    protocol_version = "HTTP/1.1"
    habit = 0.0

    def do_GET(self) -> None:
        """List the one model."""
        self._send({"object": "list", "data": [{"id": "pixels"}]})

    def do_POST(self) -> None:
        """Answer one prompt."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = answer(request["messages"][-1]["content"], self.habit)
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 500, "completion_tokens": 20, "total_tokens": 520}
        self._send({"id": "0", "object": "chat.completion", "created": 0, "model": "pixels", "choices": [choice],
                    "usage": usage})  # fmt: skip

    def _send(self, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--habit", type=float, default=0.3)
    args = parser.parse_args()
    Handler.habit = args.habit
    ThreadingHTTPServer(("127.0.0.1", args.port), Handler).serve_forever()
