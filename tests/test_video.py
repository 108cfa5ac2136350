"""Clips as lazy sequences: folders of every kind of picture, video files of many codecs, and damage to both."""

import contextlib
import gc
import os
import pickle
import shutil
import struct
import threading
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import natural_key, replacing
from nbhelpers.core.images import load_image, save_image
from nbhelpers.core.video import Frames, extract_frames, find_cuts, fold_wrap, wrap_columns
from nbhelpers.core.video_stills import gaps
from nbhelpers.models.protocols import FrameSequence
from nbhelpers.weights import sample

SIZE = (48, 64)
KINDS = {  # file: codec, pixel format, encoder options
    "two_b_frames.mp4": ("libx264", "yuv420p", {"g": "12", "bf": "2"}),
    "open_gop.mkv": ("libx264", "yuv420p", {"x264-params": "keyint=8:open-gop=1:bframes=3"}),
    "intra_refresh.mp4": ("libx264", "yuv420p", {"x264-params": "intra-refresh=1:keyint=10:bframes=0"}),
    "one_key_frame.mp4": ("libx265", "yuv420p", {"x265-params": "keyint=250:log-level=none"}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"g": "10"}),
    "mpeg4_b.avi": ("mpeg4", "yuv420p", {"g": "10", "bf": "2"}),
    "intra.mov": ("prores_ks", "yuv422p10le", {}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"g": "16", "lag-in-frames": "10", "auto-alt-ref": "1"}),
    "av1.mp4": ("libsvtav1", "yuv420p", {"g": "15"}),
    "plain.h264": ("libx264", "yuv420p", {"g": "12", "bf": "2"}),
    "transport.ts": ("libx264", "yuv420p", {"g": "12", "bf": "2"}),
}


def picture(index, size=SIZE):
    """A frame that is told from every other: moving bars and a number in its brightness."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    red = (columns + 3 * index) % 64 * 4
    return np.stack([red, rows * 5 % 256, np.full(size, index * 5 % 256)], axis=2).astype(np.uint8)


@contextlib.contextmanager
def priority_kept():
    """Run by root, SVT-AV1 makes the thread that calls it a real-time one (SCHED_FIFO, 99), and leaves it so.

    Whatever the tests started afterwards, notebooks and browsers, would inherit that and starve all others.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def write_video(path, count=40, codec="libx264", format="yuv420p", options=None, times=None, size=SIZE):
    with priority_kept(), av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {"g": "12", "bf": "2"})
        stream.height, stream.width, stream.pix_fmt = *size, format
        if codec == "mpeg4":
            stream.bit_rate = 4_000_000
        stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(picture(index, size), format="rgb24").reformat(format=format)
            frame.time_base, frame.pts = Fraction(1, 1000), 40 * index if times is None else times[index]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def decoded(path):
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def write_folder(folder, names, size=SIZE):
    folder.mkdir(exist_ok=True)
    for index, name in enumerate(names):
        save_image(folder / name, picture(index, size))
    return folder


def packets(path):
    with av.open(str(path)) as container:
        return [(p.pts, p.pos, p.size) for p in container.demux(video=0) if p.size]


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "clip", [f"frame_{index}.png" for index in range(12)])


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4")


# folders


def test_a_folder_is_read_in_natural_order_whatever_is_in_it(tmp_path):
    names = ["a10.jpg", "a2.PNG", "A1.tif", "b.webp", ".hidden.png", "._a3.jpg"]
    write_folder(tmp_path, names)
    for other in ("notes.txt", "Thumbs.db", "noending"):
        (tmp_path / other).write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    frames = Frames(tmp_path)
    assert isinstance(frames, FrameSequence)
    assert frames.names == ["A1.tif", "a2.PNG", "a10.jpg", "b.webp"]
    assert frames.paths == [tmp_path / name for name in frames.names]
    assert (len(frames), frames.size, frames.fps) == (4, SIZE, None)
    assert np.array_equal(frames[1], picture(1))
    assert np.array_equal(frames[-4], picture(2))
    assert Frames(tmp_path, pattern="a*.jpg").names == ["a10.jpg"]
    assert Frames([tmp_path / "b.webp", tmp_path / "A1.tif"]).names == ["b.webp", "A1.tif"]
    assert len(Frames(tmp_path / "a2.PNG")) == 1


