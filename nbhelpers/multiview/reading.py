"""Objects read by themselves: a word that the whole photo suggested must stand in a close look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from nbhelpers.clip_guided.values import prepare_vocabulary
from nbhelpers.clip_guided.verification import MIN_READING, blur_surroundings, crop_box
from nbhelpers.models.protocols import TextEncoder
from nbhelpers.models.values import ClassMap
from nbhelpers.multiview.finding import Nouns
from nbhelpers.multiview.objects import Object
from nbhelpers.multiview.views import Photos

MOST = 6  # objects of each noun that are read, the likeliest first; each costs the text encoder once
STANDS = 0.35  # share of both readings that the noun must have; less where several views agreed on it, by their root


def read(
    photos: Photos, objects: Sequence[Object], nouns: Nouns, text_encoder: TextEncoder
) -> tuple[list[Object], list[str]]:
    """The objects that still answer to their nouns when each is looked at by itself, in its best view.

    The reading of the object's own piece, its surroundings blurred, is multiplied with how sure the whole photo was;
    see `nbhelpers.clip_guided.second_look`.

    Returns:
        The objects with their likeness from both readings, without those that were not read; and a note on how many
        fell.
    """
    asked = prepare_vocabulary(nouns.vocabulary, None, nouns.settings).classes if nouns.asked else ()
    order = sorted(range(len(objects)), key=lambda n: -objects[n].likeness * _support(objects[n]))
    order = [n for noun in range(len(nouns.asked)) for n in [m for m in order if objects[m].noun == noun][:MOST]]
    kept: dict[int, Object] = {}
    fallen = []
    for number in order:
        thing = objects[number]
        if any(each.detected for each in thing.instances.values()):
            kept[number] = thing
            continue
        view = thing.best_view
        image, mask = photos.image(view), thing.mask(view)
        x0, y0, x1, y1 = crop_box(mask)
        inside = mask[y0:y1, x0:x1]
        classes = text_encoder.dense(blur_surroundings(image[y0:y1, x0:x1], inside), asked)
        second = np.maximum(_mean(classes, inside), MIN_READING)
        own = nouns.vocabulary.index(nouns.heads[thing.noun].casefold())
        first = np.full(len(second), (1 - thing.likeness) / max(1, len(second) - 1))
        first[own] = thing.likeness
        both = np.maximum(first, MIN_READING) * second
        share = float(both[own] / both.sum())
        if share < STANDS / np.sqrt(len(thing.instances)):
            fallen.append(thing.name)
        else:
            kept[number] = replace(thing, likeness=float(np.sqrt(share * thing.likeness)))
    dropped = len(objects) - len(kept)
    return list(kept.values()), [
        f"{dropped} regions that a word had suggested did not stand a closer look"
    ] if fallen else []


def _support(thing: Object) -> float:
    """How much speaks for an object before it is read: views that show it, and its size there."""
    area = np.mean([each.mask.mean() for each in thing.instances.values()])
    return len(thing.instances) * float(area**0.25)


def _mean(class_map: ClassMap, mask: np.ndarray) -> np.ndarray:
    """Mean probability of each class inside a mask."""
    height, width = class_map.probabilities.shape[1:]
    weight = cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return (class_map.probabilities * weight).sum((1, 2)) / max(float(weight.sum()), 1e-6)
