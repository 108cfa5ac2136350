"""Synthetic photos with known truth: real cut-outs pasted into real photos, with look-alikes and photos without them.

Everything follows from a seed. Each photo is 800 pixels long; a cut-out at scale 1 is 240 pixels long in it. Cut-outs
are turned by up to 40 degrees, scaled by 0.3 to 1.5, lit from 0.6 to 1.4 times with a warm or cold cast, blurred by up
to 1.5 pixels, and in a third of the photos up to a third of them is hidden by another object. A look-alike is the same
cut-out recoloured (turned hue, or tinted where there is none) or mirrored, placed like the product.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float

from nbhelpers.core.images import fit, load_image
from nbhelpers.core.masks import box_of, components, fill_holes, polygon_mask
from nbhelpers.core.prompts import Prompt
from nbhelpers.weights import sample

LONGEST, BASE = 800, 240
TURN, SCALES, LIGHT, BLUR, HIDDEN = 40, (0.3, 1.5), (0.6, 1.4), 1.5, 0.35
# boxes around the objects on the sample photos: all the segmenter's only prompts
BOXES = {"coffee": (98, 8, 482, 382), "chelsea": (96, 0, 400, 290), "flower": (220, 65, 395, 300)}
FRAMES = {"box.mp4": (0, (292, 12, 600, 243))}


@dataclass(frozen=True, eq=False)
class CutOut:
    """An object with its photo, which serves as the reference.

    Attributes:
        name: what it is called.
        photo: ``(h, w, 3)``.
        mask: ``(h, w)`` where the object is.
        source: stem of the photo's file, which is no background for it.
    """

    name: str
    photo: np.ndarray
    mask: np.ndarray
    source: str = ""

    @property
    def rgba(self) -> np.ndarray:
        """The object alone with a soft edge, as ``(h, w, 4) float32`` from 0 to 1."""
        x0, y0, x1, y1 = box_of(self.mask)
        alpha = cv2.GaussianBlur(cv2.erode(self.mask.astype(np.float32), np.ones((3, 3))), (0, 0), 0.8)
        colour = self.photo.astype(np.float32) / 255
        return np.dstack([colour, alpha])[y0:y1, x0:x1]


@dataclass(frozen=True, eq=False)
class SyntheticPhoto:
    """A photo and what is in it.

    Attributes:
        name: product, kind and number.
        product: name of the cut-out that is looked for.
        image: ``(h, w, 3)``.
        truth: the visible mask of the product, or None where it is absent.
        look_alikes: ``(kind, mask)`` of each look-alike.
    """

    name: str
    product: str
    image: np.ndarray
    truth: np.ndarray | None
    look_alikes: tuple[tuple[str, np.ndarray], ...]


def sample_cut_outs(segmenter) -> list[CutOut]:
    """The cup, the cat, the flower, the printed box (where its clip is here) and the quokka with its true outline."""
    found = []
    for name, box in BOXES.items():
        photo = load_image(sample(name))
        found.append(CutOut(name, photo, _cut(segmenter, photo, box), name))
    for name, (frame, box) in FRAMES.items():
        photo = _frame(sample(name), frame)
        found.append(CutOut(name.partition(".")[0], photo, _cut(segmenter, photo, box)))
    photo = load_image(sample("quokka"))
    outline = json.loads(Path(sample("quokka_annotations.json")).read_text())["polygons"][0]["keypoints"]
    points = [(point["x"], point["y"]) if isinstance(point, dict) else tuple(point) for point in outline]
    return [*found, CutOut("quokka", photo, polygon_mask(points, photo.shape[:2]))]


def backgrounds(files: Sequence[Path]) -> dict[str, np.ndarray]:
    """Photos of the set's size, by the stems of their files."""
    out = {}
    for file in files:
        image = load_image(file)
        scale = LONGEST / max(image.shape[:2])
        grown = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC) if scale > 1 else image
        out[file.stem] = fit(grown, LONGEST)
    return out


