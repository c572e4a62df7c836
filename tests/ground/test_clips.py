"""Folders of images, videos and folders of images: what they show, and what is refused."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from curl.clips import Clip, clips

COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]


def image(path: Path, colour: tuple[int, int, int] = COLOURS[0], size: tuple = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def video(path: Path, frames: int = 5) -> Path:
    """Its frame number k has the colour number k."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"  # pyright: ignore
        for colour in COLOURS[:frames]:
            pixels = np.full((32, 48, 3), colour, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))  # pyright: ignore
        container.mux(stream.encode())  # pyright: ignore
    return path


def nearest(pixels: np.ndarray) -> int:
    """The number of the colour that a picture of one colour has."""
    return int(np.abs(np.array(COLOURS) - pixels.mean(axis=(0, 1))).sum(axis=1).argmin())


def test_a_folder_holds_images_videos_and_folders_of_images_by_name(tmp_path: Path) -> None:
    video(tmp_path / "c.mp4")
    image(tmp_path / "b.PNG")
    image(tmp_path / "d" / "0.jpg")
    (tmp_path / "empty").mkdir()
    (tmp_path / "readme.txt").write_text("not to be seen")
    (tmp_path / "._b.png").write_bytes(b"what a system left behind")
    (tmp_path / "d" / "notes.txt").write_text("passed over")
    assert [path.name for path in clips(str(tmp_path))] == ["b.PNG", "c.mp4", "d"]


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tiff", "gif"])
def test_images_of_every_kind_stand_still(tmp_path: Path, suffix: str) -> None:
    image(tmp_path / f"a.{suffix}", COLOURS[2])
    (path,) = clips(str(tmp_path))
    clip = Clip(path)
    for time in (0, 1, 7.5, 1000):
        pixels = clip.at(time, 20)
        assert pixels.shape == (20, 20, 3) and pixels.dtype == np.uint8
        np.testing.assert_allclose(pixels.astype(int) - COLOURS[2], 0, atol=4)


def frames(folder: Path, kind: str) -> Path:
    if kind == "video":
        return video(folder / "a.mp4")
    for number, colour in enumerate(COLOURS):
        image(folder / "a" / f"{number}.png", colour)
    return folder / "a"


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_a_clip_is_played_over_and_over_from_any_time(tmp_path: Path, kind: str) -> None:
    path = frames(tmp_path, kind)
    times = [0, 0.9, 1, 3, 4.5, 5, 6, 12, 12, 2, 0, 23]
    clip = Clip(path)
    assert [nearest(clip.at(time, 16)) for time in times] == [int(time) % 5 for time in times]
    late = Clip(path)  # whose end nobody has seen yet
    assert nearest(late.at(12, 16)) == 2 and nearest(late.at(1, 32)) == 1


def test_sizes_do_not_disturb_one_another(tmp_path: Path) -> None:
    clip = Clip(video(tmp_path / "a.mp4"))
    for time in range(7):
        assert clip.at(time, 16).shape == (16, 16, 3)
        assert clip.at(time, 100).shape == (100, 100, 3)
        assert nearest(clip.at(time, 100)) == nearest(clip.at(time, 16)) == time % 5


@pytest.mark.parametrize("size", [(90, 30), (30, 90), (30, 30), (1, 1), (640, 480)])
def test_the_middle_fills_the_square(tmp_path: Path, size: tuple[int, int]) -> None:
    path, edge = tmp_path / "a.png", min(size)
    crop = (size[0] - edge) // 2, (size[1] - edge) // 2
    whole = Image.new("RGB", size, COLOURS[0])
    whole.paste(Image.new("RGB", (edge, edge), COLOURS[1]), crop)
    whole.save(path)
    pixels = Clip(path).at(0, 44)
    inner = pixels[4:-4, 4:-4].reshape(-1, 3)
    np.testing.assert_allclose(inner.astype(int) - COLOURS[1], 0, atol=3)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".mp4", ".gif", "/0.png"])
@pytest.mark.parametrize("content", [b"", b"no picture at all" * 100])
def test_a_damaged_file_is_refused_in_one_line(tmp_path: Path, suffix: str, content: bytes) -> None:
    image(tmp_path / "a.png")
    damaged = tmp_path / f"b{suffix}"
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"^folder .* holds b\S*, which cannot be read: "
    ) as caught:
        clips(str(tmp_path))
    assert "\n" not in str(caught.value)
    damaged.unlink()
    image(damaged) if suffix != ".mp4" else video(damaged)
    assert len(clips(str(tmp_path))) == 2, "it is tried again once it has changed"


def test_a_video_that_is_cut_off_ends_there(tmp_path: Path) -> None:
    path = tmp_path / "a.mpg"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"  # pyright: ignore
        noise = np.random.default_rng(0)
        for _ in range(10):
            pixels = noise.integers(0, 256, (32, 48, 3), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))  # pyright: ignore
        container.mux(stream.encode())  # pyright: ignore
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    clip = Clip(clips(str(tmp_path))[0])
    for time in range(30):
        assert clip.at(time, 16).shape == (16, 16, 3)
    assert clip.length is not None and clip.length < 10


def test_a_folder_without_pictures_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("no picture")
    for folder, said in (
        (tmp_path / "nowhere", "is no folder"),
        (tmp_path / "readme.txt", "is no folder"),
        (tmp_path, "holds no image"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            clips(str(folder))
        assert "\n" not in str(caught.value)
