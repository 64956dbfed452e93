"""A reward that looks at pictures: an ensemble on frames of the states, learned from preferences (RL-VLM-F)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor, nn
from tqdm import trange

from prefenvs.agents.nets.mlp import OUTPUTS, Output
from prefenvs.agents.rewards.image.encoders import ClipEncoder, Encoder
from prefenvs.agents.rewards.image.frames import FrameTable, check_states
from prefenvs.agents.rewards.image.nets import ConvEnsemble, HeadEnsemble
from prefenvs.agents.rewards.losses import ABSENT, credit_labels, is_decided, preference_loss
from prefenvs.agents.rewards.tables import prepare_labels
from prefenvs.errors import PrefenvsError
from prefenvs.frames.cache import FrameCache
from prefenvs.frames.rewards import reward_steps
from prefenvs.internal.closing import Closing
from prefenvs.internal.file_sizes import check_zip
from prefenvs.limits import Fraction, PositiveFloat, PositiveInt
from prefenvs.preferences import Preference, Query
from prefenvs.segments import Array, Segment
from prefenvs.tasks import Task, find_task
from prefenvs.trajectories import Trajectories

__all__ = ["ImageRewardConfig", "ImageRewardEnsemble"]

FORMAT = "prefenvs-image-reward-1"


@dataclass(frozen=True)
class ImageRewardConfig:
    """Settings of the image reward; network and batch are RL-VLM-F's (Wang et al. 2024), where frames have 300 pixels.

    An encoder's features take the place of the convolutions: then `size` and `channels` do nothing, `width` and
    `layers` do.
    """

    members: PositiveInt = 3
    """Networks in the ensemble."""
    size: PositiveInt = 64
    """Width and height of the frames in pixels."""
    stride: PositiveInt = 5
    """Every so many steps of a segment one frame is looked at, counted back from its last step."""
    hide_robot: bool = False
    """Draw the objects only."""
    channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (16, 32, 64, 128)
    """Channels of the convolutions, with kernels 5, 3, 3, 3 and strides 3, 2, 2, 2."""
    width: PositiveInt = 256
    """With an encoder: units of each hidden layer on its features."""
    layers: PositiveInt = 2
    """With an encoder: hidden layers."""
    output: Output = "tanh"
    """Function on the last layer; tanh keeps each frame's reward in [-1, 1]."""
    learning_rate: PositiveFloat = 3e-4
    """Adam's, for all members."""
    batch_size: PositiveInt = 64
    """Labelled queries in one gradient step."""
    epochs: PositiveInt = 50
    """Passes over the labels in one fit, at most."""
    stop_accuracy: Fraction = 0.97
    """A fit ends after the first pass with a higher accuracy, mean of the members over decided labels; 1 for never."""
    validation_share: Fraction = 0.0
    """Share of the labels held out, by episode where possible."""
    cached_frames: PositiveInt = 20_000
    """Frames kept for states that are looked at again."""

    def __post_init__(self) -> None:
        for name in ("members", "stride", "width", "layers", "batch_size", "epochs"):
            if getattr(self, name) < 1:
                raise PrefenvsError(f"image reward {name} must be at least 1, got {getattr(self, name)}")
        if self.output not in OUTPUTS:
            raise PrefenvsError(f"reward output={self.output!r} is unknown: choose one of {', '.join(OUTPUTS)}")
        if not self.learning_rate > 0.0:
            raise PrefenvsError(f"reward learning_rate={self.learning_rate} must be above 0")
        if not 0.0 <= self.validation_share < 1.0:
            raise PrefenvsError(f"validation_share={self.validation_share} must lie in [0, 1)")


