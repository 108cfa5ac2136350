"""Which photos or frames a scene is made from."""

import numpy as np
import pytest

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import save_image
from nbhelpers.multiview.views import image_motion, select_views, sharpest_per_segment, sharpness


def texture(seed=0, size=(120, 400)):
    import cv2

    noise = np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 2)


def shot(left, blur=0):
    import cv2

    picture = np.repeat(texture()[:, left : left + 160, None], 3, axis=2)
    return cv2.GaussianBlur(picture, (0, 0), blur) if blur else picture


def test_movement_is_a_share_of_the_longer_side():
    grey = texture()
    assert image_motion(grey[:, :160].copy(), grey[:, 8:168].copy()) == pytest.approx(8 / 160, abs=0.005)
    assert image_motion(grey[:, :160].copy(), texture(1)[:, :160].copy()) is None
    assert image_motion(np.zeros((50, 50), np.uint8), np.zeros((50, 50), np.uint8)) == 0


def test_blur_is_less_sharp():
    assert sharpness(shot(0)[:, :, 0]) > 3 * sharpness(shot(0, blur=3)[:, :, 0])


def test_a_few_photos_are_all_taken_of_any_size_and_the_blurred_is_named(tmp_path):
    for number in range(5):
        save_image(tmp_path / f"{number}.png", shot(10 * number, blur=5 if number == 3 else 0)[: 100 + number])
    views = select_views(tmp_path)
    assert views.names == tuple(f"{number}.png" for number in range(5))
    assert views[4].shape == (104, 160, 3)
    assert [note for note in views.notes if "blurred" in note] == ["blurred: 3.png"]


def test_of_many_photos_the_sharp_ones_are_taken_evenly(tmp_path):
    for number in range(24):
        save_image(tmp_path / f"{number:02d}.png", shot(6 * number, blur=0 if number % 2 else 3))
    views = select_views(tmp_path, max_views=6)
    assert len(views) == 6
    assert all(number % 2 for number in views.numbers)
    steps = np.diff(views.numbers)
    assert steps.min() >= 2
    assert steps.max() <= 6
    assert views.paths[0].name == views.names[0]


def test_a_video_that_stands_still_and_then_moves(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "clip.mp4"), "w") as file:
        stream = file.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 160, 120, "yuv420p", 4_000_000
        for left in [0] * 20 + list(range(0, 200, 4)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(shot(left)), format="rgb24")
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    views = select_views(tmp_path / "clip.mp4", max_views=8)
    assert 5 <= len(views) <= 8
    assert sum(number < 20 for number in views.numbers) <= 1  # while nothing moves one frame is enough
    assert views[0].shape == (120, 160, 3)
    assert views.paths is None


def test_choose_takes_the_sharpest_of_each_stretch():
    sharp = np.array([1, 5, 1, 1, 7, 1, 9.0, 1])
    assert sharpest_per_segment(np.full(7, 0.1), sharp, 3, 0.1) == [1, 4, 6]
    assert sharpest_per_segment(np.zeros(7), sharp, 3, 0.1) == [6]


def test_bad_input(tmp_path):
    with pytest.raises(NbHelpersError):
        select_views(tmp_path)
    with pytest.raises(NbHelpersError, match="out of range"):
        select_views(tmp_path, max_views=1)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(NbHelpersError):
        select_views(tmp_path)
    save_image(tmp_path / "b.png", shot(0))
    views = select_views(tmp_path)
    assert views.names == ("b.png",)
    assert "a.png" in views.notes[0]
