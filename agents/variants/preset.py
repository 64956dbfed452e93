"""How PEBBLE's relatives come by their presets."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from prefenvs.agents.online.pebble import PebbleConfig
from prefenvs.agents.online.pebble import preset as pebble_preset
from prefenvs.agents.registry import Settings
from prefenvs.tasks import Task


def derive_preset(config_type: type[PebbleConfig], explores: bool = True, **changes: Any) -> Callable[..., Settings]:
    """Return PEBBLE's preset with a relative's configuration, of which it takes all keywords.

    explores: False for no exploration by state entropy, unless its steps are given; changes: to the configuration.
    """

    @functools.wraps(pebble_preset)
    def preset(task: Task, name: str = "published", **given: Any) -> Settings:
        if not explores:
            given = given | {"unsupervised_steps": given.get("unsupervised_steps") or 0}
        settings = pebble_preset(task, name, **given)
        values = {field.name: getattr(settings.config, field.name) for field in dataclasses.fields(settings.config)}
        return dataclasses.replace(settings, config=config_type(**values | changes))

    return preset
