"""`prefenvs diagnose RUN`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from prefenvs.errors import PrefenvsError
from prefenvs.limits import PositiveInt, Seed
from prefenvs.runs import Run

if TYPE_CHECKING:
    from prefenvs.metrics.diagnosis import Diagnosis
    from prefenvs.preferences import Preference

PICTURES = (".png", ".pdf", ".svg", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Diagnose:
    """Say why a run learned or failed: where its reward is right, and whether its labels reach the final policy."""

    run_folder: Annotated[Path, Positional]
    """Folder that `prefenvs train` wrote, of an algorithm that learns a reward."""
    episodes: PositiveInt = 10
    """New episodes of the final policy."""
    seed: Seed = 7_919
    """Seed of the episodes, which no training used."""
    out: Path | None = None
    """Picture; diagnosis.png in the run folder by default."""

    def run(self) -> None:
        """Print the figures and what follows from them, and draw the picture.

        Raises PrefenvsError for a run without a learned reward or a label.
        """
        run = Run.open(self.run_folder)
        run.check_fresh(self.seed)
        out = self.out or run.path("diagnosis.png")
        if out.suffix.lower() not in PICTURES:
            raise PrefenvsError(f"--out {out} is no picture: end its name with {', '.join(PICTURES)}")
        from prefenvs.agents.runs.train import load_reward
        from prefenvs.cli.look.evaluate import evaluate_run
        from prefenvs.metrics.diagnosis import diagnose
        from prefenvs.store import Store
        from prefenvs.tasks import find_task, has_environment

        model = load_reward(run)
        if model is None:
            raise PrefenvsError(f"{run.folder} keeps no reward model: diagnose a run that learns one, such as PEBBLE's")
        preferences: list[Preference] = []
        # A checkpoint holds the answers of people, too, who give them to a store of their own.
        for answers in (run.checkpoint / "preferences.sqlite", run.path("preferences.sqlite")):
            if answers.is_file() and not preferences:
                with Store(answers) as store:
                    preferences = store.preferences(with_true_rewards=True)
        if not preferences:
            raise PrefenvsError(f"{run.folder} learned from no label: there is nothing to diagnose")
        if not has_environment(run.task):
            raise PrefenvsError(
                f"diagnose plays new episodes, and nothing can act in {run.task!r}: train with --task ID where the "
                "data come from a task of the suite; `prefenvs labels accuracy` judges reward models by labels alone"
            )
        result, config = evaluate_run(run, self.episodes, self.seed, record=self.episodes)
        assert result.trajectories is not None
        length = config.get("segment_length") or find_task(config["task"]).segment_length
        diagnosis = diagnose(model, preferences, result.trajectories, int(length), seed=self.seed)
        print(f"{config['task']}, {len(preferences)} answers, {self.episodes} new episodes of the final policy")
        if len(diagnosis.true):
            print(f"true return: {result.mean_return:.1f} +- {float(result.returns.std()):.1f}")
        else:
            print("this task has no true reward: the labels alone say what is right")
        for name, share in (
            ("labels", diagnosis.on_labels),
            ("pairs of the final policy's segments", diagnosis.on_policy),
            ("pairs of a final and a labelled segment", diagnosis.on_mixed),
        ):
            low, high = share.interval
            if share.count:
                rightly = f"orders {share.value:.0%} of {share.count} {name} rightly"
                print(f"the learned reward {rightly} (95% interval {low:.0%} to {high:.0%})")
        if len(diagnosis.true):
            print(f"learned and true returns of its segments: Spearman {diagnosis.correlation.spearman:.2f}")
        print(f"labelled steps that lie where the policy ended: {diagnosis.near.mean():.0%}")
        print(*diagnosis.findings(), sep="\n")
        print(f"picture: {draw(diagnosis, run, out)}")


def draw(diagnosis: Diagnosis, run: Run, path: Path) -> Path:
    """Draw both returns over training, learned against true ones, and the nearness of labels in their order.

    Where the task has no true reward, only the last.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    known = len(diagnosis.true) > 0
    figure = Figure(figsize=(13 if known else 5, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3 if known else 1, squeeze=False)[0]
    reach = axes[-1]
    if known:
        _draw_returns(axes[0], axes[1], diagnosis, run)
    order = range(len(diagnosis.near))
    reach.scatter(order, diagnosis.near, s=6, alpha=0.4)
    reach.set(
        xlabel="labelled segment, oldest first", ylabel="share of steps near the final policy's", ylim=(-0.02, 1.02)
    )
    reach.set_title("where the labels are")
    for one in axes:
        one.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return path


def _draw_returns(curve: Any, scatter: Any, diagnosis: Diagnosis, run: Run) -> None:
    """Draw both returns over training, and learned against true ones of the final policy's segments."""
    rows = run.rows("evaluations")
    curve.plot([row["steps"] for row in rows], [row["mean_return"] for row in rows], marker="o", label="true return")
    learned = [row for row in rows if isinstance(row.get("learned_return"), float)]
    if learned:
        other = curve.twinx()
        values = [row["learned_return"] for row in learned]
        other.plot([row["steps"] for row in learned], values, color="tab:orange", marker="o", label="learned return")
        other.set_ylabel("learned return")
    curve.set(xlabel="steps", ylabel="true return", title="over training (learned return in orange)")
    scatter.scatter(diagnosis.true, diagnosis.learned, s=6, alpha=0.4)
    scatter.set(xlabel="true return", ylabel="learned return", title="the final policy's segments")
