"""Many seeds at once: learners that differ in their seeds alone make each gradient step in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.utils._pytree import tree_map
from tqdm import tqdm

from prefenvs.agents.nets.kernels import products
from prefenvs.agents.offline.actor import make_adam
from prefenvs.agents.offline.single_loss import Drawn, SingleLossLearner
from prefenvs.errors import PrefenvsError

MOMENTS = ("exp_avg", "exp_avg_sq")


class SeedGroup:
    """K learners of one class and configuration whose parameters lie stacked [K, ...], each learner's a view of them.

    Every learner draws its own batches from its own generator, so it learns what it would learn alone, up to the
    rounding of sums; between two updates it can act, be evaluated, saved and loaded like any other. One pass over
    stacked parameters (`torch.func.vmap`) and one Adam make the step of all.
    """

    def __init__(self, learners: Sequence[SingleLossLearner[Any]]) -> None:
        """Raises PrefenvsError for learners that cannot share a pass."""
        _check_members(learners)
        self.learners = list(learners)
        self._loss = _Loss(learners[0])
        self._share_tables()

    def learn(
        self,
        total_updates: int,
        callbacks: Sequence[MaybeCallback] | None = None,
        log_interval: int = 1_000,
        progress_bar: bool = False,
        reset_num_timesteps: bool = True,
    ) -> SeedGroup:
        """Make `total_updates` gradient steps of each learner; as `OfflineLearner.learn`, with a callback for each.

        All stop where one callback says so. Raises PrefenvsError for learners that have made different numbers of
        updates.
        """
        learners, given = self.learners, callbacks or [None] * len(self.learners)
        counts = {learner.num_timesteps for learner in learners}
        if not reset_num_timesteps and len(counts) > 1:
            raise PrefenvsError(f"learners that go on together have made equally many updates, these {sorted(counts)}")
        each = [
            learner._begin_learning(total_updates, callback, reset_num_timesteps)
            for learner, callback in zip(learners, given, strict=True)
        ]
        self._stack()
        title = f"{learners[0].name}, {len(learners)} seeds"
        with products(), tqdm(total=total_updates, desc=title, unit="update", disable=not progress_bar) as bar:
            going = True
            while going and learners[0].num_timesteps < learners[0]._total_timesteps:
                for callback in each:
                    callback.on_rollout_start()
                figures = self._update()
                bar.update()
                ended = [learner._end_update(callback) for learner, callback in zip(learners, each, strict=True)]
                going = all(ended)
                if going and learners[0]._log_is_due(log_interval):
                    for k, learner in enumerate(learners):
                        learner._log({name: figure[k] for name, figure in figures.items()})
        for callback in each:
            callback.on_training_end()
        return self

    def _update(self) -> dict[str, Tensor]:
        """Make one gradient step of all learners and return their figures, [K] each."""
        drawn = []
        for learner in self.learners:
            learner._before_update()
            drawn.append(learner._draw())
        if self.learners[0].optimiser is not self._optimiser_of_first:
            self._stack_optimisers()
        batch = self._gather(drawn)
        losses, figures = vmap(self._compute)(self._stacked, batch)
        self._optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()  # type: ignore[no-untyped-call]
        for group, own in zip(self._optimiser.param_groups, self._optimiser_of_first.param_groups, strict=True):
            group["lr"] = own["lr"]
        self._optimiser.step()
        for learner in self.learners:
            learner._after_update()
        return {name: figure.detach() for name, figure in figures.items()}

    def _compute(self, parameters: dict[str, Tensor], drawn: Drawn) -> tuple[Tensor, dict[str, Tensor]]:
        result: tuple[Tensor, dict[str, Tensor]] = functional_call(self._loss, parameters, (drawn,))
        return result

    @staticmethod
    def _gather(drawn: Sequence[Drawn]) -> Drawn:
        try:
            batch: Drawn = tree_map(lambda *parts: torch.stack(parts), *drawn)
        except (RuntimeError, ValueError, KeyError) as error:
            raise PrefenvsError(
                f"these learners draw batches of different shapes, so that they cannot train together ({error}): give "
                "them labels of segments of one length, or train them one after the other"
            ) from None
        return batch

    def _stack(self) -> None:
        """Move the parameters of all learners into stacked tensors, and make them views of those."""
        each = [dict(_Loss(learner).named_parameters()) for learner in self.learners]
        self._stacked: dict[str, Tensor] = {}
        for name, parameter in each[0].items():
            stacked = torch.stack([parameters[name].detach() for parameters in each])
            for parameters, part in zip(each, stacked.unbind(), strict=True):
                parameters[name].data = part
            self._stacked[name] = stacked.requires_grad_(parameter.requires_grad)
        self._parameters = each
        self._stack_optimisers()

    def _stack_optimisers(self) -> None:
        """Make one Adam of the learners' own, whose moments become views of its."""
        own = [learner.optimiser for learner in self.learners]
        names = {id(parameter): name for name, parameter in self._parameters[0].items()}
        groups = [
            {"params": [self._stacked[names[id(parameter)]] for parameter in group["params"]], "lr": group["lr"]}
            for group in own[0].param_groups
        ]
        self._optimiser = make_adam(groups, own[0].param_groups[0]["lr"])
        for group in own[0].param_groups:
            for parameter in group["params"]:
                name = names[id(parameter)]
                states = [
                    optimiser.state[parameters[name]]
                    for optimiser, parameters in zip(own, self._parameters, strict=True)
                ]
                self._optimiser.state[self._stacked[name]] = _stack_states(states, parameter)
        self._optimiser_of_first = own[0]

    def _share_tables(self) -> None:
        """Keep one copy of the observations and actions where all learners have the same."""
        first = self.learners[0].data
        for learner in self.learners[1:]:
            data = learner.data
            if first is None or data is None:
                continue
            for name in ("observations", "actions", "rows", "next_rows", "continues"):
                one, other = getattr(first, name), getattr(data, name)
                if one.data_ptr() != other.data_ptr() and torch.equal(one, other):
                    setattr(data, name, one)


