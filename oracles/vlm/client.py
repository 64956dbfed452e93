"""Calls of a server that speaks the OpenAI protocol: limits, timeouts, retries, and errors told apart."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time as clock
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from prefenvs.errors import PrefenvsError, import_extra, near_matches
from prefenvs.oracles.vlm.config import VLMConfig
from prefenvs.store import storable

LONGEST_PAUSE = 60.0
LONGEST_WAIT = 600.0
"""Seconds; a server that asks for more than this is taken to be out of quota."""
PATIENCE = 10.0
"""Seconds that a server may take for a connection, for its list of models or for one word."""
REDIRECTS = 3
"""Redirects that are followed; more go in a circle."""
MOST_TOKENS = 10**8
"""A count of tokens above this is no count."""
LONGEST_FINISH = 100
SHORTEST_KEY = 8
SHOWN = 8
"""Models that an error names."""
AGAIN = (408, 409, 425, 429)
BUSY = (429, 502, 503, 504)
"""Statuses that tell of the server's state and not of the prompt."""

# How servers name what their filters stop, as codes and in words.
_REFUSAL_CODE = re.compile(
    r"content.?filter|content.?polic|moderation|responsible.?ai|safety|inspection.?failed|prohibited|flagged|sensitive",
    re.I,
)
_REFUSAL_TEXT = re.compile(
    r"content (?:management )?polic|content filter|moderation|usage polic|safety (?:system|polic)|was flagged", re.I
)
_NO_PICTURES = re.compile(
    r"\b(?:images?|pictures?|vision|video|multi-?modal|image_url)\b[^.]{0,40}\b(?:not supported|not enabled|"
    r"only supported by)|(?:not|n't) (?:\w+ ){0,2}(?:support|accept|take|have|a)\b[^.]{0,40}"
    r"\b(?:images?|pictures?|vision|video|multi-?modal)|missing data required for image",
    re.I,
)
_NO_QUOTA = re.compile(r"insufficient.?(?:quota|balance|funds|credits?)|billing|payment.?required", re.I)
_ENDS = {
    "refusal": ("refusal", "content_filter", "safety", "blocklist", "prohibited_content", "moderation", "sensitive"),
    "length": ("length", "max_tokens", "model_length"),
}


@dataclass(frozen=True)
class Reply:
    """What came back: the text, how it ended, and the tokens as the server counted them (None where it did not)."""

    text: str
    finish: str
    tokens_in: int | None
    tokens_out: int | None
    seconds: float


class Account(Protocol):
    """Who pays for the attempts at a call."""

    async def reserve(self) -> None:
        """Set aside what another attempt may cost; raises `Exhausted` where that is not left."""

    async def begin(self) -> None:
        """Write down that an attempt is about to be made."""

    async def fail(self, reason: str, charged: bool) -> None:
        """Write down that it failed, and whether it may have been charged."""


class Failed(Exception):
    """A call came to nothing. `busy`: the server's state tells why, so the prompt is not to blame."""

    busy = False


class Unavailable(Failed):
    """A call was given up after several attempts."""

    def __init__(self, reason: str, busy: bool) -> None:
        super().__init__(reason)
        self.busy = busy


class Rejected(Failed):
    """The server does not take the prompt, or none under these settings; another attempt would be in vain."""


class _Passing(Exception):
    """An attempt failed in a way that may pass.

    charged: the server may have worked on it; wait: seconds that it asks for; busy: see `Failed`.
    """

    def __init__(self, reason: str, charged: bool = False, wait: float | None = None, busy: bool = False) -> None:
        super().__init__(reason)
        self.charged, self.wait, self.busy = charged, wait, busy


