"""Videos and COCO of a clip, and their verifiers."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from test_video import picture
from test_video import write_video as write_clip

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.mattes import Mattes, MatteSettings
from nbhelpers.core.video import Frames
from nbhelpers.export.masks import sequence_to_coco, write_sequence_coco
from nbhelpers.export.verify import verify_sequence_coco, verify_video
from nbhelpers.export.video import Video, overlay_frame, side_by_side_frame, video_frames, write_video

STYLES = ["overlay", "side by side", "prores", "png", "webm"]


@pytest.fixture
def mask():
    rows, columns = np.mgrid[:120, :160]
    return (columns - 50) ** 2 + (rows - 60) ** 2 <= 25**2


@pytest.fixture
def mattes(photo, mask, tmp_path):
    folder = tmp_path / "footage"
    folder.mkdir()
    for number in range(4):
        Image.fromarray(np.roll(photo, 5 * number, 1)).save(folder / f"{number}.png")
    masks = [{1: np.roll(mask, 5 * number, 1)} for number in range(4)]
    masks[2][2] = np.roll(mask, 70, 1)
    return Mattes(Frames(folder), masks, MatteSettings(feather=3))


def name(style):
    suffix = {"prores": ".mov", "png": ".mov", "webm": ".webm"}.get(style, ".mp4")
    return f"{style.replace(' ', '_')}{suffix}"


@pytest.mark.parametrize("style", STYLES)
def test_a_video_is_what_players_expect_and_passes_its_verifier(style, mattes, tmp_path):
    video = Video(tmp_path / "out" / name(style), style, fps=23.976)
    seen = []
    assert write_video(video, mattes, progress=lambda *done: seen.append(done)) == video.path
    assert seen[-1] == (4, 4)
    with av.open(str(video.path)) as container:
        stream = container.streams.video[0]
        assert stream.frames == (0 if style == "webm" else 4)  # WebM does not count them
        assert stream.average_rate == Fraction(24000, 1001)
        about = stream.codec_context
        want = {"prores": "prores", "png": "png", "webm": "vp9"}.get(style, "h264")
        assert about.name == want
        assert (about.width, about.height) == ((320, 120) if style == "side by side" else (160, 120))
        if style == "prores":
            assert stream.profile == "4444" and about.pix_fmt.startswith("yuva444p") and about.codec_tag == "ap4h"
    assert verify_video(video, mattes).check().ok
    time = video.path.stat().st_mtime_ns
    assert write_video(video, mattes).stat().st_mtime_ns == time, "what is there is kept"


def test_png_in_mov_loses_nothing_and_prores_little(mattes, tmp_path):
    for style, most in (("png", 0), ("prores", 3)):
        video = Video(tmp_path / name(style), style)
        write_video(video, mattes)
        with av.open(str(video.path)) as container:
            for frame, right in zip(container.decode(video=0), video_frames(video, mattes), strict=True):
                alpha = frame.to_ndarray(format="rgba")[:, :, 3].astype(int)
                assert np.abs(alpha - right[:, :, 3]).mean() <= most
                if style == "png":
                    assert np.array_equal(frame.to_ndarray(), right)


def test_webm_has_the_alpha_of_the_mattes_in_another_decoder(mattes, tmp_path):
    video = Video(tmp_path / "a.webm", "webm")
    write_video(video, mattes)
    with av.open(str(video.path)) as container:
        stream, decoder = container.streams.video[0], av.CodecContext.create("libvpx-vp9", "r")
        assert stream.metadata["alpha_mode"] == "1"
        frames = [frame for packet in container.demux(stream) for frame in decoder.decode(packet)]
    assert len(frames) == 4
    for frame, right in zip(frames, video_frames(video, mattes), strict=True):
        found = frame.to_ndarray(format="rgba").astype(int)
        assert np.abs(found[:, :, 3] - right[:, :, 3]).mean() <= 2
        inside = right[:, :, 3] == 255
        assert np.abs(found[inside][:, :3] - right[inside][:, :3]).mean() <= 8
    moved = Mattes(mattes.frames, [{1: np.zeros((120, 160), bool)}] * 4)
    assert "alpha is not the frame's matte" in str(verify_video(video, moved))


def test_premultiplied_and_straight_differ(mattes, tmp_path):
    straight, black = Video(tmp_path / "s.mov", "png"), Video(tmp_path / "p.mov", "png", premultiplied=True)
    for video in (straight, black):
        write_video(video, mattes)
        assert verify_video(video, mattes).ok
    swapped = Video(straight.path, "png", premultiplied=True)
    with pytest.raises(NbHelpersError, match="colours are not those"):
        verify_video(swapped, mattes).check()


def test_odd_sides_and_large_frames_become_playable(photo, mask, tmp_path):
    class Odd:
        size, names, paths, fps = (119, 159), ["a"], None, 30

        def __len__(self):
            return 1

        def __getitem__(self, index):
            return photo[:119, :159]

    mattes = Mattes(Odd(), [mask[:119, :159]])
    video = Video(tmp_path / "odd.mp4", "overlay")
    write_video(video, mattes)
    assert verify_video(video, mattes).ok
    small = Video(tmp_path / "small.mp4", "side by side", longest=80)
    assert next(video_frames(small, mattes)).shape == (60, 160, 3)
    write_video(small, mattes)
    assert verify_video(small, mattes).ok


def test_overlay_tints_inside_only_and_the_board_shows_outside(photo, mask):
    matte = mask.astype(np.uint8) * 255
    tinted = overlay_frame(photo, {"disc": matte, "none": matte * 0})
    far = np.zeros_like(mask)
    far[:, 100:] = True
    assert np.array_equal(tinted[far], photo[far]) and not np.array_equal(tinted[60, 50], photo[60, 50])
    both = side_by_side_frame(photo, matte)
    assert np.array_equal(both[:, :160], photo) and np.array_equal(both[:, 160:][mask], photo[mask])
    assert set(both[:, 160:][~mask].ravel()) == {204, 150}


def test_broken_or_foreign_videos_are_found_out(mattes, mask, tmp_path):
    video = Video(tmp_path / "a.mov", "png")
    assert "missing" in str(verify_video(video, mattes))
    write_video(video, mattes)
    part = Mattes(mattes.frames[:3], [{1: np.roll(mask, 5 * n, 1)} for n in range(3)], MatteSettings(feather=3))
    inverse = Mattes(
        mattes.frames, [{1: np.roll(mask, 5 * n, 1)} for n in range(4)], MatteSettings(feather=3), invert=True
    )
    assert "polarity" in str(verify_video(video, inverse))
    moved = Mattes(mattes.frames, [mask] * 4, MatteSettings(feather=3))
    assert "frame 1: its alpha is not" in str(verify_video(video, moved))
    other = Video(tmp_path / "b.mov", "png")
    write_video(other, part)
    assert "ends after" in str(verify_video(other, mattes)) or "alpha" in str(verify_video(other, mattes))
    assert "codec is png" in str(verify_video(Video(video.path, "prores"), mattes))
    assert "frame rate is" in str(verify_video(Video(video.path, "png", fps=50), mattes))
    video.path.write_bytes(video.path.read_bytes()[:500])
    assert not verify_video(video, mattes).ok
    opaque = Video(tmp_path / "c.mp4", "overlay")
    write_video(opaque, mattes)
    (tmp_path / "d.mov").write_bytes(opaque.path.read_bytes())
    assert "codec is h264" in str(verify_video(Video(tmp_path / "d.mov", "prores"), mattes))


def test_videos_of_other_origin_are_never_overwritten(mattes, mask, tmp_path):
    video = Video(tmp_path / "a.mp4", "overlay")
    video.path.write_bytes(b"mine")
    with pytest.raises(NbHelpersError, match="did not write"):
        write_video(video, mattes, replace=True)
    assert video.path.read_bytes() == b"mine"
    video.path.unlink()
    write_video(video, mattes)
    other = Mattes(mattes.frames, [mask] * 4)
    with pytest.raises(NbHelpersError, match="replace=True"):
        write_video(video, other)
    write_video(video, other, replace=True)
    assert verify_video(video, other).ok


def test_a_cancelled_video_leaves_nothing(mattes, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(Video(tmp_path / "out" / "a.mp4", "overlay"), mattes, progress=stop)
    assert not list((tmp_path / "out").glob("*.mp4")) and not list((tmp_path / "out").glob(".*.mp4"))


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"path": "a.mov", "style": "overlay"}, "ends in .mp4"),
        ({"path": "a.mp4", "style": "prores"}, "ends in .mov"),
        ({"path": "a.mp4", "style": "overlay", "fps": -1.0}, "frame rate"),
        ({"path": "a.mp4", "style": "overlay", "longest": 3}, "too small"),
    ],
)
def test_videos_that_cannot_be_are_refused(given, match, tmp_path):
    with pytest.raises(NbHelpersError, match=match):
        Video(**{**given, "path": tmp_path / given["path"]})


@pytest.mark.parametrize(
    ("fps", "rate"),
    [
        (29.97, Fraction(30000, 1001)),
        (25.0, Fraction(25)),
        (1.0, Fraction(1)),
        (12.5, Fraction(25, 2)),
        (60.0, Fraction(60)),
    ],
)
def test_rates_are_exact(fps, rate, mattes, tmp_path):
    assert Video(tmp_path / "a.mp4", "overlay", fps=fps).rate(mattes) == rate


@pytest.mark.parametrize("style", STYLES)
def test_a_varying_rate_is_kept_frame_by_frame(style, tmp_path, monkeypatch):
    times = [0, 33, 67, 100, 233, 267, 300, 900]  # a phone that missed some frames
    clip = Frames(write_clip(tmp_path / "phone.mkv", 8, times=times))
    mattes = Mattes(clip, [{1: np.ones(clip.size, bool)}] * 8)
    monkeypatch.chdir(tmp_path)
    video = Video(Path(name(style).replace("_", ":")), style)  # a colon is no protocol
    write_video(video, mattes)
    stamps, tick = Frames(video.path).stamps
    assert [stamp * tick for stamp in stamps.tolist()] == [Fraction(time, 1000) for time in times]
    assert verify_video(video, mattes).check().ok
    constant = Video(tmp_path / f"constant_{name(style)}", style, fps=25)
    write_video(constant, mattes)
    assert Frames(constant.path).stamps is None
    assert verify_video(constant, mattes).check().ok
    constant.path.replace(video.path)
    assert "has another time than" in str(verify_video(video, mattes).mismatches[0])


@pytest.mark.parametrize("style", ["overlay", "prores"])
@pytest.mark.parametrize("step", [1, 4])
def test_the_rate_of_a_broadcast_clip_is_kept_exactly(style, step, tmp_path):
    path = tmp_path / "clip.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(24000, 1001))
        stream.height, stream.width, stream.pix_fmt = 47, 63, "yuv420p"  # odd sides, too
        for index in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index, (47, 63)), format="rgb24")))
        container.mux(stream.encode())
    clip = Frames(path, step=step)
    mattes = Mattes(clip, [{1: np.ones(clip.size, bool)}] * len(clip))
    video = Video(tmp_path / f"out_{name(style)}", style)
    write_video(video, mattes)
    assert Frames(video.path).rate == Fraction(24000, 1001) / step
    assert verify_video(video, mattes).check().ok


@pytest.mark.parametrize("style", STYLES)
def test_pixels_that_are_not_square_stay_so(style, tmp_path):
    path = tmp_path / "clip.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        stream.sample_aspect_ratio = Fraction(64, 45)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(0), format="rgb24")))
        container.mux(stream.encode())
    clip = Frames(path)
    assert clip.aspect == Fraction(64, 45)
    video = Video(tmp_path / f"out_{name(style)}", style)
    write_video(video, Mattes(clip, [{1: np.ones(clip.size, bool)}]))
    written = Frames(video.path)
    assert written.aspect == (1 if style == "webm" else Fraction(64, 45))
    assert written.size == {"webm": (48, 91), "side by side": (48, 128)}.get(style, clip.size)
    assert verify_video(video, Mattes(clip, [{1: np.ones(clip.size, bool)}])).check().ok


def test_coco_of_a_clip_keeps_objects_apart_and_numbers_them_alike(mattes, tmp_path):
    path = write_sequence_coco(tmp_path / "clip.json", mattes, {1: "walker"})
    data = json.loads(path.read_text())
    assert [image["file_name"] for image in data["images"]] == ["0.png", "1.png", "2.png", "3.png"]
    assert [category["name"] for category in data["categories"]] == ["walker", "2"]
    assert [(it["image_id"], it["track_id"]) for it in data["annotations"]] == [(1, 1), (2, 1), (3, 1), (3, 2), (4, 1)]
    assert [it["id"] for it in data["annotations"]] == [1, 2, 3, 4, 5]
    matte = mattes.make_each(2)[2]
    assert np.array_equal(coco_mask.decode(data["annotations"][3]["segmentation"]).astype(bool), matte > 127)
    assert verify_sequence_coco(path, mattes, {1: "walker"}).check().ok
    with pytest.raises(NbHelpersError, match="same name"):
        sequence_to_coco(mattes, {1: "a", 2: "a"})


def test_faults_in_a_coco_file_are_found(mattes, mask, tmp_path):
    path = write_sequence_coco(tmp_path / "clip.json", mattes)
    whole = json.loads(path.read_text())

    def told(change):
        data = json.loads(json.dumps(whole))
        change(data)
        path.write_text(json.dumps(data))
        return str(verify_sequence_coco(path, mattes))

    assert "3 frames of 4" in told(lambda data: data["images"].pop())
    assert "file name of frame 1" in told(lambda data: data["images"][1].update(file_name="x"))
    assert "height of frame 0" in told(lambda data: data["images"][0].update(height=5))
    assert "other objects" in told(lambda data: data["annotations"].pop())
    assert "not the clip's" in told(
        lambda data: data["annotations"][0].update(segmentation=whole["annotations"][1]["segmentation"])
    )
    assert "cannot be read" in told(lambda data: data.pop("images"))
    path.unlink()
    assert "missing" in str(verify_sequence_coco(path, mattes))
    path.write_text("mine")
    with pytest.raises(NbHelpersError, match="did not write"):
        write_sequence_coco(path, mattes, replace=True)
