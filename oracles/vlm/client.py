"""Calls of a server that speaks the OpenAI protocol: limits, timeouts, retries, and errors told apart."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time as clock
from dataclasses import dataclass
from typing import Any

from oracles.vlm.config import VLMConfig
from prefenvs.errors import PrefenvsError

LONGEST_PAUSE = 60.0
LONGEST_WAIT = 600.0
"""Seconds; a server that asks for more than this is taken to be out of quota."""
AGAIN = (408, 409, 425, 429)


@dataclass(frozen=True)
class Reply:
    """What came back: the text, how it ended, and the tokens as the server counted them (None where it did not)."""

    text: str
    finish: str
    tokens_in: int | None
    tokens_out: int | None
    seconds: float


class Unavailable(Exception):
    """A call was given up after several attempts; `charged` of them may have been charged all the same."""

    def __init__(self, reason: str, charged: int) -> None:
        super().__init__(reason)
        self.charged = charged


class _Passing(Exception):
    """An attempt failed in a way that may pass; `charged` if the server may have worked on it, `wait` as it asked."""

    def __init__(self, reason: str, charged: bool = False, wait: float | None = None) -> None:
        super().__init__(reason)
        self.charged, self.wait = charged, wait


class ModelClient:
    """Call one model, at most so many calls at a time and a minute; to be used within one event loop."""

    def __init__(self, model: str, config: VLMConfig) -> None:
        openai = import_openai()
        self.model, self.config = model, config
        self._key = config.read_key()
        # Nobody's proxy knows the way to this computer itself.
        http = openai.DefaultAsyncHttpxClient(trust_env=not config.local)
        self._client: Any = openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=config.base_url,
            max_retries=0,
            timeout=config.timeout,
            http_client=http,
        )
        self._slots = asyncio.Semaphore(config.concurrency)
        self._next_call = 0.0
        self._rng = random.Random()
        self._stopped = asyncio.Event()

    async def complete(self, messages: list[dict[str, Any]], schema: dict[str, Any] | None) -> Reply:
        """Return the model's reply.

        Raises PrefenvsError where another attempt would be in vain, and Unavailable after the last attempt.
        """
        charged, reason = 0, ""
        for attempt in range(self.config.attempts):
            try:
                async with self._slots:
                    await self._wait_for_turn()
                    if self._stopped.is_set():
                        raise Unavailable(reason or "stopped before the call", charged)
                    return await self._attempt(messages, schema)
            except _Passing as failure:
                charged += failure.charged
                reason = str(failure)
                pause = min(self.config.backoff * 2.0**attempt, LONGEST_PAUSE) * self._rng.uniform(0.75, 1.25)
                if failure.wait is not None:
                    if failure.wait > LONGEST_WAIT:
                        reason = f"{reason}, which asks to wait {failure.wait:.0f} s"
                        break
                    pause = failure.wait
                    # The others would be turned away as well.
                    self._next_call = max(self._next_call, clock.monotonic() + pause)
            if attempt + 1 < self.config.attempts:
                await self._sleep(pause)
        raise Unavailable(f"{reason} ({attempt + 1} attempts)", charged)

    def stop(self) -> None:
        """Make no further attempt at anything; attempts under way end as they do."""
        self._stopped.set()

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def _wait_for_turn(self) -> None:
        now = clock.monotonic()
        turn = max(now, self._next_call)
        if self.config.per_minute is not None:
            self._next_call = turn + 60.0 / self.config.per_minute
        await self._sleep(turn - now)

    async def _sleep(self, seconds: float) -> None:
        """Wait so long, or until `stop`."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), seconds)

    async def _attempt(self, messages: list[dict[str, Any]], schema: dict[str, Any] | None) -> Reply:
        import openai

        config, begun = self.config, clock.monotonic()
        url = config.base_url
        try:
            async with asyncio.timeout(config.timeout):
                # The method made for this walks through the whole request by its types, at half the cost of a call.
                body = {"model": self.model, "messages": messages, **request_settings(config, schema), **config.extra}
                answer = await self._client.post("/chat/completions", cast_to=object, body=body)
        except (openai.APITimeoutError, TimeoutError):
            raise _Passing(f"{url} sent no reply within {config.timeout:g} s", charged=True) from None
        except openai.APIStatusError as error:
            return self._judge_status(error, begun)
        except openai.APIConnectionError as error:
            # A connection that was never made has cost nothing; one that broke may have.
            refused = "connect" in type(error.__cause__).__name__.lower()
            raise _Passing(f"{url} cannot be reached ({self._clean(error.__cause__ or error)})", not refused) from None
        except (openai.APIResponseValidationError, json.JSONDecodeError, UnicodeDecodeError):
            raise _Passing(f"{url} sent a reply that is no JSON", charged=True) from None
        return self._read(answer, clock.monotonic() - begun)

    def _judge_status(self, error: Any, begun: float) -> Reply:
        """Turn an error status into a refusal to rate, a failure that may pass, or a PrefenvsError."""
        config, status = self.config, int(error.status_code)
        code, said = str(error.code or ""), self._clean(error.message)
        if code in ("content_filter", "content_policy_violation"):
            return Reply(said, "refusal", 0, 0, clock.monotonic() - begun)
        if status == 429 and code == "insufficient_quota":
            raise PrefenvsError(f"{config.base_url} says that the account has no quota left ({said})")
        if status in AGAIN or status >= 500:
            wait = _seconds(error.response.headers.get("retry-after"))
            raise _Passing(f"{config.base_url} answered with status {status} ({said})", status >= 500, wait)
        way_out = {
            400: "the server does not take the request: another --vlm-stages, --vlm-view or temperature may help",
            401: f"check the key in the environment variable {config.key_name}",
            403: f"the key in {config.key_name} may not use this model",
            404: f"is {self.model!r} the model's name there, and {config.base_url} the address, with /v1 at its end?",
            413: "the pictures are too large for the server: choose a smaller size or fewer frames",
        }.get(status, "the server does not take the request")
        raise PrefenvsError(f"{config.base_url} answered with status {status} ({said}); {way_out}")

    def _read(self, answer: Any, seconds: float) -> Reply:
        try:
            choice = answer["choices"][0]
            message = choice["message"]
            text, refusal = message.get("content"), message.get("refusal")
            finish = "refusal" if refusal else str(choice.get("finish_reason") or "stop")
            if not isinstance(text or "", str) or (text is None and not refusal and finish == "stop"):
                raise TypeError
        except (AttributeError, KeyError, IndexError, TypeError):
            where = self.config.base_url
            raise _Passing(f"{where} sent a reply that is not in the protocol's form", charged=True) from None
        usage = answer.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        tokens_in, tokens_out = (count if isinstance(count, int) and count >= 0 else None for count in counts)
        return Reply(text or refusal or "", finish, tokens_in, tokens_out, seconds)

    def _clean(self, text: object) -> str:
        """One short line without the key, which some servers repeat."""
        line = " ".join(str(text).split())
        return (line.replace(self._key, "***") if self._key else line)[:300]


def import_openai() -> Any:
    """Return the openai package; raises PrefenvsError where it is missing."""
    try:
        import openai
    except ModuleNotFoundError:
        raise PrefenvsError('a model as rater needs the openai package: pip install "prefenvs[vlm]"') from None
    return openai


def request_settings(config: VLMConfig, schema: dict[str, Any] | None) -> dict[str, Any]:
    """Return the fields of a request that shape the reply; they are part of a call's key."""
    # OpenAI's newer models refuse the old name, many other servers do not know the new one.
    settings: dict[str, Any] = {"max_completion_tokens" if config.hosted else "max_tokens": config.max_tokens}
    for name in ("temperature", "seed"):
        if getattr(config, name) is not None:
            settings[name] = getattr(config, name)
    if schema is not None:
        settings["response_format"] = {"type": "json_schema", "json_schema": schema}
    return settings


def _seconds(value: str | None) -> float | None:
    """Read a Retry-After header that gives seconds; dates are rare and ignored."""
    try:
        return None if value is None else max(float(value), 0.0)
    except ValueError:
        return None
