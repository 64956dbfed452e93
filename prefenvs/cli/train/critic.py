"""`prefenvs critic RUN`: experts whose values judge by regret, and how good these are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tqdm import tqdm
from tyro.conf import Positional

from prefenvs.errors import PrefenvsError
from prefenvs.internal.csv_tables import read_table, write_table
from prefenvs.limits import PositiveInt, Seed
from prefenvs.runs import Run, to_json
from prefenvs.tasks import find_task

if TYPE_CHECKING:
    from prefenvs.metrics.critic import CriticError

COLUMNS = ("expert", "segments", "reference", "V: Pearson, error, bias", "regret: Pearson, error, bias",
           "pairs ordered alike (halves)")  # fmt: skip


@dataclass(frozen=True)
class Critic:
    """Measure the values of an expert: against exact ones on Delivery-v0, else against returns of the expert itself.

    Segments of mixed quality are recorded; the expert plays on from the simulator states at both of their ends.
    """

    expert: Annotated[Path, Positional]
    """Run folder of `prefenvs train pebble` or `train iql`, with --true-reward, or of `train dqn`, or a .zip of
    Stable-Baselines3's SAC or DQN."""
    task: str = ""
    """Task id; a run folder knows it."""
    states: PositiveInt = 50
    """Segments, and so states that the expert plays on from, twice."""
    segment_length: PositiveInt = 25
    """Steps in a segment."""
    rollouts: PositiveInt = 8
    """Episodes from each state, an even number."""
    steps: PositiveInt | None = None
    """Steps of such an episode; by default until the discount is below 0.01, at most the task's horizon."""
    samples: PositiveInt = 64
    """Actions of the policy that the expert's V is averaged over."""
    critics: Literal["min", "mean"] = "min"
    """How the values of several critics are combined."""
    entropy: bool = False
    """Count the entropy bonus of the present step in V, as SAC's own target does."""
    seed: Seed = 0
    """Seed of segments and roll-outs."""
    json: bool = False
    """Print one JSON object."""
    out: Path | None = None
    """Put the figures into a row of this .csv file, with the rows of other experts that it holds."""
    progress: bool = True
    """Show a progress bar with an ETA."""

    def run(self) -> None:
        """Print how well V, regrets and the order of segments agree."""
        import torch

        from prefenvs.metrics.critic import Rollouts, measure_critic

        if self.out is not None:
            read_table(self.out, COLUMNS)
        agent, critic = load_values(self.expert, self.samples, self.critics, self.entropy)
        task = find_task(self.task or self._task_of_run())
        if hasattr(agent, "exploration_rate"):
            agent.exploration_rate = 0.0
        exact = exact_values(task.id, critic.gamma)
        hidden = exact is not None or self.json or not self.progress
        with tqdm(total=2 * self.states * self.rollouts, desc="roll-outs", disable=hidden, leave=False) as bar:
            rollouts = Rollouts(self.rollouts, self.steps, self.seed, torch.manual_seed, bar.update)
            error = measure_critic(critic, agent, task.id, self.states, self.segment_length, rollouts, exact)
        print(to_json(error) if self.json else describe(error))
        if self.out is not None:
            row = figures(self.expert.name, error)
            others = [other for other in read_table(self.out, COLUMNS) if other[:3] != row[:3]]
            write_table(self.out, COLUMNS, [*others, row])

    def _task_of_run(self) -> str:
        if not self.expert.is_dir():
            raise PrefenvsError(f"{self.expert} does not tell its task: give --task")
        return Run.open(self.expert).task


def load_values(
    expert: str | Path, samples: int = 64, critics: Literal["min", "mean"] = "min", entropy: bool = False
) -> tuple[Any, Any]:
    """Return an expert's policy and its values: of IQL by the folder of its run, else of SAC or DQN.

    samples, critics, entropy: of SAC, see `experts.LearnedAdvantage`; IQL has a V of its own, and the lower of
    two critics. Raises PrefenvsError for a run that learned from preferences: its values are of the learned reward.
    """
    from prefenvs.agents.experts import LearnedAdvantage, load_expert
    from prefenvs.agents.registry import find_algorithm

    folder = Path(expert)
    name = Run.open(folder).record["command"].removeprefix("train ") if (folder / "run.json").is_file() else ""
    algorithm = find_algorithm(name) if name else None
    if algorithm is not None and algorithm.source == "offline":
        run = Run.open(folder)
        if not run.config.get("true_reward", False):
            raise PrefenvsError(
                f"{folder} is no expert: its critics value a learned reward; train one with --true-reward"
            )
        if critics != "min" or entropy:
            raise PrefenvsError("--critics and --entropy go with an expert of SAC, not with one of IQL")
        if not hasattr(algorithm.learner, "advantage"):
            raise PrefenvsError(f"{folder} is no expert: {algorithm.title} has no values of actions; train iql")
        learned = algorithm.learner.load(run.checkpoint / "model.zip", device="cpu")
        return learned, learned
    agent = load_expert(expert, device="cpu")
    return agent, LearnedAdvantage(agent, samples, critics, entropy)


def exact_values(task: str, gamma: float) -> Any:
    """Return V*, a function of observations, where it is known."""
    if task != "Delivery-v0":
        return None
    from prefenvs.envs.delivery.board import find_board
    from prefenvs.envs.delivery.values import BoardValues

    return BoardValues(find_board(0), gamma).value


def figures(expert: str, error: CriticError) -> list[str]:
    """Return the figures as a row under `COLUMNS`."""
    fits = [f"{fit.pearson:.3f}, {fit.error:.3f}, {fit.bias:+.3f}" for fit in (error.value, error.regret)]
    halves = "" if error.ceiling is None else f" ({error.ceiling:.1%})"
    return [expert, f"{error.segments} of {error.length} steps", error.reference, *fits, f"{error.pairs:.1%}{halves}"]


def describe(error: CriticError) -> str:
    """Return the figures as a small table."""
    lines = [
        f"{error.task}: {error.segments} segments of {error.length} steps, discount {error.gamma:g}, "
        f"against {error.reference}",
        f"{'':30}Pearson  Spearman  error/spread  bias/spread",
    ]
    for name, fit in (("V of the first state", error.value), ("negative regret of the segment", error.regret)):
        lines.append(f"{name:30}{fit.pearson:7.3f}  {fit.spearman:8.3f}  {fit.error:12.3f}  {fit.bias:+11.3f}")
    ceiling = "" if error.ceiling is None else f"; two halves of the roll-outs: {error.ceiling:.1%}"
    lines.append(f"pairs of segments ordered alike: {error.pairs:.1%}{ceiling}")
    return "\n".join(lines)