class ModelClient:
    """Call one model, at most so many calls at a time and a minute; to be used within one event loop."""

    def __init__(self, model: str, config: VLMConfig) -> None:
        openai = import_openai()
        self.model, self.config = model, config
        self._key = config.read_key()
        # Nobody's proxy knows the way to this computer itself.
        http = openai.DefaultAsyncHttpxClient(trust_env=not config.local, max_redirects=REDIRECTS)
        self._client: Any = openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=config.base_url,
            max_retries=0,
            # A server that cannot be reached at all must be told from one that thinks, which may charge for it.
            timeout=openai.Timeout(config.timeout, connect=min(config.timeout / 2, PATIENCE)),
            http_client=http,
        )
        self._slots = asyncio.Semaphore(config.concurrency)
        self._next_call = 0.0
        self._rng = random.Random()
        self._stopped = asyncio.Event()

    async def complete(self, messages: list[dict[str, Any]], schema: dict[str, Any] | None, account: Account) -> Reply:
        """Return the model's reply.

        Raises PrefenvsError where nothing can be asked of this server, Rejected where it does not take this prompt,
        and Unavailable after the last attempt.
        """
        reason, busy = "stopped before the call", True
        for attempt in range(self.config.attempts):
            # Before a slot is taken, as those that can free money may need one.
            await account.reserve()
            try:
                async with self._slots:
                    await self._wait_for_turn()
                    if self._stopped.is_set():
                        raise Unavailable(reason, busy=True)
                    return await self._account_for(messages, schema, account)
            except _Passing as failure:
                reason, busy = str(failure), failure.busy
                pause = min(self.config.backoff * 2.0**attempt, LONGEST_PAUSE) * self._rng.uniform(0.75, 1.25)
                if failure.wait is not None:
                    if failure.wait > LONGEST_WAIT:
                        reason = f"{reason}, which asks to wait {failure.wait:.0f} s"
                        break
                    pause = max(pause, failure.wait)
                    # The others would be turned away as well.
                    self._next_call = max(self._next_call, clock.monotonic() + pause)
            if attempt + 1 < self.config.attempts:
                await self._sleep(pause)
        raise Unavailable(f"{reason} ({attempt + 1} attempts)", busy)

    async def works(self) -> bool:
        """Tell whether the server answers a request of one word and one token, once."""
        import openai

        try:
            async with asyncio.timeout(min(self.config.timeout, PATIENCE)):
                body = smallest_request(self.model, self.config)
                answer = await self._client.post("/chat/completions", cast_to=object, body=body)
        except openai.APIStatusError as error:
            # It is there, and does not like one token.
            return error.status_code in (400, 422)
        except (openai.OpenAIError, TimeoutError, ValueError, RecursionError):
            return False
        return isinstance(answer, dict) and bool(answer.get("choices"))

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

    async def _account_for(
        self, messages: list[dict[str, Any]], schema: dict[str, Any] | None, account: Account
    ) -> Reply:
        """Make an attempt that is written down before it begins, and again where it fails."""
        await account.begin()
        try:
            return await self._attempt(messages, schema)
        except (_Passing, Rejected, PrefenvsError) as error:
            await account.fail(str(error), getattr(error, "charged", False))
            raise
        except Exception as error:
            await account.fail(self._clean(error), True)
            raise

    async def _attempt(self, messages: list[dict[str, Any]], schema: dict[str, Any] | None) -> Reply:
        import openai

        config, begun = self.config, clock.monotonic()
        url = config.base_url
        try:
            async with asyncio.timeout(config.timeout):
                # The method made for this walks through the whole request by its types, at half the cost of a call.
                body = {"model": self.model, "messages": messages, **request_settings(config, schema), **config.extra}
                answer = await self._client.post("/chat/completions", cast_to=object, body=body)
        except (openai.APITimeoutError, TimeoutError) as error:
            # Before there is a connection nothing can be charged.
            sent = type(error.__cause__).__name__ not in ("ConnectTimeout", "PoolTimeout")
            raise _Passing(f"{url} sent no reply within {config.timeout:g} s", sent, busy=not sent) from None
        except openai.APIStatusError as error:
            return self._judge_status(int(error.status_code), error.body, error.message, error.response.headers, begun)
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            if type(cause).__name__ == "TooManyRedirects":
                raise PrefenvsError(
                    f"{url} sends its callers in a circle: more than {REDIRECTS} redirects; is the address right?"
                ) from None
            # A connection that was never made has cost nothing; one that broke may have.
            refused = "connect" in type(cause).__name__.lower()
            raise _Passing(f"{url} cannot be reached ({self._clean(cause)})", not refused, busy=refused) from None
        except (openai.APIResponseValidationError, ValueError, RecursionError):
            raise _Passing(f"{url} sent a reply that is no JSON", charged=True) from None
        seconds = clock.monotonic() - begun
        if isinstance(answer, dict) and answer.get("error") and not answer.get("choices"):
            # Some gateways report a failure with status 200.
            status = _fields(answer).get("code")
            status = status if isinstance(status, int) and 400 <= status < 600 else 500
            return self._judge_status(status, answer, _fields(answer).get("message"), {}, begun)
        return self._read(answer, seconds)

    def _judge_status(self, status: int, body: Any, said: Any, headers: Any, begun: float) -> Reply:
        """Turn an error status into a refusal to rate, a failure that may pass, or one that will not."""
        config, fields = self.config, _fields(body)
        said = self._clean(fields.get("message") or fields.get("detail") or said)
        inner = fields.get("innererror")
        inner = inner.get("code") if isinstance(inner, dict) else ""
        code = " ".join(str(name or "") for name in (fields.get("code"), fields.get("type"), inner))
        answered = f"{config.base_url} answered with status {status} ({said})"
        if status >= 400 and status not in (401, 404, 429):
            if _REFUSAL_CODE.search(code) or (status < 500 and _REFUSAL_TEXT.search(said)):
                return Reply(storable(said), "refusal", 0, 0, clock.monotonic() - begun)
            if _NO_PICTURES.search(said):
                raise PrefenvsError(f"{answered}; {self.model!r} takes no such pictures: choose a model that does, "
                                    "or another --vlm-view")  # fmt: skip
        if status == 402 or (status in (403, 429) and _NO_QUOTA.search(code)):
            raise PrefenvsError(f"{config.base_url} says that the account has no quota left ({said})")
        if status in AGAIN or (status >= 500 and status not in (501, 505)):
            raise _Passing(answered, status >= 500, read_wait(headers), busy=status in BUSY)
        way_out = {
            400: "the server does not take the request: another --vlm-stages, --vlm-view, --vlm-seed or "
            "--vlm-temperature may help",
            401: f"check the key in the environment variable {config.key_name}",
            403: f"the key in {config.key_name} may not use this model",
            404: f"is {self.model!r} the model's name there, and {config.base_url} the address, with /v1 at its end?",
            413: "the pictures are too large for the server: choose a smaller size or fewer frames",
        }.get(status, "the server does not take the request")
        if status in (400, 413, 422):
            raise Rejected(f"{answered}; {way_out}")
        raise PrefenvsError(f"{answered}; {way_out}")

    def _read(self, answer: Any, seconds: float) -> Reply:
        try:
            choice = answer["choices"][0]
            message = choice["message"]
            text, refusal = _read_content(message.get("content")), message.get("refusal")
        except (AttributeError, KeyError, IndexError, TypeError):
            where = self.config.base_url
            raise _Passing(f"{where} sent a reply that is not in the protocol's form", charged=True) from None
        finish = str(choice.get("finish_reason") or "stop")[:LONGEST_FINISH]
        finish = next((end for end, names in _ENDS.items() if finish.lower() in names), finish)
        if refusal:
            text, finish = text or str(refusal), "refusal"
        usage = answer.get("usage")
        usage = usage if isinstance(usage, dict) else {}
        # No prompt takes 0 tokens, and no text does: a server that says so does not count.
        tokens_in = _read_count(usage.get("prompt_tokens"), 1)
        tokens_out = _read_count(usage.get("completion_tokens"), 1 if text else 0)
        text, finish = (storable(redact(part, self._key)) for part in (text, finish))
        return Reply(text, finish, tokens_in, tokens_out, seconds)

    def _clean(self, text: object) -> str:
        """One short line without the key, which some servers repeat."""
        return redact(" ".join(str(text).split()), self._key)[:300]


