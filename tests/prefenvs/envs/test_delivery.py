import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

import prefenvs
from prefenvs import PrefenvsError
from prefenvs.envs.check import check_task
from prefenvs.envs.delivery.board import BOARDS, FEATURES, GLYPHS, Board, find_board, random_board
from prefenvs.envs.delivery.environment import Delivery, draw
from prefenvs.envs.delivery.values import BoardValues, optimal_values, policy_values, scaled_return

UP, DOWN, LEFT, RIGHT = range(4)
SMALL = Board((".:cr", "#CR.", "SD.."))

boards = st.integers(1000, 2**31 - 1).map(find_board)


def test_task_passes_the_contract() -> None:
    failed = [result for result in check_task("Delivery-v0") if not result.passed]
    assert not failed


@pytest.mark.parametrize("board", [0, 1234, None])
def test_gymnasium_accepts_the_bare_environment(board) -> None:
    check_env(Delivery(board, render_mode="rgb_array"), skip_render_check=False)


@pytest.mark.parametrize(
    ("cell", "move", "reward", "after"),
    [
        (0, RIGHT, -2.0, 1),  # onto brick
        (1, LEFT, -1.0, 0),  # onto road
        (1, RIGHT, 0.0, 2),  # a coin on road
        (2, RIGHT, -2.0, 3),  # a roadblock on road
        (1, DOWN, -1.0, 5),  # a coin on brick
        (2, DOWN, -3.0, 6),  # a roadblock on brick
        (0, UP, -1.0, 0),  # over the edge
        (0, DOWN, -1.0, 0),  # into a house
        (1, UP, -2.0, 1),  # over the edge, on brick
        (2, UP, -1.0, 2),  # over the edge, on a coin, which pays no second time
        (3, RIGHT, -1.0, 3),  # over the edge, on a roadblock
        (5, DOWN, 50.0, 9),  # destination
        (9, UP, 0.0, 9),  # nothing moves after the end
    ],
)
def test_moves(cell, move, reward, after) -> None:
    assert SMALL.rewards[cell, move] == reward
    assert SMALL.next_cells[cell, move] == after


def test_sheep_end_the_episode() -> None:
    board = Board(("S.", "D."))
    assert board.rewards[1, LEFT] == -50.0
    assert board.terminal.tolist() == [True, False, True, False]


@settings(max_examples=30, deadline=None)
@given(boards)
def test_random_boards_are_sound(board) -> None:
    assert board.shape == (10, 10)
    assert "S" in "".join(board.rows)
    assert board.reachable.all()
    assert board.features.shape == (100, 4, len(FEATURES))
    # Every move of a living van enters or stays on exactly one kind of ground.
    ground = board.features[board.starts][..., [0, 1, 4, 5]].sum(axis=-1)
    assert np.all(ground == 1)
    assert find_board(board.number) == board


@settings(max_examples=20, deadline=None)
@given(boards, st.floats(0.5, 1.0))
def test_values_satisfy_bellman(board, gamma) -> None:
    values = BoardValues(board, gamma)
    free = board.starts
    assert np.allclose(values.v[free], values.q[free].max(axis=1), atol=1e-9)
    assert np.allclose(values.q, board.rewards + gamma * values.v[board.next_cells])
    assert np.all(values.v[board.terminal] == 0)
    assert values.a.max() == 0
    # No policy does better; the optimal one does as well.
    lucky = np.eye(4)[np.random.default_rng(0).integers(4, size=100)]
    assert np.all(policy_values(board, lucky, 400, gamma)[free] <= values.v[free] + 1e-6)


@settings(max_examples=10, deadline=None)
@given(boards)
def test_values_agree_with_a_search(board) -> None:
    """Undiscounted values are the negative lengths of shortest paths, found by relaxing one edge after another."""
    best = np.where(board.terminal, 0.0, -np.inf)
    for _ in range(100):
        for cell in board.starts:
            for move in range(4):
                best[cell] = max(best[cell], board.rewards[cell, move] + best[board.next_cells[cell, move]])
    assert np.array_equal(best[board.starts], BoardValues(board).v[board.starts])