def _check_members(learners: Sequence[SingleLossLearner[Any]]) -> None:
    """Raise a PrefenvsError unless there are learners, each of them once, with the same settings."""
    if not learners:
        raise PrefenvsError("a group of seeds needs at least one member")
    first = learners[0]
    names = ("config", "observation_size", "action_size", "device")
    for other in learners:
        if type(other) is not type(first) or any(getattr(other, name) != getattr(first, name) for name in names):
            raise PrefenvsError(
                f"those that train together have the same class, settings, sizes and device, but {first.name} of seed "
                f"{first.seed} and {other.name} of seed {other.seed} differ"
            )
    if len({id(learner) for learner in learners}) < len(learners):
        raise PrefenvsError("the same member stands twice in a group of seeds")


class _Loss(nn.Module):
    """A learner's loss as a module of its networks, whose parameters a call can replace."""

    def __init__(self, learner: SingleLossLearner[Any]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(learner._modules())
        self._learner = learner

    def forward(self, drawn: Drawn) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of one learner, and its figures."""
        return self._learner._loss(drawn)


def _stack_states(states: Sequence[dict[str, Any]], like: Tensor) -> dict[str, Tensor]:
    """Return Adam's state of K parameters stacked, and make their own states views of it."""
    steps = [float(state.get("step", 0.0)) for state in states]
    if len(set(steps)) > 1:
        raise PrefenvsError(f"learners that train together have optimisers of equally many steps, these {steps}")
    stacked = {"step": torch.tensor(steps[0], dtype=torch.float32, device=like.device)}
    for moment in MOMENTS:
        stacked[moment] = torch.stack([state.get(moment, torch.zeros_like(like)) for state in states])
    for k, state in enumerate(states):
        state.update({"step": stacked["step"]} | {moment: stacked[moment][k] for moment in MOMENTS})
    return stacked
