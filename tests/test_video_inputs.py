"""What people hand in as a clip beside a folder and a sound video: arrays, globs, animations, odd or torn files."""

import pickle
import re
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image
from test_video import SIZE, decoded, picture, write_folder, write_video

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import save_image
from nbhelpers.core.video import Frames
from nbhelpers.core.video_file import FORMATS, check_format, missing_end, picture_warnings, to_rgb
from nbhelpers.core.video_stills import ClipChangedError

CUT = {  # file: codec, and the share of its bytes that is kept
    "cut.mkv": ("libx264", 0.6),
    "cut.webm": ("libvpx-vp9", 0.6),
    "cut.ts": ("libx264", 0.6),
    "cut.avi": ("mpeg4", 0.6),
    "cut.flv": ("libx264", 0.6),
    "fragments.mp4": ("libx264", 0.8),
}


def kinds(frames):
    return [problem.kind for problem in frames.problems]


def remux(path, target, seconds=0, **options):
    """The packets of a video in another container; ``seconds`` cuts the beginning off, as ``ffmpeg -ss -c copy``."""
    with av.open(str(path)) as source, av.open(str(target), "w", options=options) as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                shift = round(seconds / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                container.mux(packet)
    return target


# arrays, globs, animations


def test_arrays_are_a_clip():
    arrays = np.stack([picture(index) for index in range(4)])
    listed = [arrays[0], Image.fromarray(arrays[1]), arrays[2, :, :, 0], arrays[3]]
    for given in (arrays, list(arrays), tuple(arrays), [Image.fromarray(array) for array in arrays]):
        frames = Frames(given, start=1)
        assert (len(frames), frames.size, frames.fps, frames.paths) == (3, SIZE, None, None)
        assert all(np.array_equal(frame, array) for frame, array in zip(frames, arrays[1:], strict=True))
        assert frames.names[0] == "00001.png"
    assert np.array_equal(Frames(listed)[2][:, :, 1], arrays[2, :, :, 0])
    assert len(Frames(arrays[:, :, :, 0])) == 4  # grey
    assert Frames(arrays).signature == Frames(list(arrays)).signature != Frames(arrays[::-1]).signature
    assert np.array_equal(pickle.loads(pickle.dumps(Frames(arrays)))[3], arrays[3])
    assert arrays.flags.writeable
    palette = Image.fromarray(arrays[0]).convert("P")
    assert np.abs(Frames([palette])[0].astype(int) - arrays[0]).mean() < 20


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (np.zeros((2, 4, 4, 3)), "not an image"),
        (np.zeros((4, 4, 3), np.uint8), r"not a clip[\s\S]*\[image\]"),
        ([np.zeros((4, 4, 3), np.uint8), "a.png"], "not a clip"),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)], "differ in size"),
        (np.zeros((0, 4, 4, 3), np.uint8), "no frames"),
        ([7], r"not a clip[\s\S]*int"),
        ([], "no pictures"),
    ],
)
def test_what_is_no_clip_is_one_clear_error(clip, message):
    with pytest.raises(NbHelpersError, match=message):
        Frames(clip)


def test_globs_and_numbered_names_are_read(tmp_path):
    folder = write_folder(tmp_path / "shot [v2]", [f"a.{index:04d}.png" for index in (1, 2, 10)] + ["b.0003.png"])
    for name in ("a.*.png", "a.%04d.png", "a.%d.png", "a.####.png"):
        frames = Frames(f"{folder}/{name}")
        assert frames.names == ["a.0001.png", "a.0002.png", "a.0010.png"]
        assert np.array_equal(frames[2], picture(2))
    assert len(Frames(tmp_path / "*" / "*.png")) == 4
    video = write_video(tmp_path / "take.mp4", 3)
    assert len(Frames(tmp_path / "*.mp4")) == 3
    video.rename(tmp_path / "a %04d ü#.mp4")
    assert len(Frames(tmp_path / "a %04d ü#.mp4")) == 3
    for wrong in (folder / "*.jpg", folder / "c.%04d.png", tmp_path / "none" / "*.png"):
        with pytest.raises(NbHelpersError, match="no such file"):
            Frames(wrong)
    write_video(tmp_path / "second.mp4", 3)
    with pytest.raises(NbHelpersError, match="one video at a time"):
        Frames(tmp_path / "*.mp4")


def test_a_name_with_a_colon_and_one_below_home_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.mp4", 3).rename("take:1.mp4")
    assert len(Frames("take:1.mp4")) == 3
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(Frames("~/take:1.mp4")) == 3


