from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from prefenvs import PrefenvsError
from prefenvs.videos import ClipWriter, decode, write_clip


def moving_disc(count=20, height=96, width=128):
    """Frames [count, height, width, 3] of a disc that crosses a colour ramp."""
    rows, columns = np.mgrid[:height, :width]
    ground = np.stack([columns * 255 // width, rows * 255 // height, np.full_like(rows, 90)], axis=-1)
    centres = np.linspace(10, width - 10, count)
    inside = (columns - centres[:, None, None]) ** 2 + (rows - height / 2) ** 2 < 100
    return np.where(inside[..., None], (230, 40, 40), ground).astype(np.uint8)


def psnr(one, other):
    return 10 * np.log10(255**2 / np.mean((one.astype(float) - other.astype(float)) ** 2))


def boxes(path):
    """Names of an MP4's outermost boxes, in the order of the file."""
    data, at, names = path.read_bytes(), 0, []
    while at < len(data):
        names.append(data[at + 4 : at + 8].decode())
        at += int.from_bytes(data[at : at + 4], "big")
    return names


@pytest.mark.parametrize("fps", [20, 31.25, Fraction(125, 3)])
def test_round_trip(tmp_path, fps):
    frames = moving_disc()
    path = write_clip(iter(frames), tmp_path / "new" / "clip.mp4", fps)
    decoded, rate = decode(path)
    assert decoded.shape == frames.shape
    assert rate == pytest.approx(float(fps))
    assert psnr(decoded, frames) > 30
    # No frame is shifted by one: each is nearest to its own original.
    nearest = [np.argmax([psnr(shown, frame) for frame in frames]) for shown in decoded]
    assert nearest == list(range(len(frames)))


def test_the_file_is_what_a_browser_plays_at_once(tmp_path):
    path = write_clip(moving_disc(), tmp_path / "clip.mp4", 25)
    names = boxes(path)
    assert names[0] == "ftyp"
    assert names.index("moov") < names.index("mdat")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.frames == 20
        assert float(stream.duration * stream.time_base) == pytest.approx(20 / 25)


def test_colours_survive(tmp_path):
    colours = np.array([(200, 30, 30), (30, 180, 60), (40, 60, 210), (255, 255, 255), (0, 0, 0)], np.uint8)
    frames = np.repeat(np.repeat(colours[:, None, None], 64, axis=1), 64, axis=2)
    decoded, _ = decode(write_clip(frames, tmp_path / "clip.mp4", 5))
    assert np.abs(decoded[:, 32, 32].astype(int) - colours).max() <= 6


def test_odd_sides_become_even(tmp_path):
    frames = moving_disc(4, 95, 127)
    decoded, _ = decode(write_clip(frames, tmp_path / "clip.mp4", 10))
    assert decoded.shape == (4, 96, 128, 3)
    assert psnr(decoded[:, :95, :127], frames) > 30


def test_the_same_frames_give_the_same_file(tmp_path):
    one, two = (write_clip(moving_disc(), tmp_path / f"{name}.mp4", 20) for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_one_frame_is_a_clip(tmp_path):
    decoded, _ = decode(write_clip(moving_disc(1), tmp_path / "clip.mp4", 20))
    assert len(decoded) == 1


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = write_clip(moving_disc(3), tmp_path / "clip.mp4", 20)
    before = path.read_bytes()

    def breaks():
        yield from moving_disc(3)
        raise RuntimeError("renderer gone")

    with pytest.raises(RuntimeError, match="renderer gone"):
        write_clip(breaks(), path, 20)
    with pytest.raises(RuntimeError, match="renderer gone"):
        write_clip(breaks(), tmp_path / "clip.gif", 20)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["clip.mp4"]


def test_the_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "clip.mp4"
    with ClipWriter(path, 20) as writer:
        for frame in moving_disc():
            writer.add(frame)
            assert not path.exists()
    assert path.exists()
    assert writer.frames == 20
    assert [item.name for item in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animated_pictures(tmp_path, suffix):
    path = write_clip(iter(moving_disc(6)), tmp_path / f"clip{suffix}", 20)
    with Image.open(path) as picture:
        assert picture.n_frames == 6
        assert picture.size == (128, 96)


@pytest.mark.parametrize("fps", [40, 31.25, 30])
@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_animated_pictures_keep_time(tmp_path, suffix, fps):
    shown = []
    with Image.open(write_clip(iter(moving_disc(40)), tmp_path / f"clip{suffix}", fps)) as picture:
        for number in range(picture.n_frames):
            picture.seek(number)
            picture.load()
            shown.append(picture.info["duration"])
    assert sum(shown) == pytest.approx(40_000 / fps, abs=10)


@pytest.mark.parametrize(
    ("frames", "name", "fps", "message"),
    [
        ([], "clip.mp4", 20, "at least one frame"),
        ([], "clip.gif", 20, "at least one frame"),
        (moving_disc(1), "clip.avi", 20, r"\.mp4"),
        (moving_disc(1), "clip.mp4", 0, "fps=0"),
        (moving_disc(1), "clip.mp4", float("nan"), "fps=nan"),
        (moving_disc(1).astype(float), "clip.mp4", 20, "uint8"),
        *(
            (frames, f"clip.{kind}", 20, message)
            for kind in ("mp4", "gif", "webp")
            for frames, message in (
                ([np.zeros((64, 64, 3), np.uint8), np.zeros((64, 32, 3), np.uint8)], "frame 1 is 32 x 64"),
                ([np.zeros((64, 64, 3))], "uint8"),
                ([np.zeros((64, 64), np.uint8)], "uint8"),
                ([np.zeros((0, 64, 3), np.uint8)], "uint8"),
                (["clip.png"], "this one is str"),
            )
        ),
        (moving_disc(1), "clip.gif", 60, "at most 50 frames of a GIF a second"),
        (moving_disc(1), "clip.gif", 0.0005, "is not a rate"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing(tmp_path, frames, name, fps, message):
    with pytest.raises(PrefenvsError, match=message):
        write_clip(frames, tmp_path / name, fps)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_video_is_named(tmp_path):
    path = tmp_path / "clip.mp4"
    path.write_text("not a video")
    with pytest.raises(PrefenvsError, match=r"clip\.mp4"):
        decode(path)
    with pytest.raises(PrefenvsError, match=r"absent\.mp4"):
        decode(tmp_path / "absent.mp4")
