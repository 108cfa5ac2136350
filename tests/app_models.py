"""The pages on models without weights, with drawn examples; run as a script it serves them.

``python app_models.py FOLDER PORT [SECONDS A FRAME]``
"""

import os
import sys
from pathlib import Path

import numpy as np
from fake_products import PRODUCT_AT, FakePatchEncoder, FakePointSegmenter, write_shelf
from fake_tracker import Clip, FakeTracker
from page_models import page_segmenter, write_photos

from nbhelpers.app import jobs
from nbhelpers.app.job import Job
from nbhelpers.app.jobs import ClipTask, PhotoTask, ProductTask, SceneTask
from nbhelpers.core.images import save_image

FRAMES = 12


def write_clip(path):
    """A clip of the drawn frames, ten times as large, so that a codec keeps their colours."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 12, options={"crf": "1"})
        stream.height, stream.width, stream.pix_fmt = 240, 320, "yuv444p"
        clip = Clip(FRAMES)
        for index in range(len(clip)):
            picture = np.kron(clip[index], np.ones((4, 4, 1), np.uint8))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())
    return path


def write_samples(samples):
    """Drawn photos and a clip."""
    write_shelf(samples)
    write_clip(samples / "clip.mp4")
    save_image(samples / "photo.png", Clip(1)[0].repeat(4, 0).repeat(4, 1))
    write_photos(samples / "scene")
    return samples


def make_jobs(samples, seconds=0.0, patch=setattr):
    """What makes the job of each page; the examples lie in ``samples``."""
    models = {"segmenter": FakePointSegmenter(), "encoder": FakePatchEncoder(), "tracker": FakeTracker(seconds)}
    loaded = {"segmenter": models["segmenter"], "patch_encoder": models["encoder"], "tracker": models["tracker"]}
    loaded["detector"] = False
    shelf, scene = (sorted(samples.glob(names)) for names in ("photo ?.png", "scene/*.png"))
    patch(Job, "load", lambda self, task: loaded[task])
    patch(jobs, "sample_file", lambda name: samples / name)
    patch(PhotoTask, "example", ("photo.png", (60.0, 82.0), "disc"))
    patch(ClipTask, "example", ("clip.mp4", {}, (60.0, 82.0), "disc"))

    def products(self):
        self.take(shelf, lambda: self.session.click(*PRODUCT_AT, view=0))
        self._find()

    def villa(self):
        self.take(scene, phrase="ball on the left")
        self._find("ball on the left")

    patch(ProductTask, "start_example", products)
    patch(SceneTask, "start_example", villa)
    return {
        "photo": PhotoTask,
        "clip": ClipTask,
        "products": ProductTask,
        "multiview": lambda folder, workers: SceneTask(folder, workers, segmenter=page_segmenter()),
    }


def main(folder, port, seconds=0.0, shared="no"):
    """Serve the pages."""
    import uvicorn

    from nbhelpers.app.server import Serving, starting

    folder = Path(folder)
    serving = Serving(port=int(port), folder=folder / "app", shared=shared == "shared", keep=True)
    with starting(serving, make_jobs(write_samples(folder / "samples"), float(seconds))) as application:
        uvicorn.run(application, host=serving.host, port=serving.port, log_level="warning")


if __name__ == "__main__":
    sys.path.insert(0, os.fspath(Path(__file__).parent))
    main(*sys.argv[1:])
