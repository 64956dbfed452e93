"""A reward that looks at pictures, drawn or recorded: an ensemble learned from preferences (RL-VLM-F)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.utils import get_device
from torch import Tensor, nn
from tqdm import trange

from prefenvs.agents.nets.mlp import Output
from prefenvs.agents.nets.saved import saved_state
from prefenvs.agents.rewards.image.encoders import Encoder, load_encoder
from prefenvs.agents.rewards.image.features import FeatureCache
from prefenvs.agents.rewards.image.frames import FrameTable, check_task
from prefenvs.agents.rewards.image.nets import ConvEnsemble, HeadEnsemble
from prefenvs.agents.rewards.losses import ABSENT, credit_labels, is_decided, preference_loss
from prefenvs.agents.rewards.tables import prepare_labels
from prefenvs.errors import PrefenvsError
from prefenvs.frames.cache import FrameCache
from prefenvs.frames.rewards import reward_steps
from prefenvs.internal.closing import Closing
from prefenvs.limits import Fraction, FractionBelowOne, PositiveFloat, PositiveInt, check_settings
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
    cameras: tuple[str, ...] = ()
    """Recorded views that are looked at together; the first of each recording by default."""
    proprioception: bool = False
    """With an encoder: the observations join the features."""
    channels: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (16, 32, 64, 128)
    """Channels of the convolutions, with kernels 5, 3, 3, 3 and strides 3, 2, 2, 2."""
    width: PositiveInt = 256
    """With an encoder: units of each hidden layer on its features."""
    layers: PositiveInt = 2
    """With an encoder: hidden layers."""
    output: Output = "tanh"
    """Function on the last layer; tanh keeps each frame's reward in [-1, 1]."""
    learning_rate: PositiveFloat = 3e-4
    """Learning rate of all members (Adam)."""
    batch_size: PositiveInt = 64
    """Labelled queries in one gradient step."""
    epochs: PositiveInt = 50
    """Passes over the labels in one fit, at most."""
    stop_accuracy: Fraction = 0.97
    """A fit ends after the first pass with a higher accuracy, mean of the members over decided labels; 1 for never."""
    validation_share: FractionBelowOne = 0.0
    """Share of the labels held out, by episode where possible."""
    cached_frames: PositiveInt = 20_000
    """Frames kept for states that are looked at again."""

    def __post_init__(self) -> None:
        check_settings(self)


