"""Settings of a model that rates, and the options that they are given by."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from tyro.conf import arg

from prefenvs.errors import PrefenvsError
from prefenvs.limits import (
    LARGE,
    NonNegativeFloat,
    NonNegativeInt,
    Pixels,
    PositiveFloat,
    PositiveInt,
    Range,
    Seed,
    check_settings,
)
from prefenvs.oracles.vlm.budget import Budget
from prefenvs.oracles.vlm.pictures import View

HOSTED = "https://api.openai.com/v1"
HOSTED_KEY, OTHER_KEY = "OPENAI_API_KEY", "PREFENVS_VLM_KEY"


@dataclass(frozen=True)
class VLMConfig:
    """How a model is asked; the defaults are RL-VLM-F's where it says something: last frames, two stages, greedy."""

    base_url: str = HOSTED
    """Address of any server that speaks the OpenAI protocol, such as http://localhost:8000/v1."""
    key_env: str = ""
    """Environment variable that holds the key; by default OPENAI_API_KEY for OpenAI's own server and
    PREFENVS_VLM_KEY for all others, so that a key never goes to a server it was not issued for."""
    stages: Literal["two", "one"] = "two"
    """two: a free description, then a one-word verdict on it; one: both at once as JSON by a schema."""
    answer: Literal["verdict", "probability"] = "verdict"
    """verdict: 1 or 0; probability: the chance that the model states, in one stage only."""
    order: Literal["mixed", "both", "given"] = "mixed"
    """Which segment is shown first: mixed, either, by the query's hash; both, in two prompts, so that a position bias
    cancels; given, as in the query."""
    view: View = field(default_factory=View)
    """What is shown of a segment."""
    prompts: Path | str | None = None
    """Folder of edited prompts."""
    sentence: str = ""
    """The task in a sentence; the task's own by default."""
    temperature: NonNegativeFloat | None = 0.0
    """None leaves it to the server, as some models demand."""
    seed: Annotated[int, Range(-LARGE, LARGE)] | None = 0
    """Seed of the model's sampling; None leaves it out, as some servers demand."""
    max_tokens: PositiveInt = 512
    """Most tokens of one reply."""
    concurrency: PositiveInt = 8
    """Calls under way at a time."""
    per_minute: PositiveFloat | None = None
    """Most calls begun in a minute."""
    timeout: PositiveFloat = 60.0
    """Seconds that a reply may take."""
    attempts: PositiveInt = 6
    """Attempts at a call before the server is taken to be down."""
    backoff: NonNegativeFloat = 1.0
    """Seconds before the second attempt; doubled for each further one, up to 60."""
    picture_tokens: PositiveInt = 1_600
    """Tokens set aside for a picture until replies show how many it takes."""
    budget: Budget = field(default_factory=Budget)
    """Where it stops."""
    replay: bool = False
    """Answer from the store alone, without a model."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the request, such as {"top_p": 0.9}."""

    def __post_init__(self) -> None:
        check_settings(self)
        for name, kind in (("view", View), ("budget", Budget), ("extra", Mapping)):
            if not isinstance(getattr(self, name), kind):
                raise PrefenvsError(f"{name} must be a {kind.__name__}, got {getattr(self, name)!r}")
        if self.answer == "probability" and self.stages == "two":
            raise PrefenvsError("a stated probability comes with one stage: set stages to one")
        _check_url(self.base_url)

    @property
    def key_name(self) -> str:
        """Environment variable that the key is read from."""
        return self.key_env or (HOSTED_KEY if self.hosted else OTHER_KEY)

    @property
    def hosted(self) -> bool:
        """Whether the server is OpenAI's own."""
        return urlsplit(self.base_url).hostname == urlsplit(HOSTED).hostname

    @property
    def local(self) -> bool:
        """Whether the server is on this computer."""
        host = urlsplit(self.base_url).hostname or ""
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    def read_key(self) -> str:
        """Return the key from the environment, empty if there is none.

        Raises PrefenvsError where the server is known to need one.
        """
        key = os.environ.get(self.key_name, "").strip()
        if not key and (self.hosted or self.key_env):
            raise PrefenvsError(f"no key for {self.base_url}: set the environment variable {self.key_name}")
        if not key.isascii() or not key.isprintable() or " " in key:
            raise PrefenvsError(
                f"the key in the environment variable {self.key_name} holds characters that no key has, such as a line "
                "break, a space or a typographic quotation mark: set it anew"
            )
        return key


