"""What a request that fails is answered: one line as JSON, or a page where a person looks; and the server's log."""

from __future__ import annotations

import json
import logging
import sys
import time as clock

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from prefenvs.errors import PrefenvsError
from prefenvs.oracles.labelling.access import Denied
from prefenvs.oracles.labelling.pages import show_page
from prefenvs.store import StoreUnavailable

TROUBLE = "the database of the labels cannot be used at the moment; whoever runs the server finds the reason in its log"
TELL_EVERY = 60.0
"""Seconds after which the log says again what is wrong with the store."""
ACCESS_LOG = "prefenvs.access"
_FAILED = "the server failed; whoever runs it finds the reason in its log"
_log = logging.getLogger("prefenvs.labelling")
_PAGES = (401, 403, 404, 429, 500, 503)
_told: dict[str, float] = {}


def add_errors(app: FastAPI) -> None:
    """Answer every error by {"error": one line}, and by a page where a browser asks for one."""

    @app.exception_handler(Denied)
    def denied(request: Request, error: Denied) -> Response:
        return _answer(request, error.status, error.reason)

    @app.exception_handler(StoreUnavailable)
    def unavailable(request: Request, error: StoreUnavailable) -> Response:
        return answer_trouble(request, error)

    @app.exception_handler(Exception)
    def broken(request: Request, error: Exception) -> Response:
        # Starlette passes the error on after this reply, so that the log has it with its traceback.
        return _answer(request, 500, _FAILED)

    @app.exception_handler(PrefenvsError)
    def bad_input(request: Request, error: PrefenvsError) -> Response:
        return _answer(request, 400, str(error))

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return _answer(request, 400, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}")

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        return _answer(request, error.status_code, str(error.detail))


def answer_trouble(request: Request, error: StoreUnavailable) -> Response:
    """Answer while the database cannot be used; the log says why, once a minute: every page asks every few seconds."""
    key = f"{id(request.app)} {error}"
    if clock.monotonic() - _told.get(key, -TELL_EVERY) >= TELL_EVERY:
        _told[key] = clock.monotonic()
        _log.error("%s", error)
    return _answer(request, 503, TROUBLE)


def _answer(request: Request, status: int, reason: str) -> Response:
    reason = " ".join(reason.split())
    looked_at = not request.url.path.startswith(("/api/", "/clips/", "/static/"))
    if status not in _PAGES or not looked_at or "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"error": reason}, status_code=status)
    again = {"Refresh": "5"} if status == 503 else {}
    return show_page(request, "trouble", status, again, reason=f"{reason}.")


class JsonLines(logging.Formatter):
    """One JSON object a line: time in seconds since 1970, level, logger, message, and what a record adds."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line = {"time": round(record.created, 3), "level": record.levelname.lower(), "logger": record.name}
        line |= {"message": record.getMessage(), **getattr(record, "about", {})}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def log_as_json() -> None:
    """Write the logs of the server to stderr as JSON lines, one for every request too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("prefenvs", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if name == "prefenvs" else logging.WARNING)
