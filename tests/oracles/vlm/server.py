"""A real HTTP server on loopback that speaks the OpenAI protocol and says what a test scripts."""

from __future__ import annotations

import base64
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

Script = Callable[[dict[str, Any]], Any]


class ScriptedServer:
    """Answer each call with what `script(request)` returns.

    A string is the model's text; a dict updates the message; (status, body) an error, (status, body, headers) too;
    bytes are sent raw as the body; None drops the connection. Counts calls, and how many were under way at a time.
    """

    def __init__(self, script: Script, delay: float = 0.0, models: Sequence[str] | None = ("m",)) -> None:
        """models: those that it lists; None for a server without a list."""
        self.script, self.delay, self.models = script, delay, models
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.times: list[float] = []
        self.most = self._now = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Otherwise each reply waits 40 ms for the acknowledgement of its header.
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                outer.handle(self)

            def do_GET(self) -> None:
                outer.list_models(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def handle(self, handler: BaseHTTPRequestHandler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.requests.append(request)
            self.keys.append(handler.headers.get("Authorization", ""))
            self.times.append(time.monotonic())
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            time.sleep(self.delay)
            answer = self.script(request)
        finally:
            with self._lock:
                self._now -= 1
        if answer is None:
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        status, body, headers = (*answer, {})[:3] if isinstance(answer, tuple) else (200, answer, {})
        if status == 200 and not isinstance(body, bytes):
            body = completion(body)
        self.send(handler, status, body, headers)

    def list_models(self, handler: BaseHTTPRequestHandler) -> None:
        if self.models is None:
            self.send(handler, 404, {"detail": "Not Found"})
        else:
            self.send(handler, 200, {"object": "list", "data": [{"id": name} for name in self.models]})

    def send(
        self, handler: BaseHTTPRequestHandler, status: int, body: Any, headers: Mapping[str, str] | None = None
    ) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **(headers or {}),
        }.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def completion(text: str | dict[str, Any], finish: str = "stop") -> dict[str, Any]:
    """A reply in the protocol's form: 100 tokens in, 10 out."""
    message = {"role": "assistant", "content": text} if isinstance(text, str) else {"role": "assistant", **text}
    finish = message.pop("finish_reason", finish)
    usage = message.pop("usage", {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110})
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": usage,
    }


def is_probe(request: dict[str, Any]) -> bool:
    """Whether a request only asks if the server answers."""
    return texts(request) == "Hello"


def texts(request: dict[str, Any]) -> str:
    """All text of a request."""
    content = request["messages"][-1]["content"]
    return content if isinstance(content, str) else "\n".join(p["text"] for p in content if p["type"] == "text")


def pictures(request: dict[str, Any]) -> list[Image.Image]:
    """The pictures of a request, in order."""
    content = request["messages"][-1]["content"]
    urls = [p["image_url"]["url"] for p in content if p["type"] == "image_url"] if isinstance(content, list) else []
    return [Image.open(io.BytesIO(base64.b64decode(re.sub("^data:image/png;base64,", "", url)))) for url in urls]


def hashes(request: dict[str, Any]) -> list[str]:
    """The hashes of the segments shown, from the pictures' metadata."""
    return list(dict.fromkeys(picture.info["segment"] for picture in pictures(request)))


def judge_by(worth: Callable[[str], float]) -> Script:
    """A simulated model: it looks up the segments by the pictures' metadata and prefers the one of greater value."""
    memory: dict[str, str] = {}

    def script(request: dict[str, Any]) -> str:
        shown = hashes(request)
        if not shown:  # the second stage repeats what the first one said
            said = re.search(r"\[the (\w+) one is better\]", texts(request))
            return said[1].upper() if said else "UNSURE"
        first, second = (worth(key) for key in shown)
        word = "unsure" if first == second else "first" if first > second else "second"
        if "response_format" in request:
            chance = {"first": 0.9, "second": 0.1, "unsure": 0.5}[word]
            return json.dumps({"analysis": "looked", "verdict": word, "probability": chance})
        memory[shown[0]] = word
        return f"[the {word} one is better]"

    return script
