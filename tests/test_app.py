"""The pages' jobs, visitors and server without a browser: what is kept, refused, resumed, and what nobody else sees."""

import errno
import re
import sys
import threading
import time
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from app_models import make_jobs, write_clip, write_samples
from fake_tracker import Clip
from page_models import without_networks

from nbhelpers.app import visits as visits_module
from nbhelpers.app.job import Workers
from nbhelpers.app.jobs import MATTES
from nbhelpers.app.server import Guard, Serving
from nbhelpers.app.visits import Visits, check_upload
from nbhelpers.app.words import plain
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image, save_image

SECONDS = 60


@pytest.fixture
def workers():
    made = Workers()
    yield made
    made.close()


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return write_samples(tmp_path_factory.mktemp("app") / "samples")


@pytest.fixture
def make(tmp_path, workers, monkeypatch, samples):
    """A job of a page; the same folder goes on."""
    monkeypatch.setattr("page_models.without_networks", lambda: without_networks(monkeypatch.setattr))
    made = make_jobs(samples, patch=monkeypatch.setattr)
    opened = []

    def job(page, folder=None):
        opened.append(made[page](folder or tmp_path / "work" / page, workers))
        return finished(opened[-1])

    job.samples = samples
    yield job
    for each in opened:
        each.close()


def finished(job):
    deadline = time.monotonic() + SECONDS
    while job.working:
        assert time.monotonic() < deadline, job.progress
        time.sleep(0.01)
    return job


def receive(visit, name, data):
    with visit.receiving(name, len(data)) as upload:
        upload.write(data)
    return upload.path


@pytest.fixture
def visits(tmp_path):
    return Visits(tmp_path / "visits")


@pytest.mark.parametrize("page", ["photo", "clip", "products", "multiview"])
def test_the_example_gives_a_result_and_a_zip_and_goes_on_in_another_process(make, page, tmp_path):
    job = make(page)
    job.open_example()
    finished(job)
    assert not job.notice.error and job.is_open, job.notice
    if page == "clip":
        job.formats = list(MATTES)
    job.pack()
    finished(job)
    archive = zipfile.ZipFile(job.download.path)
    names = archive.namelist()
    for name in names:  # nothing tells where the files lie on the server
        assert not any(str(place).encode() in archive.read(name) for place in (tmp_path, make.samples)), name
    wanted = {
        "photo": "_cutout.png",
        "clip": "00000.png",
        "products": "annotations.coco.json",
        "multiview": "results.csv",
    }
    assert any(name.endswith(wanted[page]) for name in names), names
    job.close()
    again = make(page)
    assert again.is_open and again.session is not None and not again.notice.error, again.notice
    session = again.session
    if page == "photo":
        assert session.masks()["disc"].any()
    elif page == "clip":
        assert [session.state(frame) for frame in range(12)] == ["prompted"] + ["tracked"] * 11
    elif page == "products":
        assert sum(result.status == "found" for result in session.results) == 4
    else:
        assert again.result is not None and again.phrase == "ball on the left"


def test_photos_keep_their_clicks_while_others_are_shown(make):
    job = make("photo")
    job.open([make.samples / "photo 0.png", make.samples / "photo 1.png"])
    finished(job).session.click(90, 110)
    job.show(1)
    finished(job).session.click(220, 140)
    job.show(0)
    assert finished(job).session.mask()[110, 90]
    job.pack()
    names = zipfile.ZipFile(finished(job).download.path).namelist()
    assert sum(name.endswith("_cutout.png") for name in names) == 2
    job.session.undo()
    assert job.download is None  # it is no longer what is shown


def test_stop_keeps_the_frames_that_were_followed_and_follow_goes_on(make):
    job = make("clip")
    frames = []
    job.on_change(lambda: frames.append(job.frame) or (job.frame == 3 and job.stop()))
    job.open_example()
    finished(job)
    states = [job.session.state(frame) for frame in range(12)]
    assert states[:4] == ["prompted", "tracked", "tracked", "tracked"] and states[-1] == "empty"
    assert "kept" in job.notice.text
    frames.clear()
    job._listeners.clear()
    job.follow()
    finished(job)
    assert job.session.state(11) == "tracked" and not job.notice.error


def test_a_clip_that_was_cut_off_is_followed_on(make):
    job = make("clip")
    job.on_change(lambda: job.frame == 3 and job.stop())
    job.open_example()
    finished(job)
    job.state["follow"] = True  # as a killed process leaves it
    job.save_state()
    job.close()
    assert make("clip").session.state(11) == "tracked"


