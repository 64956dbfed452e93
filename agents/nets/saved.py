"""Files of saved agents: the tensors that go into them, and what a damaged one raises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map

from prefenvs.errors import PrefenvsError


@contextmanager
def damage_told(path: str | Path, way_out: str, always: bool = False) -> Iterator[None]:
    """Turn any error from reading `path` within the block into a PrefenvsError; `way_out` says what to do.

    always: say so after a PrefenvsError from inside the block too, which is raised as it is otherwise.
    """
    try:
        yield
    except PrefenvsError as error:
        if not always:
            raise
        raise PrefenvsError(f"{error}: {way_out}") from error
    except FileNotFoundError:
        raise PrefenvsError(f"{path} is missing: {way_out}") from None
    except ImportError as error:
        raise PrefenvsError(f"{path} needs code that is not here ({_one_line(error)}): {way_out}") from error
    except PermissionError as error:
        raise PrefenvsError(f"{path} may not be read: {way_out}") from error
    # What unpacking, unpickling and copying raise of damaged bytes has no common class.
    except Exception as error:
        raise PrefenvsError(
            f"{path} is damaged, or of another version ({type(error).__name__}: {_one_line(error)}): {way_out}"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def own_memory(state: Any) -> Any:
    """Return a state in which no tensor is part of a larger one: a file would hold the weights of all seeds else."""

    def detach(leaf: Any) -> Any:
        shared = isinstance(leaf, Tensor) and leaf.untyped_storage().nbytes() > leaf.numel() * leaf.element_size()
        return leaf.detach().clone() if shared else leaf

    return tree_map(detach, state)
