"""`prefenvs labels models`: which model of preference explains people's answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from tyro.conf import Positional

from prefenvs.errors import PrefenvsError
from prefenvs.runs import to_json

if TYPE_CHECKING:
    from prefenvs.metrics.preference_models import ModelFit
    from prefenvs.preferences import Preference


@dataclass(frozen=True)
class LabelsModels:
    """Compare partial return, regret and its form "visited" as explanations of people's answers (Knox et al. 2022)."""

    answers: Annotated[Path, Positional]
    """A preference store of Delivery-v0, or of any task with --expert; or a .csv file of answers about one board."""
    board: str = "0"
    """Of a .csv file: number of the board, or a text file with one row of the board per line."""
    expert: Path | None = None
    """Run folder of an expert, for the values of another task than Delivery-v0."""
    json: bool = False
    """Print one JSON object."""

    def run(self) -> None:
        """Print a row for each model; the one that agrees least is named."""
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Column, Table

        fits = self._fit()
        if self.json:
            print(to_json({name: asdict(fit) for name, fit in fits.items()}))
            return
        columns = [Column(name, justify="right") for name in ("agreement", "cross entropy", "beta")]
        table = Table("model of preference", *columns, box=SIMPLE_HEAD)
        for name, fit in fits.items():
            table.add_row(name, f"{fit.agreement:.1%}", f"{fit.cross_entropy:.3f}", f"{fit.beta:.3g}")
        some = next(iter(fits.values()))
        print(f"{self.answers}: {some.decided} decided answers, {some.ties} ties; a coin has cross entropy 0.693")
        Console(width=100).print(table)
        print(f"weakest: {min(fits, key=lambda name: fits[name].agreement)}")

    def _fit(self) -> dict[str, ModelFit]:
        from prefenvs.metrics.preference_models import fit_scores

        preferences, values = self._read()
        pairs = [one for one in preferences if one.probabilities is not None and len(one.query.segments) == 2]
        if not pairs:
            raise PrefenvsError(f"{self.answers} holds no answers to pairs")
        first = np.array([one.probabilities[0] for one in pairs if one.probabilities is not None])
        scores: dict[str, list[list[float]]] = {"partial return": [], "regret": [], "regret, visited": []}
        for one in pairs:
            for name, score in _scores(one, values(one)).items():
                scores[name].append(score)
        return {name: fit_scores(np.array(rows), first) for name, rows in scores.items()}

    def _read(self) -> tuple[list[Preference], Any]:
        """Return the answers, and a function of one that returns the values that its segments are judged by."""
        from prefenvs.envs.delivery.answers import read_answers, read_board
        from prefenvs.envs.delivery.board import find_board
        from prefenvs.envs.delivery.values import BoardValues

        if self.answers.suffix == ".csv":
            board = read_board(self.board)
            known = BoardValues(board)
            return read_answers(self.answers, board), lambda one: known
        from prefenvs.cli.data.store import tell_known
        from prefenvs.store import Store

        with Store(str(self.answers), create=False) as store:
            kept = store.preferences(with_true_rewards=True)
            tell_known(store)
        tasks = sorted({segment.task for one in kept for segment in one.query.segments})
        if self.expert is not None:
            from prefenvs.cli.raters import load_expert_values

            expert = load_expert_values(tasks[0] if tasks else "", self.expert)
            return kept, lambda one: expert
        if tasks and tasks != ["Delivery-v0"]:
            raise PrefenvsError(f"values are exact on Delivery-v0 only; for {', '.join(tasks)} name an --expert")
        boards: dict[int, BoardValues] = {}

        def find(one: Preference) -> BoardValues:
            states = one.query.segments[0].states
            number = 0 if states is None else int(states[0, 0])
            if number not in boards:
                boards[number] = BoardValues(find_board(number))
            return boards[number]

        return kept, find


def _scores(preference: Preference, values: Any) -> dict[str, list[float]]:
    """Return the scores of both segments under each model."""
    from prefenvs.oracles import PartialReturnOracle, RegretOracle

    raters = {
        "partial return": PartialReturnOracle(),
        "regret": RegretOracle(values),
        "regret, visited": RegretOracle(values, form="visited"),
    }
    segments = preference.query.segments
    return {name: [float(rater.step_values([one]).sum()) for one in segments] for name, rater in raters.items()}