def synthetic_photos(
    cut_outs: Sequence[CutOut], scenes: dict[str, np.ndarray], count: int, look_alikes: bool, seed: int = 0
) -> Iterator[SyntheticPhoto]:
    """``count`` photos of each cut-out, of which it is in three fifths.

    Without look-alikes the other photos hold other objects. With them, a third of the photos holds the product and a
    look-alike, a third the product alone, a third a look-alike alone.
    """
    for index, cut_out in enumerate(cut_outs):
        others = [other for other in cut_outs if other is not cut_out]
        for number in range(count):
            rng = np.random.default_rng((seed, index, number, look_alikes))
            stems = sorted(set(scenes) - {cut_out.source})
            scene = scenes[stems[rng.integers(len(stems))]].copy()
            present = number % 3 != 2 if look_alikes else number % 5 < 3
            decoy = look_alikes and number % 3 != 1
            yield _photo(
                cut_out,
                others,
                scene,
                present,
                decoy,
                rng,
                f"{cut_out.name}-{'alike' if look_alikes else 'plain'}-{number:03d}",
            )


def _photo(cut_out, others, scene, present, decoy, rng, name) -> SyntheticPhoto:
    taken = np.zeros(scene.shape[:2], bool)
    truth, fakes = None, []
    if rng.random() < 0.5 or not (present or decoy):
        scene, mask = _paste(scene, others[rng.integers(len(others))].rgba, rng, taken)
        taken |= mask
    if decoy:
        kind = ("recoloured", "mirrored")[rng.integers(2)]
        rgba = recoloured(cut_out.rgba, rng) if kind == "recoloured" else np.ascontiguousarray(cut_out.rgba[:, ::-1])
        scene, mask = _paste(scene, rgba, rng, taken)
        taken |= mask
        fakes.append((kind, mask))
    if present:
        scene, truth = _paste(scene, cut_out.rgba, rng, taken)
        fakes = [(kind, mask & ~truth) for kind, mask in fakes]
        if rng.random() < 1 / 3:
            scene, over = _hide(scene, truth, others[rng.integers(len(others))].rgba, rng)
            truth = truth & ~over
    scene = np.clip(scene + rng.normal(0, 2, scene.shape), 0, 255).astype(np.uint8)
    return SyntheticPhoto(name, cut_out.name, scene, truth, tuple(fakes))


def _paste(scene, rgba, rng, taken):
    """The scene with an object in it where little is taken, and where the object is."""
    scale = np.exp(rng.uniform(*np.log(SCALES)))
    turned = _turn(rgba, rng.uniform(-TURN, TURN), BASE * scale / max(rgba.shape[:2]))
    turned = _lit(turned, rng)
    h, w = (min(a, b) for a, b in zip(turned.shape[:2], scene.shape[:2], strict=True))
    turned = turned[:h, :w]
    spots = [(rng.integers(scene.shape[0] - h + 1), rng.integers(scene.shape[1] - w + 1)) for _ in range(40)]
    y, x = min(spots, key=lambda spot: taken[spot[0] : spot[0] + h, spot[1] : spot[1] + w].mean())
    return _over(scene, turned, y, x)


def _over(scene, rgba, y, x):
    h, w = rgba.shape[:2]
    alpha = rgba[..., 3:]
    out = scene.astype(np.float32)
    out[y : y + h, x : x + w] = out[y : y + h, x : x + w] * (1 - alpha) + rgba[..., :3] * 255 * alpha
    mask = np.zeros(scene.shape[:2], bool)
    mask[y : y + h, x : x + w] = alpha[..., 0] > 0.5
    return np.clip(out, 0, 255).astype(np.uint8), mask


