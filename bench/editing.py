"""How well a removed object is filled in, where the truth is known: an object is pasted into a photo and removed again.

    python bench/editing.py [--models lite] [--places 3]

Against Telea's method (``cv2.inpaint``) and the mean colour of the hole's surroundings. Both fill the very hole that
`nbhelpers.editing.remove` fills, and all are measured under the object: PSNR to the truth in dB (more is better), and
texture, the distance between the distributions of gradient magnitudes (Wasserstein-1, in levels a pixel; less is
better). Prints a table and one line of JSON; writes a contact sheet to ``outputs/bench``. Places and sizes come from a
fixed seed.
"""

import argparse
import json
import math
import os
import platform
import statistics
import time

import cv2
import numpy as np

from nbhelpers import ClickSession, load, load_image, sample
from nbhelpers.core.files import outputs_dir
from nbhelpers.core.masks import box_of, dilate, fill_pinholes, polygon_mask
from nbhelpers.editing import remove
from nbhelpers.editing.inpaint import SEAM
from nbhelpers.plots import draw_grid

PHOTOS = ("astronaut", "chelsea", "china", "coffee", "flower", "quokka")
CUP, CUP_BOX = ((330, 200), (300, 120)), (160, 10, 430, 260)  # clicks on the rim and into the coffee, and a box
SHARE = (0.2, 0.4)  # longer side of a pasted object over the photo's shorter side
TELEA_RADIUS = 5
SHEET = ("truth", "input", "Telea", "ours")


def objects(models: str) -> dict:
    """Cut-outs to paste: name -> (image, mask), tight."""
    polygon = json.loads(sample("quokka_annotations.json").read_text(encoding="utf-8"))["polygons"][0]["keypoints"]
    quokka, coffee = load_image(sample("quokka")), load_image(sample("coffee"))
    session = ClickSession(coffee, load("segmenter", models=models), name="coffee")
    session.set_box(CUP_BOX)
    for point in CUP:
        session.click(*point)
    outline = [(point["x"], point["y"]) for point in polygon]
    found = {
        "quokka": (quokka, polygon_mask(outline, quokka.shape[:2])),
        "cup": (coffee, fill_pinholes(session.mask())),
    }
    cut = {}
    for name, (image, mask) in found.items():
        x0, y0, x1, y1 = box_of(mask)
        cut[name] = image[y0:y1, x0:x1], mask[y0:y1, x0:x1]
    return cut