@pytest.mark.parametrize(
    ("url", "command"),
    [
        ("https://example.org/a/clip.mp4?x=1", 'curl -LO "https://example.org/a/clip.mp4?x=1"'),
        ("https://example.org/watch?v=1", 'yt-dlp "https://example.org/watch?v=1"'),
        ("s3://bucket/clip.mov", 'curl -LO "s3://bucket/clip.mov"'),
    ],
)
def test_a_url_is_refused_with_the_command_that_downloads_it(url, command):
    with pytest.raises(NbHelpersError, match=re.escape(command)):
        Frames(url)


def test_the_same_frames_in_two_formats_are_refused_with_the_choice(tmp_path):
    write_folder(tmp_path, ["0000.jpg", "0000.png", "0001.jpg", "0001.png"])
    with pytest.raises(NbHelpersError, match=r"0000\.jpg and 0000\.png[\s\S]*pattern='\*\.jpg' or pattern='\*\.png'"):
        Frames(tmp_path)
    with pytest.raises(NbHelpersError, match="several formats"):
        Frames(tmp_path / "*")
    assert Frames(tmp_path, pattern="*.png").names == Frames(tmp_path / "*.png").names == ["0000.png", "0001.png"]
    assert len(Frames([tmp_path / "0000.jpg", tmp_path / "0000.png"])) == 2  # who lists them wants them
    for index in range(2):
        (tmp_path / f"000{index}.png").rename(tmp_path / f"000{index}.jpg.png")  # masks as COLMAP names them
    with pytest.raises(NbHelpersError, match=r"0000\.jpg and 0000\.jpg\.png"):
        Frames(tmp_path)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png", ".tif"])
def test_an_animation_gives_all_its_pictures(tmp_path, suffix):
    drawn = [Image.fromarray(picture(index)).convert("P" if suffix == ".gif" else "RGB") for index in range(6)]
    path, times = tmp_path / f"clip{suffix}", [100, 100, 100, 300, 100, 100]
    drawn[0].save(
        path, save_all=True, append_images=drawn[1:], duration=times, **{"lossless": True} if suffix == ".webp" else {}
    )
    frames = Frames(path)
    assert (len(frames), frames.size) == (6, SIZE)
    for index in (5, 0, 3, 3, 2, 4, 1):  # in any order
        assert np.array_equal(frames[index], np.array(drawn[index].convert("RGB"))), index
    assert frames.rate == (None if suffix == ".tif" else Fraction(15, 2))
    if suffix != ".tif":
        stamps, tick = frames.stamps
        assert (stamps * tick).tolist() == [Fraction(n, 10) for n in (0, 1, 2, 3, 6, 7)]
        assert kinds(frames) == ["rate"] and Frames(path, stop=3).problems == []  # which are shown equally long
    assert np.array_equal(pickle.loads(pickle.dumps(frames))[4], frames[4])
    assert all(np.array_equal(frames[index], Frames(path)[index]) for index in reversed(range(6)))
    signature = frames.signature
    drawn[0].save(path, save_all=True, append_images=drawn[1:5], duration=40)
    assert Frames(path).signature != signature
    assert suffix == ".tif" or (Frames(path).fps == 25 and Frames(path).problems == [])
    frames._renew()  # its cache
    with pytest.raises(ClipChangedError, match="changed"):
        frames[0]


def test_a_photo_with_a_thumbnail_and_an_animation_among_stills_are_one_frame_each(tmp_path):
    big, small = Image.fromarray(picture(1)), Image.fromarray(picture(1, (12, 16)))
    big.save(tmp_path / "photo.tif", save_all=True, append_images=[small])
    assert np.array_equal(Frames(tmp_path / "photo.tif")[0], picture(1))
    folder = write_folder(tmp_path / "clip", ["0.png", "2.png"])
    big.save(folder / "1.webp", save_all=True, append_images=[Image.fromarray(picture(2))], lossless=True)
    frames = Frames(folder)
    assert len(frames) == 3
    assert kinds(frames) == ["animation"]
    assert "1.webp holds 2 pictures" in str(frames.problems[0])


