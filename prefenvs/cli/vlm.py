"""What every command that asks a vision-language model is told."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from tyro.conf import arg

from prefenvs.errors import PrefenvsError
from prefenvs.limits import NonNegativeFloat, NonNegativeInt, Pixels, PositiveFloat, PositiveInt, Seed

if TYPE_CHECKING:
    from prefenvs.oracles import VLMOracle
    from prefenvs.store import Store
    from prefenvs.tasks import Task


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

    def over(self, saved: Mapping[str, Any]) -> VLMOptions:
        """Return the options of a saved run, with those in their place that are given now."""
        given = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        return VLMOptions(**{**saved, **given})

    def make(self, task: Task, store: Store | None = None, run: str = "", wait: bool = False) -> VLMOracle:
        """Return the rater."""
        from prefenvs.oracles import VLMOracle
        from prefenvs.oracles.vlm import Budget, View

        model = self._name()
        if self.hide_robot and task.family in ("classic_control", "gridworld"):
            raise PrefenvsError(f"--vlm-hide-robot: task {task.id} draws itself, its robot cannot be hidden")
        budget = Budget(self.budget_queries, self.budget_tokens, self.budget_cost, self.price_in, self.price_out)
        view = View(self.view, self.frames, self.size, self.hide_robot)
        settings = self._settings()
        return VLMOracle(task, model, store=store, run=run, wait=wait, budget=budget, view=view, **settings)

    def check(self) -> None:
        """Raise a PrefenvsError if the server cannot be reached or lacks the model; a replay needs neither."""
        from prefenvs.oracles.vlm import VLMConfig, check_server

        if not self.replay:
            check_server(self._name(), VLMConfig(**self._settings()))

    def _name(self) -> str:
        if not self.model:
            raise PrefenvsError("--oracle vlm needs the model's name: --vlm-model NAME (and --vlm-url for its server)")
        return self.model

    def _settings(self) -> dict[str, Any]:
        names = ("key_env", "stages", "answer", "order", "temperature", "seed", "max_tokens", "concurrency")
        settings = {name: getattr(self, name) for name in (*names, "per_minute", "timeout", "attempts", "replay")}
        if self.url is not None:
            settings["base_url"] = self.url
        if self.prompts is not None:
            settings["prompts"] = Path(self.prompts)
        return settings


def given_flags(options: Any) -> list[str]:
    """Return the flags of a group of options whose values are not their defaults, as they are written."""
    hints = get_type_hints(type(options), include_extras=True)
    return [
        f"--{next(part.name for part in hints[field.name].__metadata__ if getattr(part, 'name', None))}"
        for field in dataclasses.fields(options)
        if getattr(options, field.name) != field.default
    ]