class ImageRewardEnsemble(Closing):
    """M networks r_m(frame) whose sums over the frames of a segment predict which segment is preferred.

    Frames are rendered when they are needed, from the states that segments and trajectories carry, by the task's
    camera. Members differ by their initial weights and share the order of batches, so that frames are gathered once.
    It takes states where `prefenvs.protocols.RewardModel` takes observations and actions; fitting, saving and
    relabelling are the same, and it is a `prefenvs.frames.rewards.StateReward`. Close it, or use it in a `with`
    statement.
    """

    def __init__(
        self,
        task: Task | str,
        config: ImageRewardConfig | None = None,
        encoder: Encoder | str | Path | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
    ) -> None:
        """`encoder`: a frozen one, or the name of a CLIP model (`rewards.image.encoders`); None learns convolutions."""
        self.task = find_task(task) if isinstance(task, str) else task
        self.config, self.device = config or ImageRewardConfig(), get_device(device)
        self.encoder = ClipEncoder(encoder, self.device) if isinstance(encoder, str | Path) else encoder
        size = self.config.size if self.encoder is None else self.encoder.size
        self.frames = FrameCache(self.task, size, self.config.cached_frames, self.config.hide_robot)
        self.generator = torch.Generator().manual_seed(seed)
        self.network = self._build(size).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.config.learning_rate)
        self.table = FrameTable(self.task.id, self.config.stride, self._see, self.device)
        self._sides: dict[str, bool] = {}

    def _build(self, size: int) -> nn.Module:
        c = self.config
        if self.encoder is None:
            return ConvEnsemble(c.members, size, c.channels, c.output, self.generator)
        features = self.encoder(np.zeros((1, size, size, 3), np.uint8)).shape[1]
        return HeadEnsemble(c.members, features, c.width, c.layers, c.output, self.generator)

    def predict(self, states: Array, scenes: Array | None = None) -> Array:
        """Return each member's reward [M, N] float32 for states [N, s], with their episodes' scenes [N, m]."""
        parts = [np.zeros((self.config.members, 0), np.float32)]
        step = self._frames_per_chunk()
        with torch.no_grad():
            for start in range(0, len(states), step):
                rows = slice(start, start + step)
                inputs = self._see(states[rows], None if scenes is None else scenes[rows])
                parts.append(self.network(inputs).cpu().numpy())
        return np.concatenate(parts, 1)

    def score(self, states: Array, scenes: Array | None = None) -> Array:
        """Return the members' mean reward [N] float32 for states [N, s], with their episodes' scenes [N, m]."""
        mean: Array = self.predict(states, scenes).mean(0)
        return mean

    def predict_segments(self, segments: Sequence[Segment]) -> Array:
        """Return each member's reward [M, N, T] of the states of N segments, every step's.

        Raises PrefenvsError where they are of several lengths, or carry no states.
        """
        lengths = {len(segment) for segment in segments}
        if len(lengths) != 1:
            raise PrefenvsError(f"rewards of segments come for one length at a time, got {sorted(lengths)} steps")
        states = np.concatenate([check_states(segment, self.task.id) for segment in segments])
        scenes = [np.repeat(s.scene[None], len(s), 0) for s in segments if s.scene is not None]
        rewards = self.predict(states, np.concatenate(scenes) if scenes else None)
        return rewards.reshape(len(rewards), len(segments), -1)

    def relabel(self, trajectories: Trajectories) -> Array:
        """Return the reward [S] float32 of every step, that of the state it led to: see `reward_steps`."""
        return reward_steps(self, trajectories)

    @torch.no_grad()
    def preference_probabilities(self, queries: Sequence[Query]) -> Array:
        """Return each member's belief [M, N, K] that a segment is preferred; 0 where a query has no such segment."""
        table = FrameTable(self.task.id, self.config.stride, self._see, self.device)
        rows = table.sync(queries)
        returns, present = self._returns(table, rows)
        beliefs: Array = returns.masked_fill(~present, ABSENT).softmax(-1).cpu().numpy()
        return beliefs

    def score_one(self, segment: Segment) -> float:
        """Return the members' mean score of one segment: the sum over the frames that a fit looks at."""
        table = FrameTable(self.task.id, self.config.stride, self._see, self.device)
        with torch.no_grad():
            return float(self._returns(table, table.sync([Query((segment, segment))]))[0].mean(0)[0, 0])

    def fit(self, preferences: Sequence[Preference], progress: bool | None = False) -> dict[str, float]:
        """Train on all preferences given; skips are ignored, ties and other soft labels count as they are.

        Frames seen before are not rendered again. Returns labels, skipped, decided, epochs, loss, accuracy, and with
        held-out labels validation_loss, validation_accuracy, validation_by_episode, as `RewardEnsemble.fit` does.
        progress: show a bar of passes; None does so in a terminal.
        """
        first = not len(self.table)
        labels, metrics = prepare_labels(
            preferences, self.table, self._sides, self.config.validation_share, self.generator
        )
        if labels is None:
            return metrics
        if first and isinstance(self.network, HeadEnsemble):
            self.network.standardise(self.table.inputs)
        rows, targets, held = labels.rows, labels.targets, labels.held_out
        metrics |= self._train(rows[~held], targets[~held], progress)
        if self.config.validation_share:
            loss, accuracy = self._evaluate(rows[held], targets[held])
            metrics |= {"validation_loss": loss, "validation_accuracy": accuracy}
        return metrics

    def _train(self, rows: Tensor, targets: Tensor, progress: bool | None) -> dict[str, float]:
        config, epoch, loss, accuracy = self.config, 0, math.nan, math.nan
        decided = is_decided(targets)
        disable = None if progress is None else not progress
        for epoch in trange(1, config.epochs + 1, desc="image reward", unit="pass", disable=disable):
            totals = torch.zeros(2, device=self.device)
            order = torch.randperm(len(rows), generator=self.generator).to(self.device)
            for batch in torch.split(order, config.batch_size):
                self.optimizer.zero_grad()
                for part in torch.split(batch, self._queries_per_chunk(rows)):
                    returns, present = self._returns(self.table, rows[part])
                    losses = preference_loss(returns, targets[part], present)
                    (losses.sum() / len(batch)).backward()  # type: ignore[no-untyped-call]
                    correct = credit_labels(returns.detach(), targets[part], present) * decided[part]
                    totals += torch.stack([losses.detach().sum(), correct.sum()])
                self.optimizer.step()
            loss, right = (totals / config.members).tolist()
            loss, count = loss / len(rows), int(decided.sum())
            accuracy = right / count if count else math.nan
            if not math.isfinite(loss):
                raise PrefenvsError(
                    f"the reward loss became {loss} in pass {epoch}: lower learning_rate={config.learning_rate}"
                )
            if accuracy > config.stop_accuracy:
                break
        return {"epochs": float(epoch), "loss": loss, "accuracy": accuracy}

    @torch.no_grad()
    def _evaluate(self, rows: Tensor, targets: Tensor) -> tuple[float, float]:
        """Return loss (mean of members) and accuracy (of their mean) on labels; NaN where there are none."""
        if not len(rows):
            return math.nan, math.nan
        returns, present = self._returns(self.table, rows)
        decided = is_decided(targets)
        right = (credit_labels(returns.mean(0), targets, present) * decided).sum() / decided.sum()
        return float(preference_loss(returns, targets, present).mean()), float(right)

    def _returns(self, table: FrameTable, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return every member's sums [M, N, K] over frames at rows [N, K, F], and which segments exist [N, K]."""
        inside = rows >= 0
        # A frame that several segments share goes through the network once.
        unique, places = torch.unique(rows.clamp_min(0), return_inverse=True)
        rewards = torch.cat([self.network(table.inputs[part]) for part in unique.split(self._frames_per_chunk())], 1)
        return (rewards[:, places] * inside).sum(-1), inside.any(-1)

    def _see(self, states: Array, scenes: Array | None) -> Tensor:
        """Return the networks' inputs for states: frames [N, 3, size, size] uint8, or features [N, d]."""
        frames = self.frames.frames(states, scenes)
        if self.encoder is not None:
            return self.encoder(frames).clone().to(self.device)
        return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 3, 1, 2))).to(self.device)

    def _frames_per_chunk(self) -> int:
        """Frames in one call of the network: on a CPU few enough for activations to stay small."""
        return 256 if self.device.type == "cpu" else 4_096

    def _queries_per_chunk(self, rows: Tensor) -> int:
        return max(4 * self._frames_per_chunk() // (rows.shape[1] * rows.shape[2]), 1)

    def save(self, path: str | Path) -> None:
        """Write configuration, weights, optimiser and random state; of an encoder the name alone, if it has one."""
        encoder = None if self.encoder is None else getattr(self.encoder, "name", "")
        state = {
            "format": FORMAT,
            "task": self.task.id,
            "encoder": encoder,
            "config": asdict(self.config),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "sides": dict(self._sides),
        }
        torch.save(state, path)

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "auto",
        encoder: Encoder | str | Path | None = None,
        task: Task | str | None = None,
    ) -> ImageRewardEnsemble:
        """Read what `save` wrote. Nothing in the file is executed.

        Raises PrefenvsError for files that are damaged, of another kind, of another encoder, or not there.
        encoder: the one that the model was fitted with, needed where it is no CLIP model by name. task: where the task
        is one of your own.
        """
        try:
            check_zip(path)
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if state["format"] != FORMAT:
                raise KeyError("format")
            config = ImageRewardConfig(**state["config"] | {"channels": tuple(state["config"]["channels"])})
            _ = [state[name] for name in ("encoder", "task", "network", "optimizer", "generator", "sides")]
        except FileNotFoundError:
            raise PrefenvsError(f"there is no reward model at {path}") from None
        except PrefenvsError:
            raise
        except Exception as error:
            raise PrefenvsError(
                f"{path} is not a reward model written by ImageRewardEnsemble.save ({type(error).__name__})"
            ) from error
        if state["encoder"] == "" and encoder is None:
            raise PrefenvsError(f"{path} was fitted on an encoder of your own: pass it as encoder=...")
        model = cls(task or state["task"], config, encoder or state["encoder"], device=device)
        try:
            model.network.load_state_dict(state["network"])
        except (RuntimeError, TypeError, AttributeError) as error:
            raise PrefenvsError(
                f"{path} was fitted with another encoder than the one given: its sizes differ"
            ) from error
        try:
            model.optimizer.load_state_dict(state["optimizer"])
            model.generator.set_state(state["generator"])
            model._sides = dict(state["sides"])
        except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise PrefenvsError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error
        return model

    def close(self) -> None:
        """Free the renderer."""
        self.frames.close()