def import_openai() -> Any:
    """Return the openai package; raises PrefenvsError where it is missing."""
    return import_extra("openai", "a model as rater")


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


def smallest_request(model: str, config: VLMConfig) -> dict[str, Any]:
    """Return a request of one word and one token, which tells whether a server answers at all."""
    limit = "max_completion_tokens" if config.hosted else "max_tokens"
    return {"model": model, "messages": [{"role": "user", "content": "Hello"}], limit: 1}


def redact(text: str, key: str) -> str:
    """Return a text without the key; one of a few letters is no secret, and may be part of any word."""
    return text.replace(key, "***") if len(key) >= SHORTEST_KEY else text


def read_wait(headers: Any) -> float | None:
    """Return the seconds that a server asks to wait: retry-after-ms, or Retry-After in seconds or as a date.

    None where it does not say, or says what is no time to come.
    """
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            wait = float(value) * scale
        except ValueError:
            try:
                wait = parsedate_to_datetime(value).timestamp() - clock.time()
            except (ValueError, OverflowError, OSError):
                continue
        if wait > 0:
            return wait
    return None


def _fields(body: Any) -> dict[str, Any]:
    """Return the fields of an error's body, with or without an outer "error"."""
    error = body.get("error", body) if isinstance(body, dict) else body
    return error if isinstance(error, dict) else {"message": error} if isinstance(error, str) else {}


