"""Which model of preference explains answers: the figures by hand, the file of answers, and the command."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit

from prefenvs import PrefenvsError
from prefenvs.cli import main
from prefenvs.envs.delivery.answers import read_answers
from prefenvs.envs.delivery.board import find_board
from prefenvs.envs.delivery.values import BoardValues
from prefenvs.metrics.preference_models import fit_scores
from prefenvs.oracles import RegretOracle, Teacher
from prefenvs.store import Store

HEADER = "row_1,column_1,moves_1,row_2,column_2,moves_2,answer\n"


def test_figures_are_those_of_the_likelihood() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4_000, 2))
    first = (rng.random(4_000) < expit(2.0 * (scores[:, 0] - scores[:, 1]))).astype(float)
    found = fit_scores(np.vstack([scores, [[0.0, 1.0]]]), np.append(first, 0.5))
    assert found.beta == pytest.approx(2.0, rel=0.1)
    chances = expit(found.beta * (scores[:, 0] - scores[:, 1]))
    by_hand = -np.mean(first * np.log(chances) + (1 - first) * np.log(1 - chances))
    assert found.cross_entropy == pytest.approx(by_hand, abs=1e-9)
    assert found.agreement == np.mean((scores[:, 0] > scores[:, 1]) == (first == 1))
    assert (found.decided, found.ties) == (4_000, 1)
    against = fit_scores(scores, 1 - first)
    assert (against.beta, against.cross_entropy) == (0.0, pytest.approx(np.log(2)))
    assert fit_scores(np.zeros((2, 2)), np.array([1.0, 0.0])).agreement == 0.5
    with pytest.raises(PrefenvsError, match="none of 2 answers"):
        fit_scores(np.zeros((2, 2)), np.array([0.5, 0.5]))


def test_people_who_answer_by_regret_are_explained_by_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Simulated people on the study's board, in a file and in a store."""
    board, rng = find_board(4), np.random.default_rng(1)
    rows = []
    for _ in range(300):
        pair = []
        while len(pair) < 2:
            cell, moves = int(rng.choice(board.starts)), rng.integers(4, size=3)
            path = [cell := int(board.next_cells[cell, move]) for move in moves[:2]]
            if not board.terminal[path].any():
                start = int(rng.choice([cell]))
                pair.append((start, "".join("udlr"[move] for move in moves)))
        rows.append(pair)
    lines = [",".join(f"{start // 10},{start % 10},{moves}" for start, moves in pair) + ",same" for pair in rows]
    path = tmp_path / "answers.csv"
    path.write_text(HEADER + "\n".join(lines))
    rater = RegretOracle(BoardValues(board), Teacher(beta=0.5), seed=0)
    rater.ask([one.query for one in read_answers(path, board)])
    answers = rater.collect()
    words = ["first" if one.best == 0 else "second" for one in answers]
    path.write_text(HEADER + "\n".join(line.replace("same", word) for line, word in zip(lines, words, strict=True)))
    main(["labels", "models", str(path), "--board", "4", "--json"])
    by_file = json.loads(capsys.readouterr().out)
    assert by_file["regret"]["cross_entropy"] < by_file["partial return"]["cross_entropy"]
    assert by_file["regret"]["agreement"] > max(by_file[name]["agreement"] for name in by_file if name != "regret")
    assert by_file["regret"]["beta"] == pytest.approx(0.5, rel=0.35)
    store = tmp_path / "answers.sqlite"
    with Store(store) as kept:
        kept.add_preferences(answers, run="people")
    main(["labels", "models", str(store), "--json"])
    assert json.loads(capsys.readouterr().out) == by_file
    main(["labels", "models", str(path), "--board", "4"])
    printed = capsys.readouterr().out
    assert "weakest: " in printed
    assert "300 decided answers" in printed


def test_a_board_may_be_text_and_rewards_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "board.txt").write_text(".c\n#D\n")
    path = tmp_path / "answers.csv"
    path.write_text(HEADER + "0,0,rd,0,1,dd,second\n0,0,u,0,0,r,skip\n")
    from prefenvs.envs.delivery.answers import read_board

    first, second = read_answers(path, read_board(str(tmp_path / "board.txt")))
    assert [segment.true_rewards.tolist() for segment in first.query.segments] == [[0.0, 50.0], [50.0, 0.0]]
    assert first.best == 1
    assert second.skipped


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0,0,r,0,1,d,maybe", "line 2: the answer is first, second, same, skip, got 'maybe'"),
        ("0,0,x,0,1,d,first", "moves are letters of udlr, got 'x'"),
        ("9,12,r,0,1,d,first", "no van can stand at row 9, column 12"),
        ("-1,0,r,0,1,d,first", "whole numbers from 0"),
    ],
)
def test_a_wrong_line_is_named(line: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text(HEADER + line)
    with pytest.raises(PrefenvsError, match=reason):
        read_answers(path, find_board(0))
    with pytest.raises(PrefenvsError, match="no file of answers"):
        read_answers(tmp_path / "none.csv", find_board(0))