def pasted(photo: np.ndarray, cut: tuple, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The photo with the object at a random place in a random size, and the object's mask."""
    image, mask = cut
    scale = generator.uniform(*SHARE) * min(photo.shape[:2]) / max(mask.shape)
    size = round(mask.shape[1] * scale), round(mask.shape[0] * scale)
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    mask = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
    top, left = (int(generator.integers(0, photo.shape[i] - mask.shape[i] + 1)) for i in (0, 1))
    window = slice(top, top + mask.shape[0]), slice(left, left + mask.shape[1])
    out, where = photo.copy(), np.zeros(photo.shape[:2], bool)
    out[window][mask] = image[mask]
    where[window] = mask
    return out, where


def psnr(truth: np.ndarray, image: np.ndarray, mask: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB, over the pixels of the mask."""
    error = np.mean((truth[mask].astype(float) - image[mask]) ** 2)
    return 10 * math.log10(255**2 / max(error, 1e-6))


def texture(truth: np.ndarray, image: np.ndarray, mask: np.ndarray) -> float:
    """Wasserstein-1 distance between the gradient magnitudes (grey levels a pixel) of two pictures under a mask."""
    ranks = np.linspace(0, 1, 257)
    spread = []
    for picture in (truth, image):
        grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
        slope = np.hypot(cv2.Sobel(grey, -1, 1, 0, ksize=3), cv2.Sobel(grey, -1, 0, 1, ksize=3)) / 8
        spread.append(np.quantile(slope[mask], ranks))
    return float(np.abs(spread[0] - spread[1]).mean())


def mean_fill(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The hole in the mean colour of a ring around it."""
    ring = dilate(hole, max(3, 2 * SEAM * max(hole.shape))) & ~hole
    out = image.copy()
    out[hole] = np.rint(image[ring].mean(0)).astype(np.uint8)
    return out


def measure(models: str, places: int) -> tuple[list[dict], list[list[np.ndarray]], str]:
    """One row a hole, the pictures of one hole a photo, and the name of the inpainter."""
    inpainter, cuts = load("inpainter", models=models), objects(models)
    rows, sheet = [], []
    for number, name in enumerate(PHOTOS):
        photo, generator = load_image(sample(name)), np.random.default_rng(number)
        for place in range(places):
            other = [each for each in cuts if (name, each) not in (("quokka", "quokka"), ("coffee", "cup"))]
            thing = other[place % len(other)]
            image, mask = pasted(photo, cuts[thing], generator)
            hole = dilate(mask, math.ceil(SEAM * max(mask.shape)))
            started = time.perf_counter()
            ours = remove(image, mask, inpainter)
            seconds = time.perf_counter() - started
            telea = cv2.inpaint(image, hole.astype(np.uint8), TELEA_RADIUS, cv2.INPAINT_TELEA)
            fills = {"mean": mean_fill(image, hole), "telea": telea, "ours": ours}
            row = {"photo": name, "object": thing, "pixels": int(mask.sum()), "seconds": round(seconds, 2)}
            row |= {f"psnr_{key}": round(psnr(photo, fill, mask), 2) for key, fill in fills.items()}
            row |= {f"texture_{key}": round(texture(photo, fill, mask), 2) for key, fill in fills.items()}
            rows.append(row)
            x0, y0, x1, y1 = close_up(hole)
            sheet.append([picture[y0:y1, x0:x1] for picture in (photo, image, telea, ours)])
    return rows, sheet, inpainter.name


def close_up(hole: np.ndarray, side: int = 256) -> tuple[int, int, int, int]:
    """A square window around the hole, inside the photo."""
    x0, y0, x1, y1 = box_of(hole)
    length = min(max(side, round(1.3 * max(x1 - x0, y1 - y0))), *hole.shape)
    left = min(max(0, (x0 + x1 - length) // 2), hole.shape[1] - length)
    top = min(max(0, (y0 + y1 - length) // 2), hole.shape[0] - length)
    return left, top, left + length, top + length


def table(rows: list[dict]) -> str:
    """The rows in columns."""
    keys = list(rows[0])
    lines = [keys, *([str(row[key]) for key in keys] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(keys))]
    return "\n".join("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)) for line in lines)


def summary(rows: list[dict], name: str) -> dict:
    """Medians over all holes."""
    keys = [key for key in rows[0] if isinstance(rows[0][key], float)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    medians = {key: round(statistics.median(row[key] for row in rows), 2) for key in keys}
    gain = statistics.median(row["psnr_ours"] - row["psnr_telea"] for row in rows)
    closer = sum(row["texture_ours"] < row["texture_telea"] for row in rows)
    about = {"measure": "remove", "model": name, "holes": len(rows), "machine": f"{platform.machine()}, {cores} cores"}
    return about | medians | {"psnr_over_telea": round(gain, 2), "texture_closer_than_telea": f"{closer}/{len(rows)}"}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--places", type=int, default=3, help="holes in each photo")
    parser.add_argument("--models", default="lite", choices=("auto", "lite", "official"))
    arguments = parser.parse_args()
    rows, sheet, name = measure(arguments.models, arguments.places)
    pictures = [cv2.resize(picture, (256, 256), interpolation=cv2.INTER_AREA) for line in sheet for picture in line]
    path = outputs_dir("bench") / "editing.png"
    draw_grid(pictures, SHEET * len(sheet), columns=len(SHEET), width=9).savefig(path)
    print(table(rows))
    print(f"pictures: {path}")
    print(json.dumps(summary(rows, name)))