def test_one_thing_at_a_time_and_the_first_is_not_lost(make):
    job, go_on = make("photo"), threading.Event()
    job.start("Long work", lambda: go_on.wait(SECONDS))
    job.start("Other work", lambda: pytest.fail("both at once"))
    assert job.notice.error and "Press Stop" in job.notice.text and job.working
    go_on.set()
    finished(job)


def test_a_bar_tells_the_fraction_and_the_time_left(make):
    job, seen = make("photo"), []

    def work():
        job._began -= 10
        for done in range(5):
            job.report(done, 4, "Working")
            seen.append(job.progress)

    job.start("Working", work)
    finished(job)
    assert [each.fraction for each in seen] == [0, 0.25, 0.5, 0.75, 1]
    assert seen[1].left == pytest.approx(30, rel=0.1) and seen[4].left == pytest.approx(0, abs=0.1)


@pytest.mark.parametrize(
    ("page", "files", "told"),
    [
        ("photo", [], "no photo"),
        ("photo", ["photo.png", "clip.mp4"], "one clip"),
        ("clip", ["clip.mp4", "photo.png"], "one clip"),
        ("multiview", ["clip.mp4", "photo.png"], "one clip"),
        ("products", ["clip.mp4"], "for photos"),
        ("clip", ["gone.mp4"], ""),
    ],
)
def test_what_cannot_be_opened_is_one_sentence_and_what_was_open_stays(make, page, files, told):
    job = make(page)
    job.open_example()
    session = finished(job).session
    job.open([make.samples / name for name in files])
    assert finished(job).notice.error and told in job.notice.text and job.session is session
    assert len(job.notice.text.splitlines()) == 1


@pytest.mark.parametrize("phrase", ["", "on the left", "zebra"])
def test_a_phrase_without_a_thing_is_told(make, phrase):
    job = make("multiview")
    job.open([make.samples / "scene" / f"view{number}.png" for number in range(5)])
    finished(job)
    job.find(phrase)
    assert finished(job).notice.error and job.session is not None


def test_one_photo_of_a_scene_is_told_that_more_help(make):
    job = make("multiview")
    job.open([make.samples / "scene" / "view0.png"])
    assert "more photos" in finished(job).notice.text


@pytest.mark.parametrize("page", ["photo", "clip", "products", "multiview"])
def test_a_download_before_a_click_is_told(make, page):
    job = make(page)
    job.open([make.samples / ("clip.mp4" if page == "clip" else "photo 0.png")])
    finished(job).pack()
    assert finished(job).notice.error and "nothing to download" in job.notice.text and job.download is None


def test_a_full_disk_is_told_and_nothing_is_lost(make, monkeypatch):
    job = make("photo")
    job.open_example()
    finished(job).pack()
    before = finished(job).download.path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "write", full)
        job.pack()
        assert (
            finished(job).notice.error and "disk is full" in job.notice.text and "make room" in job.notice.text.lower()
        )
        assert job.notice.details and str(job.folder.parent) not in " ".join(job.notice.details)
    assert job.session.masks() and job.download.path.read_bytes() == before
    assert [path.name for path in job.download.path.parent.iterdir()] == ["photo.zip"]
    job.pack()
    assert not finished(job).notice.error


@pytest.mark.parametrize("page", ["photo", "clip", "products", "multiview"])
def test_a_click_outside_the_picture_is_told_and_changes_nothing(make, page):
    job = make(page)
    job.open([make.samples / ("clip.mp4" if page == "clip" else "photo.png")])
    session = finished(job).session
    where = {"clip": {"frame": 0}, "products": {"view": 0}, "multiview": {"view": 0}}.get(page, {})
    for x, y in ((-5, 10), (10, 5000), (float("nan"), 10)):
        with pytest.raises(NbHelpersError) as told:
            session.click(x, y, **where)
        assert "\n" not in told.value.what
    job.pack()
    assert finished(job).notice.error and "nothing to download" in job.notice.text