def _read_content(content: Any) -> str:
    """Return the text of a message: a string, or parts whose texts belong together; whatever else has none."""
    if isinstance(content, list):
        texts = (part.get("text") if isinstance(part, dict) else part for part in content)
        return "".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def _read_count(value: Any, least: int) -> int | None:
    """Return a server's count of tokens, None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= MOST_TOKENS:
        return None
    return int(value)


def check_server(model: str, config: VLMConfig) -> None:
    """Raise a PrefenvsError, in one line, if the server cannot be reached, refuses the key or lacks the model.

    It is asked for the list of its models. Servers that have no such list, or that take models which are not on it, get
    a request of one word and one token, without pictures. Whatever else is wrong with a server may pass, and is left to
    the calls that follow.
    """
    openai = import_openai()
    key = config.read_key()
    http = openai.DefaultHttpxClient(trust_env=not config.local, max_redirects=REDIRECTS)
    settings = {"base_url": config.base_url, "max_retries": 0, "timeout": min(config.timeout, PATIENCE)}
    with openai.OpenAI(api_key=key or "none", http_client=http, **settings) as client:
        try:
            known = _list_models(client)
        except openai.AuthenticationError:
            raise PrefenvsError(
                f"{config.base_url} does not accept the key: check the environment variable {config.key_name}"
            ) from None
        except openai.APIConnectionError as error:
            cause = "no reply" if isinstance(error, openai.APITimeoutError) else _line(error.__cause__ or error, key)
            raise PrefenvsError(
                f"{config.base_url} cannot be reached ({cause}): is the server running, and the address right?"
            ) from None
        except openai.APIStatusError as error:
            known = []
            if error.status_code in (429, 500, 502, 503, 504):
                return
        except (ValueError, RecursionError):
            known = []
        if model not in known:
            _try_model(client, model, config, [redact(name, key) for name in known])


def _list_models(client: Any) -> list[str]:
    """Return the names of the server's models, none if what it sends is no list of them."""
    found = client.get("/models", cast_to=object)
    entries = found.get("data") if isinstance(found, dict) else None
    entries = entries if isinstance(entries, list) else []
    return [str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry]


def _try_model(client: Any, model: str, config: VLMConfig, known: list[str]) -> None:
    openai = import_openai()
    try:
        client.post("/chat/completions", cast_to=object, body=smallest_request(model, config))
    except openai.NotFoundError:
        shown = f"; it has {', '.join(known[:SHOWN])}{', ...' if len(known) > SHOWN else ''}" if known else ""
        hint = shown or ", or the address is wrong: most end in /v1"
        raise PrefenvsError(
            f"{config.base_url} does not know the model {model!r}{hint}.{near_matches(model, known)}"
        ) from None
    except openai.AuthenticationError:
        raise PrefenvsError(
            f"{config.base_url} does not accept the key: check the environment variable {config.key_name}"
        ) from None
    except (openai.APIError, ValueError, RecursionError):
        # It loads the model, is busy, or wants pictures.
        return


def _line(error: object, key: str) -> str:
    return redact(" ".join(str(error).split()), key)[:200]