def test_paying_loops_need_a_discount() -> None:
    board = BOARDS[0]
    kind = np.where(board.terminal[:, None], 0.0, 1.0) * np.ones((100, 4))
    with pytest.raises(PrefenvsError, match="gamma below 1"):
        optimal_values(board, 1.0, kind)
    assert BoardValues(board, 0.9, kind).v[board.starts] == pytest.approx(10.0)
    with pytest.raises(PrefenvsError, match="gamma"):
        BoardValues(board, 0.0)


@pytest.mark.parametrize("number", range(len(BOARDS)))
def test_scaled_return_runs_from_random_to_optimal(number) -> None:
    board = BOARDS[number]
    best = BoardValues(board, 0.99)
    assert scaled_return(board, best.policy) == pytest.approx(1.0, abs=0.01)
    assert scaled_return(board, np.full((100, 4), 0.25)) == pytest.approx(0.0)
    worst = BoardValues(board, 0.99, -board.rewards).policy
    assert scaled_return(board, worst) < 0.0
    # The time limit of 50 steps cuts no optimal delivery short.
    assert np.allclose(policy_values(board, best.policy, 50), policy_values(board, best.policy, 200))


def test_values_predict_what_the_environment_pays() -> None:
    env = prefenvs.make("Delivery-v0", board=2)
    values = BoardValues(find_board(2), 0.999)
    for seed in range(10):
        observation, _ = env.reset(seed=seed)
        earned, steps, expected, ended = 0.0, 0, float(values.value(observation)), False
        while not ended:
            action = int(values.policy[values.cells(observation)].argmax())
            observation, reward, terminated, truncated, info = env.step(action)
            assert reward == 0.0
            earned, steps, ended = earned + 0.999**steps * info["true_reward"], steps + 1, terminated or truncated
        assert info["success"] == 1.0
        assert earned == pytest.approx(expected)


def test_reward_is_linear_in_what_the_observation_shows() -> None:
    env = Delivery(1007)
    weights = (-1.0, -2.0, 1.0, -1.0, -50.0, 50.0)
    observation, _ = env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(300):
        action = int(rng.integers(4))
        shown = observation[100:].reshape(4, 6)[action]
        observation, reward, terminated, _, _ = env.step(action)
        assert reward == shown @ weights
        if terminated:
            observation, _ = env.reset()


def test_state_can_be_written_and_names_its_board() -> None:
    first, second = Delivery(None, "rgb_array"), Delivery(None, "rgb_array")
    first.reset(seed=0)
    second.reset(seed=1)
    assert first.board != second.board
    second.state = first.state
    assert first.board == second.board
    assert np.array_equal(first.render(), draw(second.state))
    for action in (UP, LEFT, DOWN, RIGHT):
        assert np.array_equal(first.step(action)[0], second.step(action)[0])


def test_start_can_be_chosen() -> None:
    env = Delivery()
    env.reset(options={"start": (9, 9)})
    assert env.state.tolist() == [0, 9, 9]
    for bad in ((3, 4), (1, 1), (-1, 0), (0, 10)):
        with pytest.raises(PrefenvsError, match="cannot start"):
            env.reset(options={"start": bad})


def test_pictures_tell_cells_apart() -> None:
    board = find_board(0)
    frames = {draw(np.array([0, row, column])).tobytes() for row, column in np.argwhere(np.ones(board.shape))}
    assert len(frames) == 100
    alone = [Board((f"{glyph}.D",)) if glyph != "#" else Board((".D#",)) for glyph in GLYPHS]
    from prefenvs.envs.delivery.drawing import draw_board

    assert len({draw_board(b, 0, 1).tobytes() for b in alone}) == len(GLYPHS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Delivery(7), "no board 7"),
        (lambda: Board(("..", ".")), "one length"),
        (lambda: Board((".x", ".D")), "unknown characters"),
        (lambda: Board((".#D",)), "cannot reach"),
        (lambda: Delivery(0, "human"), "rgb_array"),
        (lambda: Delivery().step(0), "reset"),
        (lambda: prefenvs.make("Delivery-v0", board=500), "no board 500"),
    ],
)
def test_bad_input_is_refused(make, message) -> None:
    with pytest.raises((PrefenvsError, gymnasium.error.Error), match=message):
        make()


def test_bad_action_is_refused() -> None:
    env = Delivery()
    env.reset(seed=0)
    with pytest.raises(PrefenvsError, match="0 up"):
        env.step(4)


def test_random_board_of_any_size() -> None:
    board = random_board(np.random.default_rng(0), 5, 8)
    assert board.shape == (5, 8)
