"""ROS bags: topics at one rate, pictures when they are looked at, and what is wrong with a bag in one line."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prefenvs import PrefenvsError
from prefenvs.datasets import load_dataset
from prefenvs.frames import frames

pytest.importorskip("rosbags")
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

ROS = get_typestore(Stores.ROS2_JAZZY)
STAMP = ROS.types["builtin_interfaces/msg/Time"](0, 0)
HEADER = ROS.types["std_msgs/msg/Header"](STAMP, "")
TABLE = """
rate = 10
observations = ["/joints.position", "/grip"]
actions = ["/command.data"]
cameras = { front = "/front", wrist = "/wrist" }
task = "open the drawer"
"""


def joints(positions: list[float]) -> Any:
    empty = np.zeros(0)
    return ROS.types["sensor_msgs/msg/JointState"](HEADER, ["a", "b"], np.array(positions), empty, empty)


def number(value: float) -> Any:
    return ROS.types["std_msgs/msg/Float64"](value)


def command(values: list[float]) -> Any:
    layout = ROS.types["std_msgs/msg/MultiArrayLayout"]([], 0)
    return ROS.types["std_msgs/msg/Float32MultiArray"](layout, np.array(values, np.float32))


def jpeg(level: int, side: int = 16) -> Any:
    file = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), level, np.uint8)).save(file, "PNG")
    data = np.frombuffer(file.getvalue(), np.uint8)
    return ROS.types["sensor_msgs/msg/CompressedImage"](HEADER, "png", data)


def raw(colour: tuple[int, int, int]) -> Any:
    """A picture of 16 pixels in the order blue, green, red, with two bytes of padding at the end of each row."""
    rows = np.zeros((16, 50), np.uint8)
    rows[:, :48] = np.tile(np.array(colour[::-1], np.uint8), 16)
    return ROS.types["sensor_msgs/msg/Image"](HEADER, 16, 16, "bgr8", 0, 50, rows.ravel())


def write(path: Path, said: list[tuple[float, str, Any]], mcap: bool = True) -> Path:
    """Write (second, topic, message) as a bag, which is a folder."""
    plugin = StoragePlugin.MCAP if mcap else StoragePlugin.SQLITE3
    with Writer(path, version=9, storage_plugin=plugin) as bag:
        known: dict[str, Any] = {}
        for second, topic, message in sorted(said, key=lambda row: row[0]):
            kind = message.__msgtype__
            known.setdefault(topic, bag.add_connection(topic, kind, typestore=ROS) if topic not in known else None)
            bag.write(known[topic], int(1e9 + second * 1e9), ROS.serialize_cdr(message, kind))
    return path


def episode(level: int) -> list[tuple[float, str, Any]]:
    """A second of joints at 100 Hz, a gripper that speaks thrice, commands at 10 Hz, cameras at 10 and 5 Hz."""
    said: list[tuple[float, str, Any]] = [(t / 100, "/joints", joints([t / 100, level])) for t in range(101)]
    said += [(0.0, "/grip", number(0.0)), (0.55, "/grip", number(1.0)), (1.0, "/grip", number(1.0))]
    said += [(t / 10 + 0.03, "/command", command([t, -t, level])) for t in range(11)]
    said += [(0.0, "/command", command([-1, 1, level]))]
    said += [(t / 10, "/front", jpeg(level + t)) for t in range(11)]
    said += [(t / 5, "/wrist", raw((10 * t, level, 0))) for t in range(6)]
    return said


@pytest.fixture(scope="module")
def bags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MCAP file, a bag that is a folder in SQLite, and the table."""
    made = tmp_path_factory.mktemp("bags")
    (write(made / "written", episode(100)) / "written.mcap").rename(made / "first.mcap")
    shutil.rmtree(made / "written")
    write(made / "second", episode(150), mcap=False)
    (made / "bags.toml").write_text(TABLE)
    return made


@pytest.fixture
def folder(bags: Path, tmp_path: Path) -> Path:
    """A copy of them."""
    return shutil.copytree(bags, tmp_path / "robot")


def test_topics_become_steps_at_one_rate(folder: Path) -> None:
    data = load_dataset(folder).trajectories
    assert data.task == "recorded:open the drawer"
    assert data.lengths.tolist() == [11, 11]
    seconds = np.arange(11) / 10
    assert np.allclose(data.observations[:11, 0], seconds)
    assert data.observations[11:, 1].tolist() == [150] * 11
    # The gripper closed at 0.55 s.
    assert data.observations[:11, 2].tolist() == [0] * 6 + [1] * 5
    # The command of a step came after it was seen and before the next one.
    assert data.actions[:11, 0].tolist() == list(range(11))
    assert data.actions.shape == (22, 3)


def test_cameras_show_the_last_picture_that_had_come(folder: Path) -> None:
    segment = load_dataset(folder).trajectories.cut(np.array([1]), np.array([3]), 5)[0]
    shown = frames(segment, size=16)
    assert shown.shape == (5, 16, 32, 3)
    assert shown[:, 8, 4, 0].tolist() == [153, 154, 155, 156, 157]
    # Half as fast: red tells the picture, green the episode.
    assert shown[:, 8, 20].tolist() == [[10, 150, 0], [20, 150, 0], [20, 150, 0], [30, 150, 0], [30, 150, 0]]


