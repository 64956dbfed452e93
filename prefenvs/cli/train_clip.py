"""`prefenvs train clip`: no labels, a reward from CLIP's view of the states."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from prefenvs.cli.run_options import RunOptions
from prefenvs.cli.train import has_checkpoint, make_envs
from prefenvs.errors import PrefenvsError
from prefenvs.limits import DeviceName, NonNegativeInt, PositiveInt
from prefenvs.runs import Run
from prefenvs.tasks import find_task

if TYPE_CHECKING:
    from prefenvs.agents.online.state_reward import StateRewardSAC
    from prefenvs.oracles.clip.options import ClipOptions


def clip_options() -> type[ClipOptions]:
    """Return the options of a CLIP model, read when a command line is."""
    from prefenvs.oracles.clip.options import ClipOptions

    return ClipOptions


@dataclass(frozen=True)
class TrainClip(RunOptions):
    """Train SAC on the CLIP reward of VLM-RM, in place of a reward learned from preferences."""

    task: str = ""
    """Task id; the humanoid-... ones bring prompts and camera."""
    clip: Annotated[Any, arg(name="", prefix_name=False, constructor_factory=clip_options)] = None
    """The model."""
    steps: PositiveInt = 10_000_000
    """Environment steps."""
    preset: Literal["published", "small"] = "published"
    """small: learning starts after 1,000 steps, batches of 256, for a CPU."""
    learning_starts: NonNegativeInt | None = None
    """Steps of random actions at the beginning; 50,000 as published."""
    envs: PositiveInt = 1
    """Environments stepped side by side (VLM-RM: 8 on each of 4 GPUs); one update for each environment step."""
    chunk: PositiveInt = 100
    """Steps of each environment that are scored together, before as many updates."""
    device: DeviceName = "auto"
    """Where CLIP and the agent run: auto, cpu or cuda."""

    def run(self) -> None:
        """Train, or continue to train, and print the CLIP return before and after."""
        if self.resume is not None:
            run = Run.resume(self.resume, "train clip")
            config = run.config
            now = {"folder": run.folder, "progress": self.progress, "clip": clip_options().read(config["clip"])}
            options = dataclasses.replace(self, **config | now)
            agent = options._make_agent()
            with run.locked():
                if has_checkpoint(run):
                    agent.resume(run.checkpoint)
                options._train(agent, run)
            return
        agent = self._make_agent()
        agent.check_run(self.steps)
        folder = self.folder or Path("runs") / f"{find_task(self.task).file_name}-clip-{self.seed}"
        self._train(agent, Run.create(folder, "train clip", dataclasses.asdict(self)))

    def _make_agent(self) -> StateRewardSAC:
        import torch

        from prefenvs.agents import StateRewardSAC

        if not self.task:
            raise PrefenvsError("say which task to train on: --task ID (`prefenvs tasks` lists them)")
        for name in ("steps", "chunk"):
            if getattr(self, name) < 1:
                raise PrefenvsError(f"--{name} must be at least 1, got {getattr(self, name)}")
        torch.set_num_threads(self.threads)
        settings: dict[str, Any] = {"learning_starts": 1_000, "batch_size": 256} if self.preset == "small" else {}
        if self.learning_starts is not None:
            settings["learning_starts"] = self.learning_starts
        return StateRewardSAC(
            "MlpPolicy",
            make_envs(find_task(self.task).id, self.envs, self.seed),
            self.clip.make(find_task(self.task), device=self.device),
            buffer_size=min(self.steps, 1_000_000),
            train_freq=self.chunk,
            seed=self.seed,
            device=self.device,
            **settings,
        )

    def _train(self, agent: StateRewardSAC, run: Run) -> None:
        from prefenvs.agents.runs.train import train

        schedule = self.evaluate_every, self.episodes, self.progress, self.evaluate_beside
        (summary,) = train([agent], [run], self.steps, *schedule)
        print(f"{summary['task']}, SAC on the CLIP reward of {self.clip.model}, a single seed ({self.seed})")
        print(f"no labels; {summary['steps']} environment steps")
        for name, when in (("before", "first"), ("after", "last")):
            print(f"CLIP return of an episode, {name:6} {summary[when]['learned_return']:.2f}")
        if find_task(self.task).has_reward:
            for name, when in (("before", "first"), ("after", "last")):
                row = summary[when]
                print(f"true return, {name:6} {row['mean_return']:.1f} +- {row['std_return']:.1f}")
        else:
            print("this task has no true reward: look at the behaviour itself, with `prefenvs record`")
        print(f"run folder: {run.folder}")