@dataclass(frozen=True)
class VLMOptions:
    """A vision-language model as rater; its key comes from the environment (OPENAI_API_KEY, or PREFENVS_VLM_KEY)."""

    url: Annotated[str | None, arg(name="vlm-url")] = None
    """Address of a server that speaks the OpenAI protocol, such as http://localhost:8000/v1; OpenAI's by default."""
    model: Annotated[str | None, arg(name="vlm-model")] = None
    """The model's name as the server knows it."""
    key_env: Annotated[str, arg(name="vlm-key-env")] = ""
    """Environment variable that holds the key, where it is another one."""
    stages: Annotated[Literal["two", "one"], arg(name="vlm-stages")] = "two"
    """two: a description, then a verdict on it; one: both at once as JSON by a schema."""
    answer: Annotated[Literal["verdict", "probability"], arg(name="vlm-answer")] = "verdict"
    """A verdict, or with one stage the probability that the model states."""
    order: Annotated[Literal["mixed", "both", "given"], arg(name="vlm-order")] = "mixed"
    """Which segment comes first: either, both in two prompts (cancels a position bias), or as asked."""
    view: Annotated[Literal["last", "strip", "frames", "clip"], arg(name="vlm-view")] = "last"
    """A segment's last frame, frames side by side, frames as pictures of their own, or an MP4 clip."""
    frames: Annotated[PositiveInt, arg(name="vlm-frames")] = 4
    """Frames of a strip, of frames or of a clip."""
    size: Annotated[Pixels, arg(name="vlm-size")] = 256
    """Pixels of a frame's side."""
    hide_robot: Annotated[bool, arg(name="vlm-hide-robot")] = False
    """Draw the objects only."""
    prompts: Annotated[Path | None, arg(name="vlm-prompts")] = None
    """Folder of edited prompts; `prefenvs rate --copy-prompts FOLDER` makes one."""
    temperature: Annotated[NonNegativeFloat | None, arg(name="vlm-temperature")] = 0.0
    """None leaves it to the server, as some models demand."""
    seed: Annotated[Seed | None, arg(name="vlm-seed")] = 0
    """Seed of the model's sampling; None leaves it out, as some servers demand."""
    max_tokens: Annotated[PositiveInt, arg(name="vlm-max-tokens")] = 512
    """Most tokens of one reply."""
    concurrency: Annotated[PositiveInt, arg(name="vlm-concurrency")] = 8
    """Calls under way at a time."""
    per_minute: Annotated[PositiveFloat | None, arg(name="vlm-per-minute")] = None
    """Most calls begun in a minute."""
    timeout: Annotated[PositiveFloat, arg(name="vlm-timeout")] = 60.0
    """Seconds that a reply may take."""
    attempts: Annotated[PositiveInt, arg(name="vlm-attempts")] = 6
    """Attempts at a call before the server is taken to be down."""
    budget_queries: Annotated[NonNegativeInt | None, arg(name="vlm-budget-queries")] = None
    """Stop after so many queries, over all starts of the run."""
    budget_tokens: Annotated[NonNegativeInt | None, arg(name="vlm-budget-tokens")] = None
    """Stop before so many tokens are used."""
    budget_cost: Annotated[NonNegativeFloat | None, arg(name="vlm-budget-cost")] = None
    """Stop before so much money is spent; needs the prices."""
    price_in: Annotated[NonNegativeFloat, arg(name="vlm-price-in")] = 0.0
    """Price of a million tokens of prompts."""
    price_out: Annotated[NonNegativeFloat, arg(name="vlm-price-out")] = 0.0
    """Price of a million tokens of replies."""
    replay: Annotated[bool, arg(name="vlm-replay")] = False
    """Answer from the store alone, without a model."""
    store: Annotated[str | None, arg(name="store")] = None
    """Store in which prompts and replies are kept; by default the run's own."""
    wait: Annotated[bool, arg(name="wait")] = False
    """Stop at each session until all is answered; otherwise training goes on meanwhile."""

    def name(self) -> str:
        """Return the model's name; raises PrefenvsError where none is given."""
        if not self.model:
            raise PrefenvsError("--oracle vlm needs the model's name: --vlm-model NAME (and --vlm-url for its server)")
        return self.model

    def config(self) -> VLMConfig:
        """Return how the model is asked; raises PrefenvsError for settings that cannot work."""
        names = ("key_env", "stages", "answer", "order", "temperature", "seed", "max_tokens", "concurrency")
        settings = {name: getattr(self, name) for name in (*names, "per_minute", "timeout", "attempts", "replay")}
        return VLMConfig(
            base_url=HOSTED if self.url is None else self.url,
            view=View(self.view, self.frames, self.size, self.hide_robot),
            prompts=self.prompts,
            budget=Budget(self.budget_queries, self.budget_tokens, self.budget_cost, self.price_in, self.price_out),
            **settings,
        )


def _check_url(url: str) -> None:
    """Refuse addresses that cannot be right, and those that carry a secret which would be written down."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018, raises for what is no number
    except ValueError:
        raise PrefenvsError("the model's base_url is no address: write http://host:port/v1") from None
    if parts.username is not None or parts.password is not None or parts.query:
        raise PrefenvsError(
            f"the model's base_url at {parts.hostname} holds a name, a password or a query, and would be written into "
            f"the run's record: give the key in the environment variable {OTHER_KEY}"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PrefenvsError(f"the model's base_url {url!r} is no address: write http://host:port/v1")
