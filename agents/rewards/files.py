"""Files of reward models: tensors and plain values, which are read without running anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from prefenvs.errors import PrefenvsError
from prefenvs.internal.file_sizes import check_zip


@contextmanager
def saved_state(path: str | Path, form: str, writer: str) -> Iterator[dict[str, Any]]:
    """Yield the state that a reward model's `save` wrote to `path`, to make the model of it within the block.

    form: what the state's "format" has to be; writer: the class. Raises PrefenvsError for a file that is damaged, of
    another kind, or not there, whether reading it or making the model shows that.
    """
    try:
        check_zip(path)
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != form:
            raise KeyError("format")
        yield state
    except FileNotFoundError:
        raise PrefenvsError(f"there is no reward model at {path}") from None
    except PrefenvsError:
        raise
    except Exception as error:
        raise PrefenvsError(
            f"{path} is not a reward model written by {writer}.save ({type(error).__name__})"
        ) from error