def test_natural_order():
    names = ["f10", "f9", "F1", "f01b", "f1a", "g", "10", "9", "frame 2.5", "frame 2.10"]
    assert sorted(names, key=natural_key) == [
        "9", "10", "F1", "f1a", "f01b", "f9", "f10", "frame 2.5", "frame 2.10", "g",
    ]  # fmt: skip


def test_every_kind_of_picture_becomes_rgb(tmp_path):
    rgb = picture(3)
    grey = rgb[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "0_grey.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "1_grey16.tif")
    Image.fromarray(np.dstack([rgb, np.full(SIZE, 255, np.uint8)])).save(tmp_path / "2_alpha.png")
    Image.fromarray(np.dstack([rgb, np.zeros(SIZE, np.uint8)])).save(tmp_path / "3_clear.png")
    Image.fromarray(rgb).convert("P").save(tmp_path / "4_palette.gif")
    Image.fromarray(np.rot90(rgb).copy()).save(tmp_path / "5_turned.jpg", exif=_turned(6), quality=95)
    frames = Frames(tmp_path)
    assert [frame.shape for frame in frames] == [(*SIZE, 3)] * 6
    assert all(frame.dtype == np.uint8 for frame in frames)
    assert np.array_equal(frames[0], np.repeat(grey[:, :, None], 3, axis=2))
    assert np.array_equal(frames[1], frames[0])
    assert np.array_equal(frames[2], rgb)
    assert (frames[3] == 255).all()
    assert np.abs(frames[5].astype(int) - rgb).mean() < 12


def _turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_start_stop_step_and_parts(folder):
    frames = Frames(folder, start=2, stop=-1, step=3)
    assert frames.names == ["frame_2.png", "frame_5.png", "frame_8.png"]
    assert [int(frame[0, 0, 2]) // 5 for frame in frames] == [2, 5, 8]
    part = Frames(folder)[3:9:2]
    assert part.names == ["frame_3.png", "frame_5.png", "frame_7.png"]
    assert part[1:].names == ["frame_5.png", "frame_7.png"]
    whole = Frames(folder)
    assert whole[4:][0] is whole[4]
    with pytest.raises(IndexError, match="12 of 12"):
        whole[12]
    with pytest.raises(ValueError, match="read-only"):
        whole[0][:] = 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"step": 0}, "step"),
        ({"start": 50}, "no frame is left"),
        ({"start": 5, "stop": 5}, "no frame is left"),
        ({"on_bad": "ignore"}, "on_bad"),
        ({"on_size": "crop"}, "on_size"),
        ({"wrap": 65}, "columns"),
        ({"wrap": -1}, "columns"),
        ({"pattern": "*.jpg"}, "no pictures"),
    ],
)
def test_wrong_options_are_refused(folder, options, message):
    with pytest.raises(NbHelpersError, match=message):
        Frames(folder, **options)


def test_nothing_to_read(tmp_path):
    with pytest.raises(NbHelpersError, match="no pictures"):
        Frames(tmp_path)
    with pytest.raises(NbHelpersError, match="no such file"):
        Frames(tmp_path / "missing")
    with pytest.raises(NbHelpersError, match="no such file"):
        Frames(tmp_path / "missing.png")
    with pytest.raises(NbHelpersError, match="no such picture"):
        Frames([tmp_path / "missing.png"])
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(NbHelpersError, match="empty"):
        Frames(tmp_path / "empty.mp4")
    (tmp_path / "text.mp4").write_text("not a video" * 100)
    with pytest.raises(NbHelpersError, match="cannot be read"):
        Frames(tmp_path / "text.mp4")


def test_mixed_sizes_are_named_left_out_or_resized(folder):
    for index in (4, 7):
        save_image(folder / f"frame_{index}.png", picture(index, (30, 40)))
    with pytest.raises(NbHelpersError, match=r"2 of 12: frame_4.png is 40 x 30, frame_7.png"):
        Frames(folder)
    left = Frames(folder, on_size="skip")
    assert len(left) == 10
    assert not {"frame_4.png", "frame_7.png"} & set(left.names)
    resized = Frames(folder, on_size="resize")
    assert [frame.shape for frame in resized] == [(*SIZE, 3)] * 12
    assert [problem.kind for problem in resized.problems] == ["size", "size"]
    assert str(left.problems[0]) == "frame_4.png is 40 x 30: left out"


