"""From a phrase to the object that it means: look, lift, join, relate, choose."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from nbhelpers.clip_guided.values import numbered
from nbhelpers.core.metrics import iou
from nbhelpers.core.scenes import Scene
from nbhelpers.models.protocols import TextEncoder
from nbhelpers.multiview.choose import Candidate, Choice, choose
from nbhelpers.multiview.finding import Nouns, anything, look, shows, views_to_look_at
from nbhelpers.multiview.frames import Frame, silhouette_scale
from nbhelpers.multiview.objects import Object, join, make_object, without_parts, without_repeats
from nbhelpers.multiview.phrases import Phrase
from nbhelpers.multiview.reading import read
from nbhelpers.multiview.views import Photos

MOST_VIEWS = 12  # views that are searched; the object chosen is then found in all
SAME = 0.5  # IoU from which "any object" is one that has a name already
log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class Found:
    """What a phrase led to.

    Attributes:
        choice: which object is meant, why, and whether it is decided.
        objects: all that were found, those of the first noun first.
        similarity: ``(v, n)``, how much each view looks like each noun, 0 to 1; NaN for views that were not searched.
        nouns: the ``n`` nouns, without "object" and its like.
        frame: whose left and right it is.
        notes: what a person should know.
    """

    choice: Choice
    objects: tuple[Object, ...]
    similarity: Float[np.ndarray, "v n"] = field(repr=False)
    nouns: tuple[str, ...]
    frame: Frame = field(repr=False)
    notes: tuple[str, ...]

    @property
    def chosen(self) -> Object | None:
        """The object that is meant, or the best guess; None when nothing was found."""
        best = self.choice.best
        return None if best is None else self.objects[best.number]

    @property
    def references(self) -> tuple[Object, ...]:
        """The other objects that the relations of the chosen one were measured against."""
        if not self.choice.ranking:
            return ()
        numbers = [n for judgement in self.choice.ranking[0].judgements for n in judgement.references]
        return tuple(self.objects[n] for n in dict.fromkeys(numbers))


def search(
    photos: Photos,
    phrase: Phrase,
    text_encoder: TextEncoder,
    scene: Scene | None = None,
    reference: int | None = None,
    progress: Progress | None = None,
) -> Found:
    """Find the object that a phrase means.

    Args:
        photos: of one scene.
        phrase: as `nbhelpers.multiview.phrases.parse` gives it.
        text_encoder: says what is where in a view.
        scene: cameras and points; without it things are related in the reference view's picture.
        reference: the view whose viewer is asked; the first that has a camera when left out.
        progress: called with steps done, all steps and what is being done.
    """
    notes = list(phrase.notes)
    reference = default_view(scene, photos) if reference is None else photos.check(reference)
    frame = Frame(scene, reference)
    notes.append(frame.note)
    nouns = Nouns.of(phrase)
    views = views_to_look_at(len(photos), reference, MOST_VIEWS)
    similarity = np.full((len(photos), len(nouns.asked)), np.nan)
    instances = []
    for step, view in enumerate(views):
        if progress is not None:
            progress(step, len(views) + 1, f"looking at {photos.names[view]}")
        similarity[view], found = look(photos, view, nouns, text_encoder, scene)
        instances += found
    objects = _objects([i for noun in range(len(nouns.asked)) for i in [[x for x in instances if x.noun == noun]]],
                       nouns.asked, scene, reference)  # fmt: skip
    if progress is not None:
        progress(len(views), len(views) + 1, "looking at each object by itself")
    objects, fallen = read(photos, objects, nouns, text_encoder)
    objects = _renamed(without_repeats(objects, scene, reference), nouns.asked)
    notes += fallen
    pools = {noun: [n for n, each in enumerate(objects) if each.noun == k] for k, noun in enumerate(nouns.asked)}
    for noun in dict.fromkeys(thing.noun for thing in phrase.things() if thing.is_generic):
        if progress is not None:
            progress(len(views), len(views) + 1, f'looking for any "{noun}"')
        rest = [each for each in anything(photos, reference, scene) if not _is_known(each, objects, reference)]
        known = [n for n, each in enumerate(objects) if reference in each.instances]
        more = [make_object(f"{noun} {k}", [each], scene, reference) for k, each in enumerate(rest, 1)]
        pools[noun] = [*known, *range(len(objects), len(objects) + len(more))]
        objects += more
        break
    for noun in nouns.asked:
        if not pools[noun]:
            best = np.nanmax(similarity[:, nouns.asked.index(noun)])
            least = shows(text_encoder)
            how = f"no view looks like it: {best:.2f} at most, {least} is needed"
            if best >= least:
                how = "what looked like it in a view did not stand a closer look"
            notes.append(f'"{noun}" was not found by {text_encoder.name}: {how}; try a plainer word, or click it')
    bodies = [_body(frame, each, reference) for each in objects]
    things = {}
    for thing in phrase.things():
        pool = pools.get(thing.noun) or next((pools[n] for n in pools if thing.is_generic), [])
        things[thing.noun] = [
            Candidate(n, objects[n].name, bodies[n], objects[n].likeness) for n in pool if bodies[n] is not None
        ]
        if lost := [objects[n].name for n in pool if bodies[n] is None]:
            notes.append(f"could not be placed for the viewer of view {reference}: {', '.join(lost)}")
    choice = choose(phrase, things)
    log.info("%s; %s", phrase.understood, choice.why)
    return Found(choice, tuple(objects), similarity, nouns.asked, frame, tuple(dict.fromkeys(notes)))


def default_view(scene: Scene | None, photos: Photos) -> int:
    """The first view that has a camera, else the first."""
    return int(np.argmax(scene.placed)) if scene is not None and scene.placed.any() else photos.check(0)


def _objects(instances: list[list], nouns: tuple[str, ...], scene: Scene | None, reference: int) -> list[Object]:
    out = []
    for noun, own in zip(nouns, instances, strict=True):
        groups = sorted(join(own, scene), key=lambda group: -sum(each.confidence for each in group))
        names = numbered([noun] * len(groups))
        every = [make_object(name, group, scene, reference) for name, group in zip(names, groups, strict=True)]
        out += without_parts(every, scene)
    return out


def _renamed(objects: list[Object], nouns: tuple[str, ...]) -> list[Object]:
    """Each noun's objects numbered anew, the likeliest first."""
    ordered = sorted(objects, key=lambda each: (each.noun, -each.likeness))
    names = numbered([nouns[each.noun] for each in ordered])
    return [replace(each, name=name) for each, name in zip(ordered, names, strict=True)]


def _is_known(instance, objects: list[Object], view: int) -> bool:
    mask = instance.mask
    return any(view in each.instances and iou(mask, each.mask(view)) >= SAME for each in objects)


def _body(frame: Frame, thing: Object, view: int):
    if not frame.flat:
        return frame.body(thing.xyz)
    mask = thing.mask(view)
    return None if mask is None else frame.outline(silhouette_scale(mask))
