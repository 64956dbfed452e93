"""Recordings show each step as its camera saw it, whatever file holds the pictures, and survive the store."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
from PIL import Image

from prefenvs import PrefenvsError, Query, Segment, Trajectories
from prefenvs.frames import Camera, Recording, SegmentFrames, frames
from prefenvs.frames.video import decode_frames, index_video
from prefenvs.store import Store
from prefenvs.videos import ClipCache, Recorder, decode, write_clip

LEVELS = 8 * np.arange(30)
"""Grey of each step's picture, far enough apart to survive a video codec."""


def pictures(count: int = 30, height: int = 48, width: int = 64) -> np.ndarray:
    return np.broadcast_to(LEVELS[:count, None, None, None], (count, height, width, 3)).astype(np.uint8)


def write_video(path: Path, shots: np.ndarray, times: np.ndarray, keys: int = 10) -> Path:
    """Write frames to be shown at these times, in milliseconds, with a key frame every `keys`."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"g": str(keys), "crf": "10", "bf": "2"})
        stream.height, stream.width, stream.pix_fmt = (*shots.shape[1:3], "yuv420p")
        stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for shot, time in zip(shots, times.tolist(), strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(shot), format="rgb24")
            frame.pts, frame.time_base = int(time), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def segment(recording: Recording, episode: int = 7) -> Segment:
    t = len(recording)
    return Segment(
        np.zeros((t, 2)), np.zeros((t, 1)), task="recorded:push", source="data", episode=episode, recording=recording
    )


def shown(recording: Recording, steps: list[int] | None = None) -> list[int]:
    """The step that each frame shows, told by its grey."""
    found = frames(segment(recording), steps, size=48)[:, 24, 32, 0].astype(int)
    nearest = np.abs(found[:, None] - LEVELS).argmin(1)
    assert np.abs(LEVELS[nearest] - found).max() <= 3
    return nearest.tolist()


@pytest.fixture
def video(tmp_path: Path) -> Recording:
    write_video(tmp_path / "top.mp4", pictures(), 100 * np.arange(30))
    return Recording((Camera("top", "top.mp4"),), np.arange(30) / 10, str(tmp_path))


def test_every_step_of_a_video_is_its_own_frame(video: Recording) -> None:
    assert shown(video) == list(range(30))
    assert shown(video, [29, 0, 13, 13]) == [29, 0, 13, 13]
    assert shown(video.cut(12, 5)) == [12, 13, 14, 15, 16]


def test_frames_at_irregular_times_are_found_by_time(tmp_path: Path) -> None:
    times = np.cumsum(np.random.default_rng(0).integers(20, 200, 30))
    write_video(tmp_path / "top.mp4", pictures(), times)
    recording = Recording((Camera("top", "top.mp4", start=times[0] / 1000),), (times - times[0]) / 1000, str(tmp_path))
    assert not recording.regular
    assert shown(recording) == list(range(30))
    assert shown(recording.cut(20, 10)) == list(range(20, 30))
    # The steps lie at other times than the frames: each sees the last frame that has begun.
    later = replace(recording, times=recording.times + 0.012)
    assert shown(later) == list(range(30))


def test_a_camera_slower_than_the_steps_shows_its_last_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "slow.mp4", pictures(10), 200 * np.arange(10))
    recording = Recording((Camera("slow", "slow.mp4"),), np.arange(20) / 10, str(tmp_path))
    assert shown(recording) == [step // 2 for step in range(20)]


def test_only_the_group_of_the_nearest_key_frame_is_decoded(tmp_path: Path) -> None:
    path = write_video(tmp_path / "top.mp4", pictures(), 100 * np.arange(30), keys=10)
    assert np.flatnonzero(index_video(path).keys).tolist() == [0, 10, 20]
    # What lies before the key frame is overwritten; the frames behind it do not notice.
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.pos is not None and packet.size]
        first = next(packet for packet in packets if packet.pts == 0)
    content[first.pos + 40 : first.pos + first.size] = bytes(first.size - 40)
    path.write_bytes(content)
    found = next(decode_frames(path, np.array([25])))
    assert abs(int(found[24, 32, 0]) - LEVELS[25]) <= 3


@pytest.mark.parametrize("kind", ["folder", "hdf5", "npy", "parquet"])
def test_pictures_lie_in_many_kinds_of_files(tmp_path: Path, kind: str) -> None:
    shots, key = pictures(), ""
    if kind == "folder":
        (tmp_path / "shots").mkdir()
        for step, shot in enumerate(shots):
            Image.fromarray(shot).save(tmp_path / "shots" / f"frame_{step}.png")
        file = "shots"
    elif kind == "hdf5":
        file, key = "shots.hdf5", "data/demo_0/obs/top"
        with h5py.File(tmp_path / file, "w") as out:
            out[key] = shots
    elif kind == "npy":
        file = "shots.npy"
        np.save(tmp_path / file, shots.transpose(0, 3, 1, 2))
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        rows = []
        for shot in shots:
            out = io.BytesIO()
            Image.fromarray(shot).save(out, "PNG")
            rows.append({"bytes": out.getvalue(), "path": None})
        file, key = "shots.parquet", "top"
        parquet.write_table(pyarrow.table({key: rows}), tmp_path / file)
    recording = Recording((Camera("top", file, key, start=2),), np.arange(28) / 10, str(tmp_path))
    assert shown(recording) == list(range(2, 30))
    assert shown(recording.cut(9, 3)) == [11, 12, 13]
    with pytest.raises(PrefenvsError, match=r"episode 7 of 'data' cannot be shown: .*holds 30 pictures"):
        shown(replace(recording, times=np.arange(29) / 10))


def test_several_cameras_stand_side_by_side(video: Recording, tmp_path: Path) -> None:
    write_video(tmp_path / "wrist.mp4", pictures(30, 96, 96)[::-1], 100 * np.arange(30))
    both = replace(video, cameras=(*video.cameras, Camera("wrist", "wrist.mp4")))
    with SegmentFrames(48) as source:
        assert source.shape(segment(both)) == (64 + 48, 48)
        frame = source.frames(segment(both), [3])[0]
        assert np.abs(frame[24, [32, 88], 0].astype(int) - LEVELS[[3, 26]]).max() <= 3
    with SegmentFrames((32, 32)) as source:
        assert source.views(segment(both), [0, 1]).shape == (2, 2, 32, 32, 3)
    with SegmentFrames(48, cameras=["wrist"]) as source:
        assert source.shape(segment(both)) == (48, 48)
    with SegmentFrames(256, enlarge=False) as source:
        assert source.shape(segment(both)) == (128 + 96, 96) == source.frames(segment(both), [3]).shape[2:0:-1]
    with pytest.raises(PrefenvsError, match="no camera 'front' in this recording: choose one of top, wrist"):
        SegmentFrames(48, cameras=["front"]).frames(segment(both))


def test_clips_keep_the_recorded_time(video: Recording, tmp_path: Path) -> None:
    times = np.concatenate([np.arange(10) * 0.1, 0.9 + np.arange(1, 11) * 0.3])
    stamps = np.round(1000 * times).astype(int)
    write_video(tmp_path / "top.mp4", pictures(20), stamps)
    uneven = replace(video, times=times)
    with Recorder("recorded:push", 48, progress=False) as recorder:
        clip, fps = decode(recorder.clip(segment(uneven), tmp_path / "clip.mp4"))
    assert abs(len(clip) / fps - (times[-1] + 1 / uneven.fps)) <= 1.5 / fps
    at = np.abs(clip[:, 24, 32, 0].astype(int)[:, None] - LEVELS[:20]).argmin(1)
    expected = np.searchsorted(times, np.arange(len(clip)) / fps + 1e-6, side="right") - 1
    assert at.tolist() == expected.tolist()


def test_the_store_and_the_clips_know_no_simulator(video: Recording, tmp_path: Path) -> None:
    pair = Query((segment(video.cut(0, 10), 1), segment(video.cut(15, 10), 2)))
    with Store(tmp_path / "labels.sqlite") as store:
        store.add_queries([pair], run="r")
        (kept,) = store.pending_queries(run="r")
    assert kept.id == pair.id
    assert [s.hash for s in kept.segments] == [replace(s).hash for s in kept.segments]
    with ClipCache(tmp_path / "clips") as cache:
        about = cache.describe(kept.segments[1])
        clip, fps = decode(cache.make(kept.segments[1]))
    # A picture of 48 pixels gains nothing from 256: the page scales it.
    assert (about["frames"], about["fps"], about["height"]) == (len(clip), fps, len(clip[0])) == (10, 10.0, 48)
    assert abs(int(clip[0, 24, 24, 0]) - LEVELS[15]) <= 4


def test_a_recording_is_the_same_wherever_it_lies(
    video: Recording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    before = Recording.of_record(video.record(), video.times)
    shutil.move(tmp_path / "top.mp4", moved / "top.mp4")
    assert replace(video, root=str(moved)).hash == before.hash != before.cut(1, 5).hash
    with pytest.raises(PrefenvsError, match=r"top.mp4, which camera 'top' recorded, is not there: .*RECORDINGS"):
        shown(before)
    monkeypatch.setenv("PREFENVS_RECORDINGS", str(moved))
    assert shown(before, [4]) == [4]


def test_trajectories_cut_their_recordings(video: Recording, tmp_path: Path) -> None:
    recordings = (video.cut(0, 12), video.cut(12, 18))
    data = Trajectories(
        np.zeros((30, 2)),
        np.zeros((30, 1)),
        np.array([12, 30]),
        task="recorded:push",
        source="d",
        recordings=recordings,
    )
    batch = data.cut(np.array([1, 0]), np.array([4, 2]), 6)
    assert shown(batch[0].recording) == list(range(16, 22))
    assert shown(batch[np.array([1])][0].recording) == list(range(2, 8))
    assert shown(data.episode(1).recording) == list(range(12, 30))
    with pytest.raises(PrefenvsError, match="other lengths"):
        replace(data, recordings=recordings[::-1])


def test_faults_are_named_in_one_line(video: Recording, tmp_path: Path) -> None:
    with pytest.raises(PrefenvsError, match=r"top.mp4 shows 0 to 3 s, but a step .* at 3 s: the video is shorter"):
        shown(replace(video, times=np.arange(31) / 10))
    content = (tmp_path / "top.mp4").read_bytes()
    (tmp_path / "top.mp4").write_bytes(content[: len(content) // 2])
    with pytest.raises(
        PrefenvsError, match=r"episode 7 of 'data' cannot be shown: .*top.mp4 cannot be read as a video"
    ):
        shown(video)
    (tmp_path / "shots").mkdir()
    for step, side in enumerate((32, 32, 40)):
        Image.new("RGB", (side, 32)).save(tmp_path / "shots" / f"{step}.png")
    with pytest.raises(PrefenvsError, match=r"picture 2 of .*shots is 40 x 32, others are 32 x 32"):
        shown(Recording((Camera("top", "shots"),), np.arange(3.0), str(tmp_path)))
    with pytest.raises(PrefenvsError, match=r"the times of top.mp4 do not rise: step 2 was seen at 0.1 s"):
        Recording((Camera("top", "top.mp4"),), np.array([0, 0.2, 0.1]))
    with pytest.raises(PrefenvsError, match="no recording and no simulator states"):
        frames(Segment(np.zeros((3, 1)), np.zeros((3, 1)), task="recorded:push"))


def test_written_clips_are_read_back_frame_by_frame(tmp_path: Path) -> None:
    write_clip(pictures(), tmp_path / "clip.mp4", 25)
    assert shown(Recording((Camera("c", "clip.mp4"),), np.arange(30) / 25, str(tmp_path))) == list(range(30))


def test_folders_and_arrays_that_differ_inside_are_told_apart(tmp_path: Path) -> None:
    """Plain pictures compress to one size, and arrays of one shape have equal headers and, here, equal ends."""
    hashes = []
    for number in range(3):
        (tmp_path / f"f{number}").mkdir()
        for step in range(3):
            Image.new("RGB", (32, 32), (number, 0, 0)).save(tmp_path / f"f{number}" / f"{step}.png")
        shots = np.zeros((40, 32, 32, 3), np.uint8)
        shots[20] = number
        np.save(tmp_path / f"a{number}.npy", shots)
        files = (f"f{number}", f"a{number}.npy")
        hashes += [Recording((Camera("c", file),), np.arange(3.0), str(tmp_path)).hash for file in files]
    assert len(set(hashes)) == 6