def test_a_torn_animation_is_told(tmp_path):
    path = tmp_path / "clip.webp"
    drawn = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (*SIZE, 3), dtype=np.uint8)) for i in range(4)]
    drawn[0].save(path.with_suffix(".gif"), save_all=True, append_images=drawn[1:], duration=40)
    data = path.with_suffix(".gif").read_bytes()
    path.with_suffix(".gif").write_bytes(data[: len(data) * 5 // 8])
    with pytest.raises(NbHelpersError, match="cannot be read"):
        list(Frames(path.with_suffix(".gif")))


# torn files


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    for name, (codec, _) in CUT.items():
        write_video(folder / name.replace("fragments", "plain"), 24, codec, options={"g": "12"}, size=(96, 128))
    remux(folder / "plain.mp4", folder / "fragments.mp4", movflags="frag_keyframe+empty_moov")
    return folder


@pytest.mark.parametrize("name", CUT)
def test_a_cut_off_video_of_any_container_is_told(name, whole, tmp_path):
    assert "cut off" not in kinds(Frames(whole / name))
    data, path = (whole / name).read_bytes(), tmp_path / name
    path.write_bytes(data[: int(len(data) * CUT[name][1]) - 1])
    frames = Frames(path, on_bad="hold")
    assert 4 < len(frames) < 24
    assert "cut off" in kinds(frames)


def test_a_live_recording_is_judged_by_what_is_in_it(whole, tmp_path):
    path = remux(whole / "cut.mkv", tmp_path / "live.mkv", live="1")
    assert missing_end(path) is None
    path.write_bytes(path.read_bytes()[:-50])
    assert "promises" in missing_end(path)


def test_what_stands_behind_the_last_box_is_no_harm(whole, tmp_path):
    path = tmp_path / "camera.mp4"
    path.write_bytes((whole / "plain.mp4").read_bytes() + b"\x7f\xff\xff\xff\x01\x02\x03\x04 what a camera adds")
    assert missing_end(path) is None


def test_a_video_of_which_no_frame_is_whole_is_refused(tmp_path):
    path = remux(write_video(tmp_path / "plain.mp4", 12), tmp_path / "cut.mp4", movflags="faststart")
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 20])
    with pytest.raises(NbHelpersError, match="no frame that can be decoded"):
        Frames(path)


def write_sound(path, codec):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="flt", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def test_sound_with_or_without_a_cover_is_no_clip(tmp_path):
    with pytest.raises(NbHelpersError, match="holds no video"):
        Frames(write_sound(tmp_path / "sound.mp4", "aac"))
    body = b"\0image/jpeg\0\x03\0" + save_image(tmp_path / "cover.jpg", picture(1)).read_bytes()
    frame = b"APIC" + len(body).to_bytes(4, "big") + b"\0\0" + body
    tag = b"ID3\x03\0\0" + bytes((len(frame) >> shift) & 127 for shift in (21, 14, 7, 0)) + frame
    sound = write_sound(tmp_path / "sound.mp3", "mp3")
    sound.write_bytes(tag + sound.read_bytes())
    with pytest.raises(NbHelpersError, match="cover"):
        Frames(sound)


# files that change while they are read


def test_a_clip_that_is_replaced_or_deleted_while_it_is_read_is_told(tmp_path):
    video, other = write_video(tmp_path / "clip.mp4"), write_video(tmp_path / "other.mp4", 40, size=(96, 128))
    folder = write_folder(tmp_path / "clip", [f"{index}.png" for index in range(6)])
    for on_bad in ("error", "hold"):  # held frames would hide it
        for path, file, new in ((video, video, other), (folder, folder / "4.png", folder / "5.png")):
            kept = file.read_bytes()
            frames = Frames(path, cache_bytes=0, on_bad=on_bad)
            assert np.array_equal(frames[2], Frames(path)[2])
            file.write_bytes(new.read_bytes())
            with pytest.raises(ClipChangedError, match=r"changed[\s\S]*open the clip again"):
                frames[4]
            file.unlink()
            with pytest.raises(ClipChangedError, match="gone"):
                frames[4]
            file.write_bytes(kept)


# time and pixels


def test_an_edit_list_hides_what_players_hide(tmp_path):
    """A clip that a phone trimmed starts behind its key frame; ``ffmpeg -ss 0.2 -c copy`` writes the same."""
    trimmed = remux(write_video(tmp_path / "clip.mp4", 40), tmp_path / "trimmed.mp4", seconds=0.2)
    shown = decoded(trimmed)
    assert len(shown) < 40
    frames = Frames(trimmed, cache_bytes=0)
    assert len(frames) == len(shown)
    for index in (len(shown) - 1, 0, 7, 6, 20):
        assert np.array_equal(frames[index], shown[index]), index
    assert np.argmin([np.abs(frames[0].astype(int) - picture(index)).mean() for index in range(12)]) == 5


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(60000, 1001), Fraction(25)])
@pytest.mark.parametrize("suffix", [".mov", ".mkv"])
def test_rates_are_exact(rate, suffix, tmp_path):
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for index in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index), format="rgb24")))
        container.mux(stream.encode())
    assert Frames(path).rate == rate
    assert Frames(path, step=4).rate == rate / 4
    assert Frames(path).stamps is None


def colours():
    """Four fields of colour, ``(32, 64, 3)``."""
    fields = [(200, 60, 40), (30, 180, 90), (250, 250, 250), (20, 30, 160)]
    return np.repeat(np.repeat(np.array([fields], np.uint8), 32, 0), 16, 1)


