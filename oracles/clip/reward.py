"""The reward of VLM-RM: how well a picture of the state fits a description of the goal, by CLIP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prefenvs.errors import PrefenvsError, failure_told
from prefenvs.frames.cache import FrameCache
from prefenvs.frames.clip_models import TextImageModel, load_clip
from prefenvs.frames.rewards import reward_steps
from prefenvs.internal.closing import Closing
from prefenvs.segments import Array, Segment
from prefenvs.tasks import Task, find_task
from prefenvs.trajectories import Trajectories

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def projected_reward(images: Tensor, goal: Tensor, baseline: Tensor, alpha: float) -> Tensor:
    """Return R = 1 - 0.5 ||(x - g) P||^2, [N], for unit vectors x [N, d] of pictures (Rocamonde et al. 2024, sec. 3.2).

    P = alpha d d^T / ||d||^2 + (1 - alpha) I with d = g - b projects partly onto the line from baseline b [d] to goal
    g [d]. alpha = 0 gives the cosine similarity of x and g where g has length 1.
    """
    apart = images - goal
    if alpha:
        direction = (goal - baseline) / (goal - baseline).norm()
        apart = (1.0 - alpha) * apart + alpha * (apart @ direction)[:, None] * direction
    return 1.0 - 0.5 * apart.square().sum(-1)


class CLIPReward(Closing):
    """A reward of a task's states without labels: rendered, embedded, and compared with prompts (VLM-RM).

    Each prompt's vector has length 1; goal and baseline are the means of theirs, not scaled again, as released.
    """

    def __init__(
        self,
        task: Task | str,
        model: TextImageModel | str | Path,
        goal: Sequence[str] = (),
        baseline: Sequence[str] = (),
        alpha: float = 0.0,
        batch_size: int = 64,
        pixels: int | None = None,
        hide_robot: bool = False,
        capacity: int = 0,
        cameras: Sequence[str] = (),
        device: str | torch.device = "auto",
    ) -> None:
        """Read the model and embed the prompts; raises PrefenvsError for what it cannot read or embed.

        model: see `prefenvs.frames.clip_models.load_clip`, or an object of that form. goal, baseline: prompts; the
        task's own by default. alpha: in [0, 1]; 0 needs no baseline. batch_size: frames that the model gets at once.
        pixels: size of the rendered frames, the model's own by default. capacity: frames kept for states seen again.
        cameras: recorded views, of which the mean reward counts; by default the first of each recording.
        """
        self.task = find_task(task) if isinstance(task, str) else task
        self.goal, self.baseline = tuple(goal) or self.task.goal, tuple(baseline) or self.task.baseline
        if not 0.0 <= alpha <= 1.0:
            raise PrefenvsError(f"alpha={alpha} must lie in [0, 1]: 0 is the plain similarity, 1 the projection")
        for name, prompts in (("goal", self.goal), ("baseline", self.baseline)):
            if not prompts and (name == "goal" or alpha):
                raise PrefenvsError(f"task {self.task.id!r} has no {name} prompt for CLIP: give one with {name}=[...]")
            if any(not prompt.strip() for prompt in prompts):
                raise PrefenvsError(f"a {name} prompt is empty")
        if batch_size < 1:
            raise PrefenvsError(f"batch_size must be at least 1, got {batch_size}")
        self.alpha, self.batch_size = alpha, batch_size
        self.model = load_clip(model, device) if isinstance(model, str | Path) else model
        self.frames = FrameCache(self.task, pixels or self.model.size, capacity, hide_robot, cameras)
        self._goal = self._embed(self.model.embed_texts, self.goal, "prompts").mean(0)
        self._baseline = self._embed(self.model.embed_texts, self.baseline, "prompts").mean(0) if alpha else self._goal
        if self._baseline.shape != self._goal.shape:
            raise PrefenvsError(f"{self.model.name} embeds goal and baseline to vectors of different sizes")
        if alpha and float((self._goal - self._baseline).norm()) < 1e-6:
            raise PrefenvsError(
                f"goal and baseline {self.goal} mean the same to {self.model.name}: alpha={alpha} needs two"
            )

    def score_frames(self, frames: Array) -> Array:
        """Return the rewards [N] float32 of frames [N, H, W, 3] uint8; raises PrefenvsError where the model fails."""
        parts = []
        for start in range(0, len(frames), self.batch_size):
            images = self._embed(self.model.embed_images, frames[start : start + self.batch_size], "frames")
            if images.shape[1:] != self._goal.shape:
                raise PrefenvsError(
                    f"{self.model.name} embeds a frame to {images.shape[1]} numbers, a prompt to {len(self._goal)}: "
                    "both must be of one model"
                )
            parts.append(projected_reward(images, self._goal, self._baseline, self.alpha).cpu().numpy())
        return np.concatenate(parts).astype(np.float32) if parts else np.zeros(0, np.float32)

    def _embed(self, embed: Callable[[Any], Tensor], inputs: Sequence[str] | Array, kind: str) -> Tensor:
        """Return the vectors [N, d] of prompts or frames; raises PrefenvsError for whatever else the model does."""
        name = getattr(self.model, "name", type(self.model).__name__)
        with failure_told(f"{name} failed to embed {len(inputs)} {kind}"):
            vectors = embed(inputs)
            shape, finite = tuple(vectors.shape), bool(vectors.isfinite().all())
        if len(shape) != 2 or shape[0] != len(inputs):
            raise PrefenvsError(f"{name} embeds {len(inputs)} {kind} to shape {shape}, expected ({len(inputs)}, size)")
        if not finite:
            raise PrefenvsError(f"{name} embeds {kind} to NaN or infinity")
        return vectors

    def score(self, states: Array, scenes: Array | None = None) -> Array:
        """Return the rewards [N] float32 of states [N, s], with the scenes [N, m] of their episodes where there are."""
        parts = []
        for start in range(0, len(states), self.batch_size):
            rows = slice(start, start + self.batch_size)
            parts.append(self.score_frames(self.frames.frames(states[rows], None if scenes is None else scenes[rows])))
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def score_segment(self, segment: Segment) -> Array:
        """Return the rewards [T] float32 of what a segment shows, recorded or drawn."""
        parts = []
        for start in range(0, len(segment), self.batch_size):
            steps = np.arange(start, min(start + self.batch_size, len(segment)))
            views = self.frames.look(segment, steps)
            rewards = self.score_frames(views.reshape(-1, *views.shape[2:]))
            parts.append(rewards.reshape(views.shape[:2]).mean(1))
        return np.concatenate(parts)

    def relabel(self, trajectories: Trajectories) -> Array:
        """Return the reward [S] float32 of every step, that of the state it led to: see `reward_steps`."""
        return reward_steps(self, trajectories)

    def close(self) -> None:
        """Free the renderer."""
        self.frames.close()