class ImageRewardEnsemble(Closing):
    """M networks r_m(frame) whose sums over the frames of a segment predict which segment is preferred.

    Frames are what segments and trajectories show: their recordings, else their states as the task's camera draws them
    when they are needed. Members differ by their initial weights and share the order of batches, so that frames are
    gathered once. It takes states where `prefenvs.protocols.RewardModel` takes observations and actions; fitting,
    saving and relabelling are the same, and it is a `prefenvs.frames.rewards.PictureReward`. Close it, or use it in a
    `with` statement.
    """

    def __init__(
        self,
        task: Task | str,
        config: ImageRewardConfig | None = None,
        encoder: Encoder | str | Path | None = None,
        seed: int = 0,
        device: str | torch.device = "auto",
        observation_size: int = 0,
        features: str | Path | None = None,
    ) -> None:
        """Make the networks.

        encoder: a frozen one, or its name (`rewards.image.encoders.load_encoder`); None learns convolutions.
        observation_size: entries of an observation, needed with `proprioception`. features: folder where an encoder's
        features of recordings are kept, see `FeatureCache`.
        """
        self.task = find_task(task) if isinstance(task, str) else task
        self.config, self.device = config or ImageRewardConfig(), get_device(device)
        self.encoder = load_encoder(encoder, self.device) if isinstance(encoder, str | Path) else encoder
        if self.config.proprioception and (self.encoder is None or not observation_size):
            raise PrefenvsError(
                "proprioception joins an encoder's features: name an encoder, and data with observations"
            )
        self.observation_size = observation_size if self.config.proprioception else 0
        size = self.config.size if self.encoder is None else self.encoder.size
        cameras = self.config.cameras
        self.views = max(len(cameras), 1)
        self.frames = FrameCache(self.task, size, self.config.cached_frames, self.config.hide_robot, cameras)
        kept = features is not None and self.encoder is not None
        self.features = FeatureCache(features, self.encoder, cameras) if kept else None  # type: ignore[arg-type]
        self.generator = torch.Generator().manual_seed(seed)
        self.network = self._build(size).to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=self.config.learning_rate)
        self.table = self._new_table()
        self._sides: dict[str, bool] = {}

    def _new_table(self) -> FrameTable:
        return FrameTable(self.task.id, self.config.stride, self._see, self.device, self.config.cameras)

    def _build(self, size: int) -> nn.Module:
        c = self.config
        if self.encoder is None:
            return ConvEnsemble(c.members, size, c.channels, c.output, self.generator, 3 * self.views)
        features = self.encoder(np.zeros((1, size, size, 3), np.uint8)).shape[1] * self.views + self.observation_size
        return HeadEnsemble(c.members, features, c.width, c.layers, c.output, self.generator)

    def predict(self, states: Array, scenes: Array | None = None) -> Array:
        """Return each member's reward [M, N] float32 for states [N, s], with their episodes' scenes [N, m]."""

        def draw(rows: slice) -> Tensor:
            frames = self.frames.frames(states[rows], None if scenes is None else scenes[rows])
            return self._inputs(frames[:, None], None)

        return self._predict(len(states), draw)

    @torch.no_grad()
    def _predict(self, count: int, see: Callable[[slice], Tensor]) -> Array:
        """Return each member's reward [M, count] of what `see` makes of slices of that many frames."""
        step = self._frames_per_chunk()
        slices = (slice(start, min(start + step, count)) for start in range(0, count, step))
        parts = [self.network(see(rows)).cpu().numpy() for rows in slices]
        return np.concatenate([np.zeros((self.config.members, 0), np.float32), *parts], 1)

    def score(self, states: Array, scenes: Array | None = None) -> Array:
        """Return the members' mean reward [N] float32 for states [N, s], with their episodes' scenes [N, m]."""
        mean: Array = self.predict(states, scenes).mean(0)
        return mean

    def score_segment(self, segment: Segment) -> Array:
        """Return the members' mean reward [T] float32 of what a segment shows, at every step."""
        mean: Array = self._predict_segment(segment).mean(0)
        return mean

    def predict_segments(self, segments: Sequence[Segment]) -> Array:
        """Return each member's reward [M, N, T] of what N segments show, at every step.

        Raises PrefenvsError where they are of several lengths, or show nothing.
        """
        lengths = {len(segment) for segment in segments}
        if len(lengths) != 1:
            raise PrefenvsError(f"rewards of segments come for one length at a time, got {sorted(lengths)} steps")
        return np.stack([self._predict_segment(segment) for segment in segments], 1)

    def _predict_segment(self, segment: Segment) -> Array:
        check_task(segment, self.task.id)
        items = [(segment, step) for step in range(len(segment))]
        return self._predict(len(items), lambda rows: self._see(items[rows]))

    def relabel(self, trajectories: Trajectories) -> Array:
        """Return the reward [S] float32 of every step, that of what it led to: see `reward_steps`."""
        if self.features is not None and trajectories.recordings is not None:
            self.features.fill(trajectories)
        return reward_steps(self, trajectories, self.config.proprioception)

    @torch.no_grad()
    def preference_probabilities(self, queries: Sequence[Query]) -> Array:
        """Return each member's belief [M, N, K] that a segment is preferred; 0 where a query has no such segment."""
        table = self._new_table()
        rows = table.sync(queries)
        returns, present = self._returns(table, rows)
        beliefs: Array = returns.masked_fill(~present, ABSENT).softmax(-1).cpu().numpy()
        return beliefs

    def score_one(self, segment: Segment) -> float:
        """Return the members' mean score of one segment: the sum over the frames that a fit looks at."""
        table = self._new_table()
        with torch.no_grad():
            return float(self._returns(table, table.sync([Query((segment, segment))]))[0].mean(0)[0, 0])

    def fit(self, preferences: Sequence[Preference], progress: bool | None = False) -> dict[str, float]:
        """Train on all preferences given; skips are ignored, ties and other soft labels count as they are.

        Frames seen before are not rendered again. Returns labels, skipped, decided, epochs, loss, accuracy, and with
        held-out labels validation_loss, validation_accuracy, validation_by_episode, as `RewardEnsemble.fit` does.
        progress: show a bar of passes; None does so in a terminal.
        """
        # A model that was read from a file knows from which labels it learned.
        first = not self._sides
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

    def _see(self, items: list[tuple[Segment, int]]) -> Tensor:
        """Return the networks' inputs [N, ...] for segments at one step each."""
        parts, kept = [], []
        for segment, group in groupby(items, key=lambda item: item[0]):
            steps = np.array([step for _, step in group])
            if self.features is not None and segment.recording is not None:
                kept.append(self.features.rows(segment, steps))
            else:
                parts.append(self.frames.look(segment, steps))
        seen = None
        if self.config.proprioception:
            seen = np.stack([segment.observations[step] for segment, step in items])
        if kept and not parts:
            return self._join(torch.from_numpy(np.concatenate(kept)).to(self.device), seen)
        if kept:
            raise PrefenvsError(f"segments of {self.task.id!r} with recordings cannot be mixed with those without")
        return self._inputs(np.concatenate(parts), seen)

    def _inputs(self, views: Array, seen: Array | None) -> Tensor:
        """Return inputs for views [N, C, size, size, 3] and observations: pixels [N, 3 C, size, size], or features."""
        if views.shape[1] != self.views or (seen is None and self.observation_size):
            raise PrefenvsError(
                f"this reward looks at {self.views} views{' and observations' * bool(self.observation_size)}, but is "
                f"shown {views.shape[1]}{'' if seen is not None else ' without observations'}"
            )
        if self.encoder is not None:
            features = self.encoder(views.reshape(-1, *views.shape[2:])).clone().to(self.device)
            return self._join(features.reshape(len(views), -1), seen)
        pixels = views.transpose(0, 1, 4, 2, 3).reshape(len(views), -1, *views.shape[2:4])
        return torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device)

    def _join(self, features: Tensor, seen: Array | None) -> Tensor:
        if seen is None:
            return features
        return torch.cat([features, torch.from_numpy(np.asarray(seen, np.float32)).to(self.device)], 1)

    def _frames_per_chunk(self) -> int:
        """Frames in one call of the network: on a CPU few enough for activations to stay small."""
        return 256 if self.device.type == "cpu" else 4_096

    def _queries_per_chunk(self, rows: Tensor) -> int:
        return max(4 * self._frames_per_chunk() // (rows.shape[1] * rows.shape[2]), 1)

    def save(self, path: str | Path) -> None:
        """Write configuration, weights, optimiser and random state; of an encoder the name alone, if it has one."""
        encoder = None if self.encoder is None else getattr(self.encoder, "name", "")
        about = {"task": self.task.id, "encoder": encoder, "observation_size": self.observation_size}
        torch.save({"format": FORMAT, **about, **self._state()}, path)

    def _state(self) -> dict[str, Any]:
        return {
            "config": asdict(self.config),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "sides": dict(self._sides),
        }

    def _go_on(self, state: dict[str, Any]) -> None:
        """Take up the optimiser, the random state and what is held out."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self._sides = dict(state["sides"])

    @classmethod
    def load(
        cls,
        path: str | Path,
        device: str | torch.device = "auto",
        encoder: Encoder | str | Path | None = None,
        task: Task | str | None = None,
        features: str | Path | None = None,
    ) -> ImageRewardEnsemble:
        """Read what `save` wrote. Nothing in the file is executed.

        Raises PrefenvsError for files that are damaged, of another kind, of another encoder, or not there.
        encoder: the one that the model was fitted with, needed where it is no CLIP model by name. task: where the task
        is one of your own.
        """
        with saved_state(path, FORMAT, cls.__name__) as state:
            config = ImageRewardConfig(
                **state["config"] | {key: tuple(state["config"][key]) for key in ("channels", "cameras")}
            )
            names = ("encoder", "task", "observation_size", "network", "optimizer", "generator", "sides")
            _ = [state[name] for name in names]
        if state["encoder"] == "" and encoder is None:
            raise PrefenvsError(f"{path} was fitted on an encoder of your own: pass it as encoder=...")
        model = cls(
            task or state["task"],
            config,
            encoder or state["encoder"],
            0,
            device,
            int(state["observation_size"]),
            features,
        )
        try:
            model.network.load_state_dict(state["network"])
        except (RuntimeError, TypeError, AttributeError) as error:
            raise PrefenvsError(
                f"{path} was fitted with another encoder than the one given: its sizes differ"
            ) from error
        try:
            model._go_on(state)
        except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise PrefenvsError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from error
        return model

    def close(self) -> None:
        """Free the renderer."""
        self.frames.close()