@pytest.mark.filterwarnings("ignore")
def test_every_pixel_format_that_is_allowed_is_converted_rightly():
    allowed = [name for name in sorted(av.video.format.names) if FORMATS.fullmatch(name)]
    assert len(allowed) > 170
    assert not {name for name in allowed if "f16" in name or "f32" in name or "bayer" in name}
    wanted = colours().astype(int)
    for name in allowed:
        if name in ("pal8", "xyz12le"):  # nothing converts to palettes; the animations above are read from them
            continue
        try:
            frame = av.VideoFrame.from_ndarray(colours(), format="rgb24").reformat(format=name)
        except OSError as error:
            raise AssertionError(name) from error
        found, right = to_rgb(frame, None).astype(int)[16, 8::16], wanted[16, 8::16]
        if name.startswith(("gray", "ya")):
            right = np.repeat((right @ [0.299, 0.587, 0.114])[:, None], 3, 1)
        if name.startswith("mono"):
            continue
        assert np.abs(found - right).max() <= (9 if "5le" in name else 6), name


def test_other_pixel_formats_are_refused_with_the_command_that_converts_them(tmp_path):
    frame = av.VideoFrame.from_ndarray(np.zeros((8, 8), np.float32), format="grayf32le")
    with pytest.raises(NbHelpersError, match=r"grayf32le[\s\S]*ffmpeg -i"):
        check_format(frame, tmp_path / "clip.mov")


MATRICES = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087)}
MATRICES |= {9: (0.2627, 0.0593)}


def coded(matrix, full, bits, sub):
    """`colours` as a frame of YUV, coded by ITU-T H.273's formulas."""
    red, green, blue = np.moveaxis(colours() / 255, 2, 0)
    kr, kb = MATRICES[matrix]
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    planes = [luma, (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)]
    frame = av.VideoFrame(64, 32, f"yuv{sub}p" + ("" if bits == 8 else f"{bits}le"))
    for number, plane in enumerate(planes):
        scale, low = (
            (2**bits - 1, 0) if full else ((219 if number == 0 else 224) * 2 ** (bits - 8), 16 * 2 ** (bits - 8))
        )
        levels = np.round(plane * scale + (2 ** (bits - 1) if number else low))
        levels = levels.astype(np.uint8 if bits == 8 else np.uint16)
        if number and sub != "444":
            levels = levels[:: 2 if sub == "420" else 1, ::2]
        rows = np.zeros((frame.planes[number].height, frame.planes[number].line_size), np.uint8)
        raw = np.ascontiguousarray(levels).view(np.uint8)
        rows[:, : raw.shape[1]] = raw
        frame.planes[number].update(rows.tobytes())
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    return frame


@pytest.mark.parametrize("matrix", MATRICES)
def test_matrix_range_depth_and_sampling_are_heeded(matrix):
    for full in (False, True):
        for bits, sub in ((8, "420"), (8, "444"), (10, "420"), (10, "422"), (10, "444"), (12, "444")):
            found = to_rgb(coded(matrix, full, bits, sub), None).astype(int)
            assert np.abs(found - colours())[16, 8::16].max() <= 3, (full, bits, sub)


@pytest.mark.parametrize(
    ("attributes", "aspect", "kind", "text"),
    [
        ({"color_trc": 16}, None, "colour", "HDR"),
        ({"color_trc": 18}, None, "colour", "HDR"),
        ({"color_trc": 1, "color_primaries": 9}, None, "colour", "wide gamut"),
        ({"color_trc": 13, "color_primaries": 12}, None, "colour", "wide gamut"),
        ({"colorspace": 14}, None, "colour", "matrix 14"),
        ({"colorspace": 10}, None, "colour", "matrix 10"),
        ({}, Fraction(64, 45), "pixels", "64/45"),
    ],
)
def test_what_is_not_converted_is_told(attributes, aspect, kind, text):
    frame = coded(1, False, 10, "420")
    assert picture_warnings(frame, Fraction(1), None) == []
    for name, value in attributes.items():
        setattr(frame, name, value)
    [(found, told)] = picture_warnings(frame, aspect, None)
    assert found == kind
    assert text in told


def test_an_odd_angle_an_unknown_matrix_and_transparency_are_told(tmp_path):
    turn = np.array([[1.0, 1.0], [-1.0, 1.0]])
    assert picture_warnings(coded(1, False, 8, "420"), None, turn)[0][0] == "pixels"
    large = av.VideoFrame(1280, 720, "yuv420p")
    assert [kind for kind, _ in picture_warnings(large, None, None)] == ["colour"]
    clear = np.dstack([picture(0), np.full(SIZE, 255, np.uint8)])
    assert picture_warnings(av.VideoFrame.from_ndarray(clear, format="rgba"), None, None) == []
    clear[5, 5, 3] = 0
    assert [kind for kind, _ in picture_warnings(av.VideoFrame.from_ndarray(clear, format="rgba"), None, None)] == [
        "alpha"
    ]