def _turn(rgba, degrees, scale):
    h, w = rgba.shape[:2]
    premultiplied = np.dstack([rgba[..., :3] * rgba[..., 3:], rgba[..., 3]])
    if scale < 1:
        size = max(2, round(w * scale)), max(2, round(h * scale))
        premultiplied, scale = cv2.resize(premultiplied, size, interpolation=cv2.INTER_AREA), 1.0
        h, w = premultiplied.shape[:2]
    move = cv2.getRotationMatrix2D((w / 2, h / 2), degrees, scale)
    corners = np.abs(move[:, :2]) @ [w, h]
    wide, high = int(np.ceil(corners[0])), int(np.ceil(corners[1]))
    move[:, 2] += (wide / 2 - w / 2, high / 2 - h / 2)
    turned = cv2.warpAffine(premultiplied, move, (wide, high), flags=cv2.INTER_LINEAR)
    turned[..., :3] /= np.maximum(turned[..., 3:], 1e-3)
    return np.clip(turned, 0, 1)


def _lit(rgba, rng):
    gain = rng.uniform(*LIGHT) * np.array([1 + (cast := rng.uniform(-0.08, 0.08)), 1, 1 - cast], np.float32)
    colour = np.clip(rgba[..., :3] * gain, 0, 1)
    blur = rng.uniform(0, BLUR)
    whole = np.dstack([colour * rgba[..., 3:], rgba[..., 3]])
    whole = cv2.GaussianBlur(whole, (0, 0), blur) if blur > 0.3 else whole
    colour = whole[..., :3] / np.maximum(whole[..., 3:], 1e-3)
    return np.dstack([np.clip(colour, 0, 1), whole[..., 3]]).astype(np.float32)


def _hide(scene, truth, rgba, rng):
    """Another object over the edge of the product, so that at most HIDDEN of it goes."""
    x0, y0, x1, y1 = box_of(truth)
    side = max(x1 - x0, y1 - y0)
    cover = _lit(_turn(rgba, rng.uniform(-TURN, TURN), 0.7 * side / max(rgba.shape[:2])), rng)
    h, w = (min(a, b) for a, b in zip(cover.shape[:2], scene.shape[:2], strict=True))
    cover = cover[:h, :w]
    for _ in range(60):
        y = int(np.clip(rng.integers(y0 - h, y1), 0, scene.shape[0] - h))
        x = int(np.clip(rng.integers(x0 - w, x1), 0, scene.shape[1] - w))
        hidden, mask = _over(scene, cover, y, x)
        share = np.count_nonzero(mask & truth) / np.count_nonzero(truth)
        if 0.1 <= share <= HIDDEN:
            return hidden, mask
    return scene, np.zeros_like(truth)


def recoloured(rgba: Float[np.ndarray, "h w 4"], rng: np.random.Generator) -> Float[np.ndarray, "h w 4"]:
    """The same object in another colour: its hue turned by 60 to 300 degrees, and tinted where it is nearly grey."""
    lab = cv2.cvtColor(np.ascontiguousarray(rgba[..., :3]), cv2.COLOR_RGB2LAB)
    angle = np.radians(rng.uniform(60, 300))
    a, b = lab[..., 1].copy(), lab[..., 2].copy()
    lab[..., 1] = a * np.cos(angle) - b * np.sin(angle)
    lab[..., 2] = a * np.sin(angle) + b * np.cos(angle)
    inside = rgba[..., 3] > 0.5
    if np.hypot(a, b)[inside].mean() < 15:
        tint = rng.uniform(0, 2 * np.pi)
        lab[..., 1] += 30 * np.cos(tint)
        lab[..., 2] += 30 * np.sin(tint)
    return np.dstack([np.clip(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), 0, 1), rgba[..., 3]])


def _cut(segmenter, photo, box):
    prediction = segmenter.predict(segmenter.encode(photo), Prompt(box=box))
    return fill_holes(components(prediction.best) == 1, photo.size)


def _frame(path, number):
    from nbhelpers.core.video import Frames

    return np.array(Frames(path)[number])
