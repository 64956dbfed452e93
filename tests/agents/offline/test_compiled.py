"""A compiled loss does what the eager one does."""

import shutil

import pytest

from prefenvs.errors import PrefenvsError

from .test_seeds import MADE, assert_alike, make


@pytest.mark.parametrize("kind", MADE)
def test_a_learner_learns_the_same_from_its_traced_loss(kind, make_dataset, prefer) -> None:
    """What torch.compile traces and differentiates, without the compiler that a machine may lack."""
    eager, traced = (make(kind, make_dataset, prefer, 3) for _ in range(2))
    assert_alike(traced.compile("aot_eager").learn(15), eager.learn(15))


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_learner_learns_the_same_from_its_compiled_loss(make_dataset, prefer) -> None:
    eager, compiled = (make("iql", make_dataset, prefer, 3) for _ in range(2))
    assert_alike(compiled.compile().learn(15), eager.learn(15))


def test_compiling_that_does_not_work_is_told(make_dataset, prefer) -> None:
    with pytest.raises(PrefenvsError, match=r"torch\.compile does not work here"):
        make("iql", make_dataset, prefer, 3).compile("no-such-backend")
