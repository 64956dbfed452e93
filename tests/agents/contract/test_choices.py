"""A setting that is one of a few names is never accepted and ignored."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from prefenvs import PrefenvsError
from prefenvs.agents.baselines.imitation import ComparisonsConfig
from prefenvs.agents.offline.bc import BCConfig
from prefenvs.agents.offline.cpl import CPLConfig
from prefenvs.agents.offline.iql import IQLConfig
from prefenvs.agents.online.feedback import FeedbackConfig
from prefenvs.agents.online.pebble import PebbleConfig
from prefenvs.agents.online.prefppo import PrefPPOConfig
from prefenvs.agents.online.sac import SACConfig
from prefenvs.agents.registry import find_algorithm, list_algorithms
from prefenvs.agents.rewards.ensemble import RewardConfig
from prefenvs.agents.rewards.pearl import GaussianRewardConfig
from prefenvs.oracles import Teacher
from prefenvs.oracles.hybrid.config import HybridConfig

CASES = [
    (PrefPPOConfig, "aggregate"),
    (PebbleConfig, "aggregate"),
    (PebbleConfig, "precision"),
    (RewardConfig, "stop"),
    (RewardConfig, "correction"),
    (RewardConfig, "output"),
    (IQLConfig, "reward_rule"),
    (CPLConfig, "correction"),
    (BCConfig, "loss"),
    (BCConfig, "best_by"),
    (GaussianRewardConfig, "backbone"),
    (Teacher, "units"),
    (Teacher, "exact_ties"),
    (HybridConfig, "route"),
]


@pytest.mark.parametrize(
    "value", [lambda progress: 1.0, "decresing", 3, ["constant"]], ids=["function", "mistyped", "3", "list"]
)
@pytest.mark.parametrize(("kind", "name"), CASES, ids=[f"{kind.__name__}.{name}" for kind, name in CASES])
def test_what_is_none_of_the_names_is_refused_in_one_line(kind: Callable[..., Any], name: str, value: Any) -> None:
    with pytest.raises(PrefenvsError, match=name) as caught:
        kind(**{name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["decresing", 3, ["constant"]])
def test_a_schedule_is_a_name_or_a_function(value: Any) -> None:
    with pytest.raises(PrefenvsError, match="choose constant, decreasing, increasing, module:NAME or a function"):
        FeedbackConfig(schedule=value)
    for schedule in ("constant", "decreasing", "increasing", lambda size, steps, total: size):
        assert FeedbackConfig(schedule=schedule).schedule is schedule


def test_imitation_takes_a_function_and_refuses_unknown_names() -> None:
    assert callable(ComparisonsConfig(schedule=lambda progress: 1.0).schedule)
    with pytest.raises(PrefenvsError, match="choose constant, hyperbolic, inverse_quadratic"):
        ComparisonsConfig(schedule="decreasing")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", list_algorithms())
def test_numbers_out_of_their_limits_are_refused_in_python_too(name: str) -> None:
    algorithm = find_algorithm(name)
    for kind in filter(None, (algorithm.config, algorithm.options)):
        numbers = [field.name for field in dataclasses.fields(kind) if type(field.default) in (int, float)]
        for field in numbers:
            with pytest.raises(PrefenvsError, match=field):
                kind(**{field: -(10**13)})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 2.5}, "batch_size must be a whole number, got 2.5"),
        ({"batch_size": 64.0}, "batch_size must be a whole number, got 64.0"),
        ({"batch_size": None}, "batch_size must be a number, got None"),
        ({"discount": None}, "discount must be a number, got None"),
    ],
)
def test_numbers_of_another_kind_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(PrefenvsError, match=message):
        IQLConfig(**given)
    assert IQLConfig(dropout=0, return_range=None).return_range is None


@pytest.mark.parametrize(
    "given", [{"ent_coef": "foo"}, {"ent_coef": "auto_-1"}, {"ent_coef": "nan"}, {"gradient_steps": 0}]
)
def test_settings_of_sac_that_teach_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(PrefenvsError, match=next(iter(given))):
        SACConfig(**given)
    for weight in ("auto", "auto_0.1", "0.2", "0", 0.2):
        assert SACConfig(ent_coef=weight).ent_coef == weight  # type: ignore[arg-type]
