"""What `--seeds` means for every `prefenvs train` that has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from prefenvs.errors import PrefenvsError

Options = TypeVar("Options", bound=Any)


def of_seeds(options: Options, seeds: Sequence[int]) -> list[Options]:
    """Return the options of each seed: {seed} in the run folder's name becomes the seed, or else it is appended."""
    if len(set(seeds)) < len(seeds):
        raise PrefenvsError(f"--seeds names a seed twice: {' '.join(map(str, seeds))}")
    return [
        dataclasses.replace(options, seed=seed, seeds=(), folder=_folder_of(options.folder, seed)) for seed in seeds
    ]


def check_resume(seeds: Sequence[int]) -> None:
    """Raise a PrefenvsError where several seeds are to be resumed by one command."""
    if seeds:
        raise PrefenvsError("--resume continues one run: leave --seeds away, and resume each seed's run")


def _folder_of(folder: Path | None, seed: int) -> Path | None:
    if folder is None:
        return None
    name = str(folder)
    return Path(name.replace("{seed}", str(seed)) if "{seed}" in name else f"{name}-{seed}")
