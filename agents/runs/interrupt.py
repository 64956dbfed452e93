"""Ctrl-C or SIGTERM that stops training between two steps, where a checkpoint is whole."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any, Self

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from prefenvs.preferences import Oracle

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what service managers and job schedulers send."""


class StopOnInterrupt(BaseCallback):
    """Turn the first Ctrl-C or SIGTERM into a KeyboardInterrupt between two steps; a second one stops at once.

    To be used both as a context manager around `learn` and as one of its callbacks. An interrupt in the middle of a
    session or a gradient step would leave an agent of which no checkpoint should be kept: answers taken from the rater
    and not yet noted, a replay buffer one row ahead of the recorded episodes. While the rater is waited for there is
    no such half-done work, and the first Ctrl-C stops at once.

    requested: whether somebody asked to stop. safe: whether the agent can be saved as it stands.
    """

    def __init__(self, oracle: Oracle | None = None) -> None:
        super().__init__()
        self.oracle = oracle
        self.requested = False
        self.safe = True
        self._former: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        # Python delivers signals to the main thread only; elsewhere they are somebody else's affair.
        if threading.current_thread() is threading.main_thread():
            self._former = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, former in self._former.items():
            signal.signal(number, former)
        self._former = {}

    def _on_rollout_start(self) -> None:
        if self.requested:
            raise KeyboardInterrupt

    def _on_step(self) -> bool:
        # An on-policy rollout may take minutes and is thrown away by a resume in any case; an off-policy one is short,
        # and has to reach the replay buffer. The last one would not be rolled out anew.
        unfinished = isinstance(self.model, OnPolicyAlgorithm) and self.num_timesteps < self.model._total_timesteps
        if self.requested and unfinished:
            raise KeyboardInterrupt
        return True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        waiting = self.oracle is not None and self.oracle.waiting
        if self.requested or waiting:
            self.safe = waiting
            raise KeyboardInterrupt
        self.requested = True
        print("\nstopping after this step (Ctrl-C again: at once, back to the last checkpoint)", file=sys.stderr)
