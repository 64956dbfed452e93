import numpy as np
import pytest

from prefenvs import PrefenvsError, Query, Segment
from prefenvs.envs.delivery.board import BOARDS, find_board
from prefenvs.envs.delivery.values import BoardValues
from prefenvs.oracles import PartialReturnOracle, RegretOracle, Teacher
from prefenvs.oracles.contract import check_oracle
from prefenvs.protocols import Advantage

MOVES = np.eye(4, dtype=np.float32)


def walk(board, start: int, moves: np.ndarray) -> Segment:
    cells = [start]
    for move in moves[:-1]:
        cells.append(board.next_cells[cells[-1], move])
    return Segment(board.observations[cells], MOVES[moves], board.rewards[cells, moves], task="Delivery-v0")


def pairs(board, count: int, length: int = 3, seed: int = 0) -> list[Query]:
    rng = np.random.default_rng(seed)
    starts = rng.choice(board.starts, (count, 2))
    return [Query(tuple(walk(board, start, rng.integers(4, size=length)) for start in row)) for row in starts]


def answers(oracle, asked) -> np.ndarray:
    oracle.ask(asked)
    return np.array([answer.probabilities for answer in oracle.collect()])


@pytest.mark.parametrize("number", [0, 2, 1003])
@pytest.mark.parametrize(("gamma", "discount"), [(1.0, 1.0), (0.9, 0.9)])
def test_advantage_and_deterministic_forms_agree_where_moves_are_certain(number, gamma, discount) -> None:
    board = find_board(number)
    values, asked = BoardValues(board, gamma), pairs(board, 200)
    found = {
        form: answers(RegretOracle(values, Teacher(beta=1.0), soft=True, form=form, discount=discount), asked)
        for form in ("advantage", "deterministic")
    }
    assert np.allclose(found["advantage"], found["deterministic"], atol=1e-9)
    assert np.std(found["advantage"]) > 0.2


def test_regret_is_the_published_formula() -> None:
    """regret = V*(s_0) - (sum of rewards + V*(s_T)) by hand, with s_T taken from the board."""
    board = BOARDS[1]
    values, asked = BoardValues(board), pairs(board, 100)
    expected = []
    for query in asked:
        regrets = []
        for segment in query.segments:
            cells, moves = segment.observations[:, :100].argmax(axis=1), segment.actions.argmax(axis=1)
            last = board.next_cells[cells[-1], moves[-1]]
            regrets.append(values.v[cells[0]] - (segment.true_rewards.sum() + values.v[last]))
        assert min(regrets) >= -1e-9
        expected.append(1 / (1 + np.exp(regrets[0] - regrets[1])))
    soft = answers(RegretOracle(values, Teacher(beta=1.0), soft=True), asked)
    assert np.allclose(soft[:, 0], expected)


def test_visited_form_leaves_the_last_action_out() -> None:
    board = BOARDS[0]
    values = BoardValues(board)
    moves = np.array([0, 1, 2])
    alike = [walk(board, 99, np.array([*moves[:2], last])) for last in (0, 3)]
    asked = [Query((alike[0], alike[1]))]
    assert answers(RegretOracle(values, form="visited"), asked).tolist() == [[0.5, 0.5]]
    assert answers(RegretOracle(values, form="advantage"), asked).max() == 1.0
    full = pairs(board, 50, length=4, seed=1)
    shorter = [
        Query(tuple(Segment(s.observations[:3], s.actions[:3], s.true_rewards[:3]) for s in q.segments)) for q in full
    ]
    assert np.array_equal(answers(RegretOracle(values, form="visited"), full), answers(RegretOracle(values), shorter))


def test_optimal_segments_tie_and_win() -> None:
    board = BOARDS[2]
    values = BoardValues(board, 0.99)
    rng = np.random.default_rng(0)
    best, random = [], []
    for start in rng.choice(board.starts, 40):
        moves, cell = [], start
        for _ in range(3):
            moves.append(rng.choice(np.flatnonzero(values.a[cell] == 0)))
            cell = board.next_cells[cell, moves[-1]]
        best.append(walk(board, start, np.array(moves)))
        random.append(walk(board, rng.choice(board.starts), rng.integers(4, size=3)))
    oracle = RegretOracle(values)
    assert np.all(answers(oracle, [Query(p) for p in zip(best[::2], best[1::2], strict=True)]) == 0.5)
    assert np.all(answers(oracle, [Query(p) for p in zip(best, random, strict=True)])[:, 0] >= 0.5)


def test_judges_by_a_callable_without_true_rewards() -> None:
    def advantage(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return -np.square(actions - observations).sum(axis=-1)

    good, bad = (Segment(np.zeros((5, 2)), np.full((5, 2), off)) for off in (0.1, 0.5))
    assert answers(RegretOracle(advantage), [Query((bad, good))]).tolist() == [[0.0, 1.0]]


def test_disagrees_with_partial_return_where_the_end_matters() -> None:
    """A coin and back costs less than two moves over brick, but these lead to the flag."""
    board = BOARDS[0]
    values = BoardValues(board)
    toward, coin = walk(board, 22, np.array([1, 3])), walk(board, 5, np.array([1, 0]))
    asked = [Query((toward, coin))]
    assert answers(PartialReturnOracle(), asked).tolist() == [[0.0, 1.0]]
    assert answers(RegretOracle(values), asked).tolist() == [[1.0, 0.0]]


def test_keeps_the_contract() -> None:
    asked = pairs(BOARDS[0], 12)
    for form in ("advantage", "deterministic", "visited"):
        check_oracle(lambda form=form: RegretOracle(BoardValues(BOARDS[0]), "noisy", seed=0, form=form), asked)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RegretOracle(object()), "no advantage"),
        (lambda: RegretOracle(lambda o, a: o, form="deterministic"), "no value"),
        (lambda: RegretOracle(BoardValues(BOARDS[0]), form="advantages"), "Did you mean advantage"),
        (lambda: RegretOracle(BoardValues(BOARDS[0]), discount=0.0), "discount"),
        (lambda: RegretOracle(BoardValues(BOARDS[0]), "skip"), "never above 0"),
        (lambda: RegretOracle(BoardValues(BOARDS[1])).ask(pairs(BOARDS[0], 1)), "not made on board 1"),
        (lambda: RegretOracle(lambda o, a: o).ask(pairs(BOARDS[0], 1)), "shape"),
        (lambda: RegretOracle(BoardValues(BOARDS[0]), form="visited").ask(pairs(BOARDS[0], 1, 1)), "last step"),
    ],
)
def test_bad_input_is_refused(make, message) -> None:
    with pytest.raises(PrefenvsError, match=message):
        make()


def test_board_values_are_an_advantage() -> None:
    assert isinstance(BoardValues(BOARDS[0]), Advantage)