@pytest.mark.parametrize("damage", ["empty", "header", "pixels"])
def test_a_corrupt_picture_is_named_skipped_or_held(folder, damage):
    bad = folder / "frame_5.png"
    bad.write_bytes({"empty": b"", "header": b"\x89PNG not really", "pixels": bad.read_bytes()[:-60]}[damage])
    with pytest.raises(NbHelpersError, match=r"frame_5\.png"):
        list(Frames(folder))
    skipped = Frames(folder, on_bad="skip")
    assert len(skipped) == 11
    assert [int(frame[0, 0, 2]) // 5 for frame in skipped] == [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11]
    held = Frames(folder, on_bad="hold")
    assert [int(frame[0, 0, 2]) // 5 for frame in held] == [0, 1, 2, 3, 4, 4, 6, 7, 8, 9, 10, 11]
    for frames in (skipped, held):
        assert [problem.kind for problem in frames.problems if "frame_5.png" in str(problem)][:1] != []
    first = folder / "frame_0.png"
    first.write_bytes(b"")
    assert int(Frames(folder, on_bad="hold")[0][0, 0, 2]) // 5 == 1
    for file in folder.iterdir():
        file.write_bytes(b"")
    for on_bad in ("hold", "skip"):
        with pytest.raises(NbHelpersError, match="no frame of the clip"):
            Frames(folder, on_bad=on_bad)


def test_gaps_are_told(folder):
    for index in (3, 4, 8):
        (folder / f"frame_{index}.png").unlink()
    assert [str(problem) for problem in Frames(folder).problems] == [
        "2 missing between frame_2.png and frame_5.png",
        "1 missing between frame_7.png and frame_9.png",
    ]
    assert gaps([f"x{index:04d}.jpg" for index in range(0, 100, 10)]) == []
    assert gaps(["a1.jpg", "b5.jpg", "c.jpg"]) == []


def test_mattes_beside_their_frames_are_no_frames(folder):
    for index in (2, 3):
        save_image(folder / f"frame_{index}_matte.png", picture(index, (20, 20)))
    save_image(folder / "other_matte.png", picture(0))
    assert Frames(folder).names == [*(f"frame_{index}.png" for index in range(12)), "other_matte.png"]


def test_the_signature_is_of_the_content(folder, tmp_path):
    signature = Frames(folder).signature
    shutil.copytree(folder, tmp_path / "copy")
    assert Frames(tmp_path / "copy").signature == signature
    assert Frames(folder, step=2).signature != signature
    assert Frames(folder, wrap=3).signature != signature
    save_image(tmp_path / "copy" / "frame_6.png", picture(77))
    assert Frames(tmp_path / "copy").signature != signature


# video files


@pytest.mark.parametrize("kind", KINDS)
def test_any_frame_of_a_video_is_the_one_that_playing_shows(tmp_path, kind):
    codec, format, options = KINDS[kind]
    path = write_video(tmp_path / kind, 40, codec, format, options)
    wanted = decoded(path)
    frames = Frames(path, cache_bytes=0)
    assert len(frames) == len(wanted) == 40
    assert frames.size == SIZE
    for index in (39, 0, 17, 18, 3, 30, 29, 28, 11, 12, 12, 38):
        assert np.array_equal(frames[index], wanted[index]), index
    assert all(np.array_equal(a, b) for a, b in zip(Frames(path), wanted, strict=True))
    cached = Frames(path)
    assert all(np.array_equal(cached[index], wanted[index]) for index in reversed(range(40)))
    for index in range(2, 38):  # coded with loss, but each is itself
        errors = [np.abs(wanted[index].astype(int) - picture(index + near)).mean() for near in range(-2, 3)]
        assert np.argmin(errors) == 2


def test_a_video_knows_its_rate_and_names(video):
    frames = Frames(video, start=10, step=2)
    assert (len(frames), frames.fps, frames.paths) == (15, 12.5, None)
    assert frames.names[:2] == ["00010.png", "00012.png"]
    assert frames.problems == []
    assert np.array_equal(frames[1], decoded(video)[12])
    assert frames.signature == Frames(video, start=10, step=2).signature != Frames(video).signature


def test_stepping_back_decodes_a_group_once(video, monkeypatch):
    frames = Frames(video)
    seeks = []
    seek = type(frames._source)._seek
    monkeypatch.setattr(type(frames._source), "_seek", lambda self, *a: seeks.append(a) or seek(self, *a))
    for index in reversed(range(40)):
        frames[index]
    assert len(seeks) <= 8  # 40 frames, 4 groups


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, 1, -1, 0), lambda p: np.rot90(p, -1)),
        ((-1, 0, 0, -1), lambda p: np.rot90(p, 2)),
        ((0, -1, 1, 0), lambda p: np.rot90(p, 1)),
        ((-1, 0, 0, 1), np.fliplr),
        ((1, 0, 0, -1), np.flipud),
        ((0, 1, 1, 0), lambda p: p.transpose(1, 0, 2)),
    ],
)
def test_a_turned_video_is_turned_back(video, tmp_path, matrix, turn):
    data = bytearray(video.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (value * 65536 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path = tmp_path / "turned.mp4"
    path.write_bytes(data)
    frames = Frames(path)
    wanted = turn(decoded(video)[20])
    assert frames.size == wanted.shape[:2]
    assert np.array_equal(frames[20], wanted)


def test_a_varying_frame_rate_is_told_and_every_frame_is_there(tmp_path):
    times = np.cumsum(np.resize([40, 20, 90, 40], 30)).tolist()
    path = write_video(tmp_path / "varying.mp4", 30, times=times)
    frames = Frames(path)
    assert len(frames) == 30
    assert [problem.kind for problem in frames.problems] == ["rate"]
    wanted = decoded(path)
    assert all(np.array_equal(frames[index], wanted[index]) for index in (29, 4, 15))


def test_a_rate_that_varies_outside_the_chosen_frames_is_no_warning(tmp_path):
    times = np.cumsum([*[40] * 12, *np.resize([40, 20, 90, 40], 18)]).tolist()
    path = write_video(tmp_path / "varying.mp4", 30, times=times)
    assert [problem.kind for problem in Frames(path).problems] == ["rate"]
    assert Frames(path, stop=12).problems == [] and Frames(path, stop=12, step=3).problems == []
    assert [problem.kind for problem in Frames(path, start=8).problems] == ["rate"]


def test_frames_that_are_stamped_in_the_order_of_packing_come_in_the_order_of_showing(video, tmp_path):
    odd = tmp_path / "odd.mp4"
    with av.open(str(video)) as source, av.open(str(odd), "w") as target:
        stream, first = target.add_stream_from_template(source.streams.video[0]), None
        for packet in source.demux(video=0):
            if packet.size:
                first = packet.dts if first is None else first
                packet.pts = packet.dts = packet.dts - first
                packet.stream = stream
                target.mux(packet)
    shown, frames = decoded(video), Frames(odd)
    assert len(frames) == len(shown)
    for index in (0, 1, 2, 17, 5, 39):
        assert np.array_equal(frames[index], shown[index])
    assert any("time stamps" in problem.text for problem in frames.problems)


def test_a_cut_off_video_gives_what_is_there_or_a_clear_error(tmp_path):
    path = write_video(tmp_path / "whole.mp4")
    wanted, data = decoded(path), path.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 2])  # its index stood at the end
    with pytest.raises(NbHelpersError, match="cut off"):
        Frames(cut)
    with av.open(str(path)) as source, av.open(str(cut), "w", options={"movflags": "faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    cut.write_bytes(cut.read_bytes()[: -len(data) // 3])
    frames = Frames(cut, on_bad="hold")
    assert 15 < len(frames) < 40
    assert frames.problems[0].kind == "cut off"
    assert "40 frames" in str(frames.problems[0])
    good = len(frames) - 4
    assert all(np.array_equal(frames[index], wanted[index]) for index in (good, 3, 12))
    assert len(list(frames)) == len(frames)


@pytest.fixture
def damaged(video, tmp_path):
    """The clip with one packet destroyed, that of a frame that no other builds on; and that frame's number."""
    data, rng = bytearray(video.read_bytes()), np.random.default_rng(0)
    wanted = decoded(video)
    path = tmp_path / "damaged.mp4"
    for pts, position, size in packets(video)[14:]:
        spoilt = data.copy()
        spoilt[position + 4 : position + size] = rng.integers(0, 256, size - 4, dtype=np.uint8).tobytes()
        path.write_bytes(spoilt)
        number = sorted(p for p, _, _ in packets(video)).index(pts)
        with av.open(str(path)) as container:
            shown = {}
            for packet in container.demux(video=0):
                try:
                    shown |= {frame.pts: frame.to_ndarray(format="rgb24") for frame in packet.decode()}
                except av.error.FFmpegError:
                    continue
        order = sorted(p for p, _, _ in packets(video))
        if (
            pts not in shown
            and len(shown) == 39
            and all(np.array_equal(shown[p], wanted[order.index(p)]) for p in shown)
        ):
            return path, number, wanted
    raise AssertionError("no packet could be spoilt alone")


def test_a_corrupt_frame_of_a_video_is_named_skipped_or_held(damaged):
    path, bad, wanted = damaged
    frames = Frames(path)
    assert len(frames) == 40
    with pytest.raises(NbHelpersError, match=f"{bad:05d}"):
        frames[bad]
    assert np.array_equal(frames[bad + 1], wanted[bad + 1])
    assert np.array_equal(frames[bad - 1], wanted[bad - 1])
    skipped = Frames(path, on_bad="skip")
    assert len(skipped) == 39
    assert np.array_equal(skipped[bad], wanted[bad + 1])
    held = Frames(path, on_bad="hold")
    assert np.array_equal(held[bad], wanted[bad - 1])
    assert [problem.kind for problem in held.problems] == ["corrupt"]
    assert all(np.array_equal(held[i], wanted[i]) for i in range(40) if i != bad)


def test_a_key_frame_that_is_gone_costs_only_what_builds_on_it(video, tmp_path):
    data = bytearray(video.read_bytes())
    _, position, size = packets(video)[12]
    data[position + 4 : position + size] = bytes(size - 4)
    path = tmp_path / "no_key.mp4"
    path.write_bytes(data)
    frames, wanted = Frames(path, on_bad="hold"), decoded(video)
    assert len(frames) == 40
    for index in (0, 5, 10, 24, 30, 39):
        assert np.array_equal(frames[index], wanted[index]), index


# both


def test_memory_is_bounded(folder, video):
    one = 3 * SIZE[0] * SIZE[1]
    for path in (folder, video):
        frames = Frames(path, cache_bytes=5 * one)
        for index in (*range(len(frames)), *reversed(range(len(frames)))):
            frames[index]
            assert sum(kept.nbytes for kept in frames._cache.values()) <= 5 * one
        small = Frames(path, cache_bytes=1)
        assert small[3] is small[3]  # the latest is kept whatever its size


def test_a_decoded_frame_is_freed_at_once(video):
    frames = Frames(video, cache_bytes=1)
    gc.collect()
    gc.disable()
    try:
        for index in range(40):
            frames[index]
        assert sum(type(thing) is av.VideoFrame for thing in gc.get_objects()) < 12  # what the decoder's threads hold
    finally:
        gc.enable()


def test_a_clip_can_be_sent_to_another_process_and_read_by_threads(folder, video):
    for path in (folder, video):
        frames = Frames(path, wrap=4)
        wanted = [frame.copy() for frame in frames]
        sent = pickle.loads(pickle.dumps(frames))
        assert len(pickle.dumps(frames)) < 20_000
        assert np.array_equal(sent[7], wanted[7])
        assert sent.signature == frames.signature
        wrong = []

        def read(seed, shared, wanted=wanted, wrong=wrong):
            for index in np.random.default_rng(seed).integers(0, len(shared), 15).tolist():
                if not np.array_equal(shared[index], wanted[index]):
                    wrong.append(index)

        shared = Frames(path, wrap=4, cache_bytes=0)
        threads = [threading.Thread(target=read, args=(seed, shared)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_the_seam_is_wrapped_and_masks_fold_back(folder):
    frames = Frames(folder, wrap=10)
    assert frames.size == (48, 84)
    assert np.array_equal(frames[2][:, 10:74], picture(2))
    assert np.array_equal(frames[2][:, :10], picture(2)[:, 54:])
    assert np.array_equal(frames[2][:, 74:], picture(2)[:, :10])
    across = np.zeros(frames.size, bool)
    across[5, 70:80] = True  # four columns before the seam, six behind it
    folded = fold_wrap(across, 10)
    assert np.flatnonzero(folded[5]).tolist() == [0, 1, 2, 3, 4, 5, 60, 61, 62, 63]
    assert np.array_equal(fold_wrap(wrap_columns(folded[..., None].view(np.uint8), 10)[..., 0].view(bool), 10), folded)
    assert fold_wrap(folded, 0) is folded
    with pytest.raises(NbHelpersError, match="not of a picture wrapped"):
        fold_wrap(np.zeros((4, 20), bool), 10)


def test_extract_writes_numbered_frames_and_goes_on(video, tmp_path, monkeypatch):
    frames, target = Frames(video, step=4), tmp_path / "out"
    done = []
    with pytest.raises(KeyboardInterrupt):
        extract_frames(frames, target, progress=lambda index: done.append(index) or (index == 5 and _stop()))
    files = sorted(file.name for file in target.glob("[0-9]*"))
    assert files == [f"{index:05d}.png" for index in range(6)]
    stamp = (target / "00002.png").stat().st_mtime_ns
    paths = extract_frames(frames, target)
    assert [path.name for path in paths] == [f"{index:05d}.png" for index in range(10)]
    assert (target / "00002.png").stat().st_mtime_ns == stamp
    assert all(np.array_equal(load_image(path), frame) for path, frame in zip(paths, frames, strict=True))
    again = Frames(target)
    assert len(again) == 10
    with pytest.raises(NbHelpersError, match="another clip"):
        extract_frames(Frames(video, step=5), target)
    other = write_folder(tmp_path / "other", ["00003.png"])
    with pytest.raises(NbHelpersError, match="nothing is overwritten"):
        extract_frames(frames, other)
    assert len(list(other.iterdir())) == 1
    with pytest.raises(NbHelpersError, match="cannot be written so"):
        extract_frames(frames, tmp_path / "x", suffix=".exr")
    assert extract_frames(frames[:2], tmp_path / "jpg", suffix=".jpg", first=100)[1].name == "00101.jpg"


def _stop():
    raise KeyboardInterrupt


def test_cuts_are_found_and_fast_motion_is_none(tmp_path):
    rng = np.random.default_rng(0)
    scenes = [rng.integers(0, 255, (3, 4, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1) for _ in range(3)]
    clip = [np.roll(scenes[number], 2 * step, axis=1) for number in range(3) for step in range(20)]
    assert find_cuts(clip) == [20, 40]
    assert find_cuts(clip[:20]) == []
    assert find_cuts(clip[:1]) == []
    assert find_cuts([scenes[0], scenes[1]]) == [1]
    flash = [
        np.minimum(255, frame.astype(int) + (60 if 9 <= i <= 14 else 0)).astype(np.uint8)
        for i, frame in enumerate(clip[:20])
    ]
    assert find_cuts(flash) in ([], [9, 15])


@pytest.mark.weights("bikes.mp4")
def test_the_shots_of_a_real_clip():
    frames = Frames(sample("bikes"))
    assert (len(frames), frames.size, frames.fps) == (250, (272, 640), 25)
    assert find_cuts(frames) == [30, 76, 137, 187, 242]
    assert find_cuts(frames[76:137]) == []


def test_a_picture_of_a_damaged_replacement_is_never_seen(folder):
    """Frames that are being written have temporary hidden names."""
    with replacing(folder / "frame_99.png") as temporary:
        assert temporary.exists()
        assert len(Frames(folder)) == 12