def test_episodes_of_a_table(folder: Path) -> None:
    rows = '[[episodes]]\nbag = "first.mcap"\nstart = 0.5\nend = 0.8\npolicy = "act"\nsuccess = 1\n'
    (folder / "bags.toml").write_text(TABLE.replace('actions = ["/command.data"]', "") + rows)
    dataset = load_dataset(folder)
    assert dataset.trajectories.actions.shape == (4, 0)
    assert dataset.successes is not None
    assert dataset.policies is not None
    assert dataset.policies.tolist() == ["act"]
    assert dataset.successes.tolist() == [1.0]
    assert frames(dataset.trajectories.episode(0), size=16)[:, 8, 4, 0].tolist() == [105, 106, 107, 108]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("rate = 10", "rate = 0"), "rate in .*bags.toml is 0: give the steps per second"),
        (("/joints.position", "/arm"), "episode 0 .*no message of the topic '/arm': it has /command, /front, /grip"),
        (("/joints.position", "/joints.angle"), "no field 'angle', but header, name, position"),
        (("/wrist", "/grip"), "the first of /grip in .* is a Float64: sensor_msgs/CompressedImage is read"),
        (("rate = 10", "rate = 10\ngap = 0.4"), "/grip in .*first.mcap is silent for 0.55 s from 0 s on"),
        (("rate = 10", "rate = 'ten'"), "rate in .*bags.toml is 'ten'"),
    ],
)
def test_bad_tables(folder: Path, change: tuple[str, str], says: str) -> None:
    (folder / "bags.toml").write_text(TABLE.replace(*change))
    with pytest.raises(PrefenvsError, match=says):
        load_dataset(folder)


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        ("end = 0.5", "/grip in .*first.mcap is silent for 0.5 s from 0 s on"),
        ("start = 0.5", "/grip in .*first.mcap is silent for 0.55 s from 0 s on"),
    ],
)
def test_a_silence_that_the_cut_begins_or_ends_in_is_told(folder: Path, cut: str, says: str) -> None:
    rows = f'gap = 0.46\n[[episodes]]\nbag = "first.mcap"\n{cut}\n'
    (folder / "bags.toml").write_text(TABLE + rows)
    with pytest.raises(PrefenvsError, match=says):
        load_dataset(folder)
    (folder / "bags.toml").write_text(TABLE + rows.replace(cut, "start = 0.55"))
    assert load_dataset(folder).trajectories.lengths.tolist() == [5]


def test_damaged_bags_can_be_left_out(folder: Path) -> None:
    whole = (folder / "first.mcap").read_bytes()
    (folder / "first.mcap").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PrefenvsError, match=r"episode 0 of .* is damaged: .*first\.mcap cannot be read as a ROS bag"):
        load_dataset(folder)
    with pytest.warns(UserWarning, match="1 of 2 episodes"):
        assert load_dataset(folder, skip_damaged=True).trajectories.episode_numbers.tolist() == [1]


def test_pictures_of_several_sizes(folder: Path, tmp_path: Path) -> None:
    said = [(t, topic, jpeg(9, 32) if topic == "/front" and t == 0.5 else m) for t, topic, m in episode(100)]
    (write(tmp_path / "odd", said) / "odd.mcap").rename(folder / "first.mcap")
    with pytest.raises(PrefenvsError, match=r"at 0\.5 s in .*first\.mcap is 32 x 32, others are 16 x 16"):
        frames(load_dataset(folder).trajectories.episode(0), size=16)
    with pytest.warns(UserWarning, match=r"1 of 2 episodes of .* are left out: episode 0: .* is 32 x 32"):
        assert load_dataset(folder, skip_damaged=True).trajectories.episode_numbers.tolist() == [1]


def test_joints_in_another_order_are_not_mixed(tmp_path: Path) -> None:
    said = episode(100)
    empty = np.zeros(0)
    other = [
        (second, topic, type(message)(HEADER, ["b", "a"], message.position[::-1].copy(), empty, empty))
        if topic == "/joints"
        else (second, topic, message)
        for second, topic, message in said
    ]
    (tmp_path / "robot").mkdir()
    (tmp_path / "robot" / "bags.toml").write_text(TABLE)
    for name, bag in (("a", said), ("b", other), ("c", said)):
        write(tmp_path / "robot" / name, bag)
    with pytest.raises(PrefenvsError, match=r"episode 1 .* 2 numbers of b, a, in most episodes 2 numbers of a, b"):
        load_dataset(tmp_path / "robot")
    half = [one if one[0] < 0.5 else two for one, two in zip(said, other, strict=True)]
    shutil.rmtree(tmp_path / "robot" / "b")
    write(tmp_path / "robot" / "b", half)
    with pytest.raises(PrefenvsError, match=r"2 numbers of a, b at first and 2 numbers of b, a 0\.5 s after the bag"):
        load_dataset(tmp_path / "robot")
