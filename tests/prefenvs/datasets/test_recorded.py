"""Data sets of robots: numbers and pictures of every format, episode by episode, and faults named in one line."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from prefenvs import PrefenvsError
from prefenvs.datasets import load_dataset

from .recorded import (
    FPS,
    LENGTHS,
    features,
    grey,
    numbers,
    seen,
    shots,
    write_robomimic,
    write_v21,
    write_v30,
    write_videos,
)

LEROBOT = pytest.mark.parametrize("write", [write_v21, write_v30])


@LEROBOT
def test_lerobot_numbers_and_pictures_are_what_was_written(write: Callable[..., Path], tmp_path: Path) -> None:
    dataset = load_dataset(write(tmp_path / "set"), "push the block")
    data = dataset.trajectories
    assert (data.task, data.lengths.tolist()) == ("recorded:push the block", list(LENGTHS[:2]))
    for episode in range(2):
        own, segment = numbers(episode), data.episode(episode)
        np.testing.assert_array_equal(segment.observations, own["observation.state"])
        np.testing.assert_array_equal(segment.actions, own["action"])
        np.testing.assert_array_equal(segment.true_rewards, own["next.reward"])
        for camera in (0, 1):
            assert seen(segment, camera) == [grey(episode, step) for step in range(LENGTHS[episode])]
    assert dataset.successes.tolist() == [0.0, 1.0]
    cut = data.cut(np.array([1]), np.array([4]), 3)[0]
    assert seen(cut) == [grey(1, 4), grey(1, 5), grey(1, 6)]


@LEROBOT
def test_an_episode_keeps_its_number(write: Callable[..., Path], tmp_path: Path) -> None:
    data = load_dataset(write(tmp_path / "set"), "recorded:pull the block").trajectories
    segment = data.episode(0)
    assert segment.episode == data.cut(np.array([0]), np.array([1]), 2)[0].episode == 2
    assert seen(segment) == [grey(2, step) for step in range(LENGTHS[2])]


def test_several_tasks_are_not_mixed(tmp_path: Path) -> None:
    write_v30(tmp_path / "set")
    with pytest.raises(PrefenvsError, match=r"have 2 tasks.*--task.*: 'push the block', 'pull the block'"):
        load_dataset(tmp_path / "set")
    with pytest.raises(PrefenvsError, match=r"no episode of .* has the task 'fly'"):
        load_dataset(tmp_path / "set", "recorded:fly")


def test_pictures_in_the_rows_of_lerobot(tmp_path: Path) -> None:
    """Features of the type image lie in the Parquet files themselves."""
    from PIL import Image

    folder = write_v30(tmp_path / "set", features=features("image"))
    path = folder / "data" / "chunk-000" / "file-000.parquet"
    table = pq.read_table(path)
    for key, width in (("observation.images.top", 48), ("observation.images.wrist", 32)):
        cells = []
        for episode, length in enumerate(LENGTHS):
            for shot in shots(episode, length, 32, width):
                out = io.BytesIO()
                Image.fromarray(shot).save(out, "PNG")
                cells.append({"bytes": out.getvalue(), "path": None})
        table = table.append_column(key, pa.array(cells))
    pq.write_table(table, path)
    data = load_dataset(folder, "pull the block").trajectories
    assert seen(data.episode(0), 1) == [grey(2, step) for step in range(LENGTHS[2])]


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _change_size(path: Path) -> None:
    """Make a video of 4 frames as its first say, and of 5 twice as large: a camera that was started anew."""
    parts = shots(1, 9)[:4], np.repeat(np.repeat(shots(1, 9)[4:], 2, 1), 2, 2)
    both = io.BytesIO()
    for part in parts:
        raw = io.BytesIO()
        with av.open(raw, "w", format="h264") as out:
            stream = out.add_stream("libx264", rate=FPS, options={"bf": "0"})
            stream.height, stream.width, stream.pix_fmt = *part.shape[1:3], "yuv420p"
            for shot in part:
                out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(shot), format="rgb24")))
            out.mux(stream.encode())
        both.write(raw.getvalue())
    both.seek(0)
    with av.open(both, format="h264") as raw, av.open(str(path), "w") as out:
        stream = out.add_stream_from_template(raw.streams.video[0])
        for number, packet in enumerate(packet for packet in raw.demux(video=0) if packet.size):
            packet.pts = packet.dts = number
            packet.duration, packet.time_base, packet.stream = 1, Fraction(1, FPS), stream
            out.mux(packet)


def _shuffle(path: Path) -> None:
    table = pq.read_table(path)
    pq.write_table(table.take([1, 0, *range(2, len(table))]), path)


FAULTS = {
    "a truncated video": (
        lambda folder: _truncate(folder / "videos/chunk-000/observation.images.top/episode_000001.mp4"),
        r"episode 1 .*episode_000001.mp4 shows 0 to 0.3 s, .* the video is shorter than its episode",
    ),
    "pictures of two sizes in a video": (
        lambda folder: _change_size(folder / "videos/chunk-000/observation.images.top/episode_000001.mp4"),
        r"episode 1 of 'set' cannot be shown: frame 4 of .*episode_000001.mp4 is 96 x 64, others are 48 x 32",
    ),
    "a missing camera": (
        lambda folder: (folder / "videos/chunk-000/observation.images.wrist/episode_000001.mp4").unlink(),
        r"episode 1 of .* is damaged: camera 'observation.images.wrist' has no file .*episode_000001.mp4",
    ),
    "rows out of order": (
        lambda folder: _shuffle(folder / "data/chunk-000/episode_000001.parquet"),
        r"episode 1 of .* is damaged: .*episode_000001.parquet has its rows out of order: frame_index is 1 in row 0",
    ),
    "a damaged table": (
        lambda folder: _truncate(folder / "data/chunk-000/episode_000001.parquet"),
        r"episode 1 of .* is damaged: .*episode_000001.parquet is no Parquet file, or is damaged",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_episode_is_named_or_left_out(fault: str, tmp_path: Path) -> None:
    folder = write_v21(tmp_path / "set")
    damage, message = FAULTS[fault]
    damage(folder)
    with pytest.raises(PrefenvsError, match=message):
        seen(load_dataset(folder, "push the block").trajectories.episode(1))
    with pytest.warns(UserWarning, match="1 of 2 episodes of .* are left out: episode 1: "):
        dataset = load_dataset(folder, "push the block", skip_damaged=True)
    assert dataset.trajectories.episode_numbers.tolist() == [0]
    assert seen(dataset.trajectories.episode(0)) == [grey(0, step) for step in range(LENGTHS[0])]


def test_a_video_shorter_than_its_episode(tmp_path: Path) -> None:
    from prefenvs.videos import write_clip

    folder = write_v21(tmp_path / "set")
    write_clip(shots(0, 4), folder / "videos/chunk-000/observation.images.top/episode_000000.mp4", FPS)
    with pytest.raises(
        PrefenvsError, match=r"episode 0 of 'set' cannot be shown: .* the video is shorter than its epis"
    ):
        seen(load_dataset(folder, "push the block").trajectories.episode(0))
    with pytest.warns(UserWarning, match=r"episode 0: .*the video is shorter"):
        assert len(load_dataset(folder, "push the block", skip_damaged=True)) == 1
    path = write_v30(tmp_path / "joined") / "meta/episodes/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    ends = pa.array([0.6, 1.2, 2.2])
    name = "videos/observation.images.top/to_timestamp"
    pq.write_table(table.set_column(table.column_names.index(name), name, ends), path)
    with pytest.raises(PrefenvsError, match=r"episode 1 .*file-000.mp4 shows 0.6 s of it, but .* seen at 0.8 s"):
        load_dataset(tmp_path / "joined", "push the block")


def test_numbers_under_other_names_are_told(tmp_path: Path) -> None:
    other = {"observation.state": "state", "action": "actions"}
    folder = write_v21(
        tmp_path / "set", features={other.get(name, name): feature for name, feature in features().items()}
    )
    with pytest.warns(UserWarning, match=r"info.json names no observation.state, .* not read: state, actions; give"):
        load_dataset(folder, "push the block")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebase_version": "v9.9"}, r"info.json is of LeRobot's version 'v9.9', and v2.0, v2.1, v3.0 are read"),
        ({"fps": 0}, r"info.json tells 0 frames per second"),
        ({"features": 3}, r"info.json is no LeRobot data set's"),
        ({"data_path": "../{episode_index}.parquet"}, r"names the file '../0.parquet', which lies outside its folder"),
    ],
)
def test_metadata_that_cannot_be_read(changes: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(PrefenvsError, match=message):
        load_dataset(write_v21(tmp_path / "set", **changes), "push the block")


def test_robomimic_has_vectors_pictures_and_masks(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "lift.hdf5")
    dataset = load_dataset(path)
    data = dataset.trajectories
    assert (data.task, data.lengths.tolist()) == ("recorded:Lift", list(LENGTHS))
    assert data.observations.shape == (sum(LENGTHS), 3)
    assert data.terminated.all()
    for episode, length in enumerate(LENGTHS):
        own, segment = numbers(episode), data.episode(episode)
        np.testing.assert_array_equal(segment.observations[:, 1:], own["observation.state"])
        np.testing.assert_array_equal(segment.actions, own["action"])
        np.testing.assert_array_equal(segment.true_rewards, own["next.reward"])
        np.testing.assert_array_equal(data.final_observations[episode, 1:], own["observation.state"][-1] + 1)
        assert seen(segment, 1) == [grey(episode, step) for step in range(length)]
        assert [camera.name for camera in segment.recording.cameras] == ["agentview", "wrist"]
    train = load_dataset(f"{path}#train").trajectories
    assert train.episode_numbers.tolist() == [0, 2]
    assert seen(train.episode(1)) == [grey(2, step) for step in range(LENGTHS[2])]
    with pytest.raises(PrefenvsError, match="has no mask 'valid': train"):
        load_dataset(f"{path}#valid")


def test_a_damaged_demonstration_is_named_or_left_out(tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "lift.hdf5")
    with h5py.File(path, "a") as file:
        del file["data/demo_1/obs/wrist_image"]
        file["data/demo_1/obs/wrist_image"] = np.zeros((4, 32, 32, 3), np.uint8)
    with pytest.raises(
        PrefenvsError, match=r"episode 1 of .*lift.hdf5 is damaged: obs/wrist_image in demo_1 of .* shape"
    ):
        load_dataset(path)
    with pytest.warns(UserWarning, match="1 of 3 episodes"):
        assert load_dataset(path, skip_damaged=True).trajectories.episode_numbers.tolist() == [0, 2]
    with h5py.File(path, "a") as file:
        file["data/demo_2/rewards"][0] = np.nan
    with pytest.warns(UserWarning, match="2 of 3 episodes .*rewards of data set .*demo_2 of .* hold a NaN"):
        assert load_dataset(path, skip_damaged=True).trajectories.episode_numbers.tolist() == [0]


@pytest.mark.parametrize(("key", "field"), [("rewards", "true_rewards"), ("next_obs", "final_observations")])
def test_what_only_some_demonstrations_hold_is_left_out_and_told(key: str, field: str, tmp_path: Path) -> None:
    path = write_robomimic(tmp_path / "lift.hdf5")
    with h5py.File(path, "a") as file:
        del file[f"data/demo_1/{key}"]
    with pytest.warns(UserWarning, match=rf"1 of 3 .*lift.hdf5 hold no {key} \(episode 1\), .*: give FILE.hdf5#MASK"):
        assert getattr(load_dataset(path).trajectories, field) is None
    assert getattr(load_dataset(f"{path}#train").trajectories, field) is not None
    with h5py.File(path, "a") as file:
        del file[f"data/demo_0/{key}"], file[f"data/demo_2/{key}"]
    with warnings.catch_warnings(action="error"):
        assert getattr(load_dataset(path).trajectories, field) is None


@pytest.mark.parametrize(
    ("key", "renamed", "message"),
    [
        ("robot0_eef_pos", None, "obs/robot0_eef_pos is missing, in most episodes a vector of 2"),
        ("gripper", "fingers", "obs/fingers is a vector of 1, in most episodes missing"),
        ("wrist_image", None, "obs/wrist_image is missing, in most episodes a camera"),
    ],
)
def test_demonstrations_with_other_keys_are_not_mixed(
    key: str, renamed: str | None, message: str, tmp_path: Path
) -> None:
    path = write_robomimic(tmp_path / "lift.hdf5")
    with h5py.File(path, "a") as file:
        for part in ("obs", "next_obs"):
            group = file[f"data/demo_0/{part}"]
            if renamed and key in group:
                group[renamed] = group[key][()]
            if key in group:
                del group[key]
    with pytest.raises(PrefenvsError, match=f"episode 0 of .*lift.hdf5 is damaged: {message}; .*--skip-damaged"):
        load_dataset(path)
    with pytest.warns(UserWarning, match="1 of 3 episodes"):
        assert load_dataset(path, skip_damaged=True).trajectories.episode_numbers.tolist() == [1, 2]


def test_a_folder_of_videos(tmp_path: Path) -> None:
    dataset = load_dataset(write_videos(tmp_path / "set"))
    data = dataset.trajectories
    assert (data.task, data.lengths.tolist()) == ("recorded:push", list(LENGTHS))
    assert data.actions.shape == (sum(LENGTHS), 0)
    assert dataset.policies.tolist() == ["a", "b", "a"]
    assert dataset.successes.tolist() == [0.0, 0.5, 1.0]
    for episode, length in enumerate(LENGTHS):
        for camera in (0, 1):
            assert seen(data.episode(episode), camera) == [grey(episode, step) for step in range(length)]


def test_a_success_that_only_some_rows_tell_is_left_out_and_told(tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "set")
    table = folder / "episodes.csv"
    table.write_text(table.read_text().replace("b,0.5\n", "b,\n"))
    with pytest.warns(UserWarning, match=r"1 of 3 .* hold no success \(episode 1\), .*: fill the column"):
        assert load_dataset(folder).successes is None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nowhere.mp4,w0.mp4,,,push,a,", r"episode 3 of .* is damaged: camera 'top' in row 4 .* no file 'nowhere.mp4'"),
        ("day.mp4,w0.mp4,0,9,push,a,", r"episode 3 .*w0.mp4 shows 0 to 0.6 s, .* shorter than its episode"),
        ("day.mp4,w0.mp4,x,,push,a,", r"episode 3 .*start in row 4 of .*episodes.csv is 'x', no number"),
        ("day.mp4,w0.mp4,5,6,push,a,", r"episode 3 .*leaves no frame of day.mp4"),
        ("../day.mp4,w0.mp4,5,6,push,a,", r"lies outside its folder"),
    ],
)
def test_a_bad_row_is_named_or_left_out(line: str, message: str, tmp_path: Path) -> None:
    folder = write_videos(tmp_path / "set")
    with (folder / "episodes.csv").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(PrefenvsError, match=message):
        load_dataset(folder)
    with pytest.warns(UserWarning, match="1 of 4 episodes"):
        assert len(load_dataset(folder, skip_damaged=True)) == 3


def test_a_folder_of_pictures_of_several_sizes(tmp_path: Path) -> None:
    from PIL import Image

    for episode in range(2):
        (tmp_path / f"shots{episode}").mkdir()
        for step in range(4):
            size = (64, 32) if (episode, step) == (1, 2) else (48, 32)
            Image.new("RGB", size).save(tmp_path / f"shots{episode}" / f"{step}.png")
    (tmp_path / "episodes.csv").write_text("video,fps\nshots0,10\nshots1,10\n")
    with pytest.raises(
        PrefenvsError, match=r"episode 1 .* picture 2 of .*shots1 is 64 x 32, others are 48 x 32; .*--skip-damaged"
    ):
        seen(load_dataset(tmp_path).trajectories.episode(1))
    with pytest.warns(UserWarning, match="1 of 2 episodes .* episode 1: picture 2 of"):
        assert load_dataset(tmp_path, skip_damaged=True).trajectories.episode_numbers.tolist() == [0]


@pytest.mark.parametrize("jpeg", [False, True])
def test_minari_with_pictures(jpeg: bool, tmp_path: Path) -> None:
    minari = pytest.importorskip("minari")
    from gymnasium import spaces
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage

    from .recorded import shots

    (tmp_path / "set" / "data").mkdir(parents=True)
    view = spaces.Box(0, 255, (32, 48, 3), np.uint8)
    seen_space = spaces.Dict({"arm": spaces.Box(-9, 9, (2,), np.float32), "views": spaces.Dict({"top": view})})
    storage = MinariStorage.new(
        tmp_path / "set" / "data",
        seen_space,
        spaces.Box(-9, 9, (1,), np.float32),
        data_format="hdf5",
        jpeg_encoding=jpeg,
    )
    storage.update_metadata({"dataset_id": "set-v0", "minari_version": minari.__version__})
    buffers = []
    for episode, length in enumerate(LENGTHS):
        own = numbers(episode)
        arm = np.concatenate([own["observation.state"], [[9, 9]]]).astype(np.float32)
        last = np.arange(length) == length - 1
        views = {"top": shots(episode, length + 1).copy()}
        buffers.append(
            EpisodeBuffer(
                observations={"arm": arm, "views": views},
                actions=own["action"],
                rewards=own["next.reward"],
                terminations=last,
                truncations=last & False,
            )
        )
    storage.update_episodes(buffers)
    data = load_dataset(tmp_path / "set").trajectories
    for episode, length in enumerate(LENGTHS):
        segment = data.episode(episode)
        np.testing.assert_array_equal(segment.observations, numbers(episode)["observation.state"])
        assert [camera.name for camera in segment.recording.cameras] == ["views-top"]
        assert np.abs(np.array(seen(segment)) - [grey(episode, step) for step in range(length)]).max() <= 5 * jpeg


@pytest.mark.parametrize("column", ["complementary_info.is_intervention", "intervention"])
def test_lerobot_tells_where_a_person_took_over(column: str, tmp_path: Path) -> None:
    folder = write_v21(tmp_path / "set")
    info = json.loads((folder / "meta" / "info.json").read_text())
    info["features"][column] = {"dtype": "float32", "shape": [1], "names": None}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    expected = []
    for path in sorted((folder / "data").rglob("*.parquet"))[:2]:
        table = pq.read_table(path)
        expected.append(np.arange(len(table)) % 3 == 2)
        pq.write_table(table.append_column(column, pa.array(expected[-1].astype(np.float32))), path)
    dataset = load_dataset(folder, "push the block")
    np.testing.assert_array_equal(dataset.interventions, np.concatenate(expected))
    begins = [np.append(flags[1:], False) & ~flags for flags in expected]
    np.testing.assert_array_equal(dataset.intervention_rewards(), -np.concatenate(begins).astype(float))