def write_sound(path):
    """A file that is a clip by its ending, with sound alone."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        container.mux([*stream.encode(frame), *stream.encode()])
    return path


def write_header(path):
    """A clip whose frames were cut off."""
    write_clip(path)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"mdat") + 4])
    return path


@pytest.mark.parametrize("write", [write_sound, write_header])
def test_a_clip_without_frames_is_told_and_what_was_open_stays(make, visits, tmp_path, write):
    clip, job = write(tmp_path / "empty.mp4"), make("clip")
    visit = visits.visit("ann")
    with pytest.raises(NbHelpersError, match=r"the file empty\.mp4 cannot be used"):
        receive(visit, clip.name, clip.read_bytes())
    assert list((visit.folder / "uploads").iterdir()) == []
    job.open([make.samples / "clip.mp4"])
    session = finished(job).session
    job.open([clip])  # from a folder of this computer
    assert finished(job).notice.error and job.session is session and len(job.notice.text.splitlines()) == 1


@pytest.mark.parametrize(("page", "name"), [("photo", "a.jpg"), ("products", "a.jpg"), ("clip", "a.mp4")])
def test_a_text_with_the_name_of_a_picture_is_told_and_what_was_open_stays(make, tmp_path, page, name):
    (tmp_path / name).write_text("hello")
    job = make(page)
    job.open([make.samples / ("clip.mp4" if page == "clip" else "photo.png")])
    session = finished(job).session
    job.open([tmp_path / name])
    assert finished(job).notice.error and "read" in job.notice.text and job.session is session


def test_what_was_open_stays_where_the_first_step_with_other_files_fails(make):
    job = make("photo")
    job.open_example()
    session = finished(job).session

    def fail():
        raise NbHelpersError("this cannot be clicked")

    job.start("Opening", lambda: job.take([make.samples / "photo 0.png"], fail))
    assert finished(job).notice.error and job.session is session and not job.opening
    assert job.files == [make.samples / "photo.png"] and job.room.is_dir()


def test_start_over_removes_the_files_of_the_job(make):
    job = make("photo")
    job.open_example()
    finished(job).start_over()
    assert not job.is_open and list(job.folder.iterdir()) == []


def test_an_error_of_ours_is_a_sentence_with_details_and_others_hide_nothing(make):
    job = make("photo")

    def fail():
        raise NbHelpersError("this is wrong", given=3, expected="4", do="try again")

    job.start("Failing", fail)
    assert finished(job).notice.text == "This is wrong. Try again." and "given: 3" in job.notice.details
    job.start("Failing", lambda: 1 / 0)
    assert finished(job).notice.error and "ZeroDivisionError" in job.notice.details[0]


def test_uploads_lie_in_the_folder_of_their_visitor_whatever_they_are_called(visits, make):
    visit, data = visits.visit("ann"), (make.samples / "photo.png").read_bytes()
    paths = [receive(visit, name, data) for name in ("../../evil.png", "..\\evil.png", "/etc/x.png", "a b.PNG")]
    assert all(path.parent == visit.folder / "uploads" and path.is_file() for path in paths)
    assert len(set(paths)) == 4
    assert visit.uploaded([path.name for path in paths]) == paths
    for name in ("../../secret.png", "/etc/passwd", "..", ".part-x.png", "nothing.png"):
        with pytest.raises(NbHelpersError):
            visit.uploaded([name])


def archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../../evil.txt", "x")
    return path.read_bytes()


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.mp4", "a.mov", "a.heic", "a.gif"])
@pytest.mark.parametrize("kind", ["text", "archive", "script", "empty"])
def test_a_file_that_is_not_what_its_name_says_is_refused_and_removed(visits, tmp_path, name, kind):
    data = {"text": b"hello", "script": b"#!/bin/sh\ntouch /tmp/x", "empty": b"", "archive": archive(tmp_path / "z")}
    visit = visits.visit("ann")
    with pytest.raises(NbHelpersError):
        receive(visit, name, data[kind])
    assert list((visit.folder / "uploads").iterdir()) == []


@pytest.mark.parametrize("name", ["a.zip", "a.py", "a.svg", "a.html", "a.ipynb", "a", ".jpg", "a.jpg.exe"])
def test_other_kinds_of_files_are_refused_before_they_are_written(visits, name):
    with pytest.raises(NbHelpersError, match="no photo and no clip"):
        receive(visits.visit("ann"), name, b"x")
    assert not (visits.visit("ann").folder / "uploads").exists()


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(tmp_path, monkeypatch, visits):
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    )
    with pytest.raises(NbHelpersError):
        receive(visits.visit("ann"), "bomb.png", bomb)
    save_image(tmp_path / "a.png", Clip(1)[0])
    monkeypatch.setattr(visits_module, "MAX_PIXELS", 100)
    with pytest.raises(NbHelpersError, match="too large"):
        check_upload(tmp_path / "a.png", "a.png")


def test_too_many_bytes_and_a_full_disk_are_refused_while_they_arrive(visits, monkeypatch, make):
    visit = visits.visit("ann")
    monkeypatch.setattr(visits_module, "MAX_UPLOAD", 1000)
    for announced in (5000, 0):
        with pytest.raises(NbHelpersError, match="more than a visitor"), visit.receiving("a.png", announced) as upload:
            upload.write(bytes(5000))
    monkeypatch.setattr(visits_module, "MIN_FREE", 1 << 60)
    with pytest.raises(NbHelpersError, match="disk"):
        receive(visit, "a.png", b"x")
    assert list((visit.folder / "uploads").iterdir()) == []


def test_a_visitor_reaches_no_file_of_another_and_none_outside(visits, make):
    ann, bob = visits.visit("ann"), visits.visit("bob")
    for visit in (ann, bob):
        (visit.folder / "photo" / "download").mkdir(parents=True)
    (ann.folder / "photo" / "download" / "photo.zip").write_bytes(b"x")
    (ann.folder / "photo" / "page.json").write_bytes(b"x")
    assert ann.result("photo", "photo.zip") is not None and bob.result("photo", "photo.zip") is None
    other = f"../../{ann.folder.name}/photo/download"
    for page, name in ((other, "photo.zip"), ("photo", f"../{other}/photo.zip"), ("photo", "../page.json"), ("", "")):
        assert bob.result(page, name) is None and ann.result(page, name) is None
    assert "ann" not in str(ann.folder)


def test_a_visit_ends_with_its_files_unless_they_are_kept(tmp_path):
    for keep in (False, True):
        visits = Visits(tmp_path / str(keep), keep=keep, hours=1)
        old, new, open_ = (visits.visit(name) for name in ("old", "new", "open"))
        left = tmp_path / str(keep) / "of-a-killed-server"
        left.mkdir()
        open_.enter()
        old.seen = open_.seen = time.time() - 7200
        visits.sweep()
        assert old.folder.exists() == keep and new.folder.exists() and open_.folder.exists() and left.exists()
        assert visits.visit("open") is open_ and visits.visit("old") is not old
        visits.close()
        assert new.folder.exists() == keep


def headers(**given):
    return {name.replace("_", "-").encode(): value.encode() for name, value in given.items()}


@pytest.mark.parametrize(
    ("serving", "given", "refused"),
    [
        (Serving(), {"host": "127.0.0.1:8866"}, False),
        (Serving(), {"host": "localhost:8866", "origin": "http://localhost:8866"}, False),
        (Serving(), {"host": "127.0.0.1:8866", "origin": "http://evil.example"}, True),
        (Serving(), {"host": "evil.example:8866"}, True),  # a name that was made to point here
        (Serving(), {"host": "127.0.0.1:8866", "x_forwarded_for": "10.0.0.1"}, True),  # a proxy that nobody told of
        (Serving(shared=True), {"host": "127.0.0.1:8866", "x_forwarded_for": "10.0.0.1"}, False),
        (Serving(shared=True), {"host": "pages.example", "origin": "https://pages.example"}, False),
        (Serving(shared=True), {"host": "pages.example", "origin": "https://evil.example"}, True),
        (Serving(shared=True), {"host": "pages.example", "origin": "null"}, True),
    ],
)
def test_requests_of_other_sites_and_unknown_proxies_are_refused(serving, given, refused):
    assert (Guard(None, serving).problem(headers(**given)) is not None) == refused


@pytest.mark.parametrize(
    ("serving", "local"),
    [
        (Serving(), True),
        (Serving(host="0.0.0.0"), False),
        (Serving(shared=True), False),
        (Serving(root_path="/cutouts"), False),
    ],
)
def test_folders_of_the_computer_are_offered_to_its_user_alone(serving, local):
    assert serving.local == local


def test_clips_and_photos_of_the_examples_are_accepted(make, tmp_path):
    clip = write_clip(tmp_path / "clip.mp4")
    check_upload(clip, clip.name)
    check_upload(make.samples / "photo.png", "photo.png")
    assert load_image(make.samples / "photo.png").shape == (240, 320, 3)


def test_photos_and_clips_of_phones_are_taken_upright(make, visits, tmp_path):
    """They lie on their side in the file, which says so; the clip is HEVC, and its frames come at uneven times."""
    import pillow_heif
    from PIL import Image

    pillow_heif.register_heif_opener()
    upright = load_image(make.samples / "photo.png")
    turned, orientation = Image.fromarray(np.rot90(upright)), Image.Exif()
    orientation[0x0112] = 6  # to be turned clockwise
    turned.save(tmp_path / "IMG_1.HEIC", quality=90, exif=orientation.tobytes())
    with av.open(str(tmp_path / "IMG_2.MOV"), "w") as container:
        stream = container.add_stream("libx265", 30, options={"x265-params": "log-level=none"})
        stream.width, stream.height, stream.pix_fmt = 240, 320, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 600)
        stream.set_display_rotation(-90)
        for time_ in (0, 20, 75, 95):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(np.rot90(upright)), "rgb24")
            frame.pts, frame.time_base = time_, Fraction(1, 600)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    photo, clip = make("photo"), make("clip")
    for job, name in ((photo, "IMG_1.HEIC"), (clip, "IMG_2.MOV")):
        job.open([receive(visits.visit("ann"), name, (tmp_path / name).read_bytes())])
        assert not finished(job).notice.error, job.notice
    assert "4 frames" in clip.notice.text and "varies" in clip.notice.details[0]
    for shown in (photo.session.image, clip.session.frames[2]):
        assert shown.shape == upright.shape
        assert np.abs(shown.astype(int) - upright).mean() < 12  # turned the other way: above 50


def test_each_page_has_its_picture():
    import nbhelpers.app

    pictures = Path(nbhelpers.app.__file__).parent / "pictures"
    from nbhelpers.app.jobs import JOBS

    for page in JOBS:
        assert load_image(pictures / f"{page}.jpg").shape[1] >= 400
        assert (pictures / f"{page}.jpg").stat().st_size < 60_000


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("judging", "Comparing the photos"),
        ("1 regions failed crop verification", "click it"),
        ("16 regions failed crop verification", "16 places"),
        ("runs (xfeat-lighterglue, disk-lightglue) found cameras that differ by 91 degrees or more (median)",
         "More photos, taken closer together"),
        ("no cameras are known: views were compared by appearance only", "closer together"),
        ("no camera is known for a.jpg, b.jpg: the object was found there by its appearance only", "a.jpg, b.jpg"),
        ("the prompt in a.jpg contradicts b.jpg and applies to its own view only; clear one of them", "Clear those"),
        ('"zebra" was not found by CLIP: no view matches it: 0.10 at most, minimum 0.2; try another word, or click it',
         'Nothing that looks like "zebra"'),
        ("its overlap with the mask predicted by optical flow is only 31%", "Click there"),
        ("not registered, because of too few matches with the others: c.jpg", "c.jpg"),
        ("too few scores to calibrate (3 background scores, 1 expected matches)", "Yes or No"),
        ("all 6 views agree; the least certain is 03.png", "6 photos agree"),
        ("2 of 6 views should be inspected, first a.jpg", "look at a.jpg first"),
        ("a.jpg disagrees: its cycle consistency with the prompted mask is only 31%", "does not agree"),
        ("a.jpg agrees with the others, and 31 of 40 points of it lie inside", "agrees with the others"),
        ("consistency 0.82", "agrees 82 %"),
        ("predicted IoU; the star is the model's choice; H takes the next", "suggested one; H takes the next"),
        ("Mask 2: 0.93", "Outline 2"),
        ("consistency 0.05", "agrees 5 %"),
    ],
)  # fmt: skip
def test_messages_of_the_engines_are_told_in_plain_words(message, told):
    words = plain(message)
    assert told in words and words != message
    for jargon in (
        "runs (",
        "(median)",
        "crop verification",
        "appearance",
        "optical flow",
        "scores",
        "registered",
        "views",
        "consistency",
        "prompted",
        "IoU",
    ):
        assert jargon not in words


def test_a_message_that_is_not_known_stays_as_it_is():
    assert plain("the lamp is on the table; judging it is hard") == "the lamp is on the table; judging it is hard"


def test_a_scene_shows_no_word_of_the_engines(make):
    job, seen = make("multiview"), set()
    job.on_change(lambda: job.working and seen.add(job.progress.text))
    job.open_example()
    finished(job)
    assert "Looking through view0.png" in seen and any("photos were taken" in text for text in seen)
    for text in (*seen, *job.notice.details):
        assert "judging" not in text and "verif" not in text and "relative to view" not in text, text


def test_buttons_have_icons_that_the_pages_know(make):
    """Solara has an older Font Awesome than JupyterLab, which knows the old names too."""
    import nbhelpers

    (sheet,) = Path(sys.prefix, "share", "solara", "cdn").glob("font-awesome*/css/font-awesome.css")
    known = sheet.read_text()
    folder = Path(nbhelpers.__file__).parent
    sources = [(folder / "app" / "pages.py"), *(folder / "widgets").rglob("*.py")]
    icons = {name for path in sources for name in re.findall(r'icon="([a-z-]+)"', path.read_text())}
    assert len(icons) > 20
    assert [name for name in sorted(icons) if f".fa-{name}:before" not in known] == []


def test_a_job_is_the_same_for_all_pages_of_a_visitor(visits):
    made = []
    visit = visits.visit("ann")
    jobs = [visit.job("photo", lambda folder: made.append(folder) or object()) for _ in range(2)]
    assert jobs[0] is jobs[1] and made == [visit.folder / "photo"]
    visit.jobs.clear()
