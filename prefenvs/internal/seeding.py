"""Seeds derived from one seed, each the start of a stream of its own."""

from __future__ import annotations

from zlib import crc32

import numpy as np

from prefenvs.errors import PrefenvsError


def derive_seed(seed: int, *purpose: str | int) -> int:
    """Return the seed in [0, 2^31) of one purpose: a name, numbers >= 0, or both.

    Streams of other purposes, and of other seeds, are independent of it (NumPy's `SeedSequence`); with `seed + i` two
    neighbouring seeds would share all but one. Evaluation resets with seeds from 2^31 on, which none of these reaches.
    """
    return int(sequence(seed, *purpose).generate_state(1)[0] >> 1)


def sequence(seed: int, *purpose: str | int) -> np.random.SeedSequence:
    """Return the `SeedSequence` of one purpose, for `np.random.default_rng`.

    Raises PrefenvsError for a negative seed.
    """
    numbers = (seed, *(part for part in purpose if not isinstance(part, str)))
    if any(number < 0 for number in numbers):
        raise PrefenvsError(f"a seed is at least 0, got {min(numbers)}")
    return np.random.SeedSequence(seed, spawn_key=[crc32(p.encode()) if isinstance(p, str) else p for p in purpose])
