"""A store, and what is asked of people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from prefenvs.preferences import Query, make_pairs
from prefenvs.segments import SegmentBatch
from prefenvs.store import Store


def make_queries(count: int, seed: int = 0) -> list[Query]:
    rng = np.random.default_rng(seed)
    return make_pairs(SegmentBatch(rng.random((2 * count, 4, 3)), rng.random((2 * count, 4, 2)), task="Hopper-v5"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "labels.sqlite") as opened:
        yield opened
