"""Many seeds of PEBBLE at once: agents that differ in their seeds alone make each step and each fit in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Semaphore, Thread
from typing import Any, NamedTuple

import torch
from stable_baselines3.common.type_aliases import MaybeCallback, ReplayBufferSamples
from torch import Tensor
from tqdm import tqdm

from prefenvs.agents.nets.kernels import products
from prefenvs.agents.nets.members import check_members
from prefenvs.agents.nets.rng_state import RandomStreams
from prefenvs.agents.online.pebble import PEBBLE
from prefenvs.agents.online.sac import update
from prefenvs.agents.online.sac_stack import SACStack, Step
from prefenvs.agents.rewards.ensemble import fit_ensembles
from prefenvs.errors import PrefenvsError
from prefenvs.preferences import Preference, Query


class Fit(NamedTuple):
    """What a fit of the reward model needs."""

    preferences: Sequence[Preference]
    unlabelled: Sequence[Query]


class PebbleGroup:
    """K agents, each with environments, rater, reward model and replay buffer of its own, whose gradient steps are one.

    Each agent runs its own `learn` until it needs a gradient step or a fit of its reward model, one agent after the
    other, with the global random generators as it left them; then one pass over stacked parameters makes those of all.
    So each learns what it would learn alone, up to the rounding of sums, and can be evaluated, saved and resumed like
    any other.
    """

    def __init__(self, agents: Sequence[PEBBLE]) -> None:
        """Raises PrefenvsError for agents that cannot share a step."""
        check_members(agents, lambda a: (a.config, a.gamma, a.tau, a.batch_size, a.target_entropy, a.device))
        self.agents = list(agents)

    def learn(
        self,
        total_timesteps: int,
        callbacks: Sequence[MaybeCallback] | None = None,
        progress_bar: bool = False,
        reset_num_timesteps: bool = True,
    ) -> PebbleGroup:
        """Train each agent for `total_timesteps` environment steps, with a callback of its own.

        An agent that fails does not stop the others; its error is raised when they have ended.
        """
        stack = SACStack(self.agents)
        given = callbacks or [None] * len(self.agents)
        places = [
            _Place(agent, total_timesteps, callback, reset_num_timesteps)
            for agent, callback in zip(self.agents, given, strict=True)
        ]
        title = f"{self.agents[0].name}, {len(places)} seeds"
        with (
            products(),
            tqdm(total=total_timesteps, desc=title, unit="step", disable=not progress_bar) as bar,
        ):
            first = self.agents[0].num_timesteps if not reset_num_timesteps else 0
            try:
                running = [place for place in places if place.go_on()]
                while running:
                    served = _fit(running) or self._make_steps(stack, running, len(places))
                    running = [place for place in running if place not in served or place.go_on()]
                    if progress_bar:
                        bar.update(min(agent.num_timesteps for agent in self.agents) - first - bar.n)
            finally:
                for agent in self.agents:
                    agent.take_step_together = None
                    if agent.feedback is not None:
                        agent.feedback.fit = agent.feedback.fit_alone
        errors = [place.error for place in places if place.error is not None]
        if errors:
            # An interrupt goes before what it may have led to.
            raise min(errors, key=lambda error: not isinstance(error, KeyboardInterrupt))
        return self

    @staticmethod
    def _make_steps(stack: SACStack, waiting: Sequence[_Place], everyone: int) -> Sequence[_Place]:
        """Make the gradient steps that agents wait for: of all in one pass, of a rest one by one."""
        steps = [place.request for place in waiting if isinstance(place.request, Step)]
        if len(waiting) == everyone:
            for place, metrics in zip(waiting, stack.update(steps), strict=True):
                place.answer = metrics
            return waiting
        for place, step in zip(waiting, steps, strict=True):
            place.answer = update(place.agent, step.batch, step.move_target, step.noises)
        return waiting


def _fit(waiting: Sequence[_Place]) -> Sequence[_Place]:
    """Fit the reward models of the agents that wait for it, and return those; the others wait until they come along."""
    places = [place for place in waiting if isinstance(place.request, Fit)]
    fits = [place.request for place in places if isinstance(place.request, Fit)]
    models = [place.agent.reward_model for place in places]
    answers = fit_ensembles(models, [fit.preferences for fit in fits], [fit.unlabelled for fit in fits])
    for place, answer in zip(places, answers, strict=True):
        place.answer = answer
    return places


class _Place:
    """An agent that learns in a thread of its own, which runs only while `go_on` waits for it."""

    request: Step | Fit
    answer: dict[str, Any] | PrefenvsError

    def __init__(self, agent: PEBBLE, total: int, callback: MaybeCallback, reset: bool) -> None:
        self.agent = agent
        self.error: BaseException | None = None
        self._total, self._callback, self._reset = total, callback, reset
        self._turn, self._done, self._ended = Semaphore(0), Semaphore(0), False
        self._thread = Thread(target=self._learn, daemon=True)
        self._thread.start()

    def go_on(self) -> bool:
        """Let the agent run until it needs something, and tell whether it does; False once it has ended."""
        if self._ended:
            return False
        outside = RandomStreams.now()
        self.agent.streams.resume()
        self._turn.release()
        self._done.acquire()
        self.agent.streams = RandomStreams.now()
        outside.resume()
        return not self._ended

    def _learn(self) -> None:
        self._turn.acquire()
        agent = self.agent
        agent.take_step_together = self._take_step
        try:
            agent.start_feedback(self._total)
            if agent.feedback is not None:
                agent.feedback.fit = self._fit
            agent.learn(self._total, self._callback, reset_num_timesteps=self._reset)
        except BaseException as error:
            self.error = error
        finally:
            self._ended = True
            self._done.release()

    def _take_step(self, batch: ReplayBufferSamples, move_target: bool) -> dict[str, Tensor]:
        """Draw what the step needs, as `update` would, hand it over and return what came of it."""
        noises = torch.randn_like(batch.actions), torch.randn_like(batch.actions)
        return self._wait(Step(batch, noises, move_target))

    def _fit(self, preferences: Sequence[Preference], unlabelled: Sequence[Query]) -> dict[str, float]:
        return self._wait(Fit(preferences, unlabelled))

    def _wait(self, request: Step | Fit) -> dict[str, Any]:
        self.request = request
        self._done.release()
        self._turn.acquire()
        if isinstance(self.answer, PrefenvsError):
            raise self.answer
        return self.answer
