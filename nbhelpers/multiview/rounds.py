"""All views from the prompted ones: once along the most similar photos, then again where all views can say a word."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from nbhelpers.core.masks import encode_rle, upsample
from nbhelpers.core.scenes import Scene
from nbhelpers.models.label_propagation.decoding import CERTAIN_LOGIT, prompt_variants, soft_iou
from nbhelpers.multiview import consistency
from nbhelpers.multiview.accord import Accord, Claim
from nbhelpers.multiview.evidence import Evidence
from nbhelpers.multiview.order import nearest, reach, survey, with_scene
from nbhelpers.multiview.parts import GAP, SLACK, belonging, farthest
from nbhelpers.multiview.propagate import Finder, Found
from nbhelpers.multiview.values import View, Views
from nbhelpers.multiview.views import Photos

ANCHORS, OTHERS = 3, 3  # prompted and found views that vote on another: the most similar ones
RELIABLE = 0.5  # of the best: a view that is found again less well in the prompted one gets no vote
AGREED = 0.85  # a view whose mask fits so well what was expected there is not asked a second time
ABSENT = 0.5  # likeness below which what was found is another thing
LEAST = 0.001  # of the photo's area: less was not found

Progress = Callable[[int, int, str], None]


def solve(
    photos: Photos, claims: Mapping[int, Claim], scene: Scene | None = None, progress: Progress | None = None
) -> Views:
    """Find an object in all photos.

    Args:
        photos: of the scene.
        claims: what a person said, by view, in the order in which it was said.
        scene: cameras and points of the photos, where they are known.
        progress: called with steps done, steps in all, and what is being done.
    """
    start = time.monotonic()
    return Rounds(photos, claims, scene, progress or _silent).run(start)


def _silent(done: int, steps: int, what: str) -> None:
    """No progress is shown."""


class Rounds:
    """The two rounds over all views.

    Args:
        photos: of the scene.
        claims: see `solve`.
        scene: cameras and points, or None.
        progress: see `solve`.

    Attributes:
        said: the object's mask in prompted views.
        anchors: those of them that the other views follow.
        found: the mask in all other views.
    """

    def __init__(self, photos: Photos, claims: Mapping[int, Claim], scene: Scene | None, progress: Progress):
        self.photos, self.scene, self.progress = photos, scene, progress
        self.steps = len(photos) + 3 * (len(photos) - len(claims))
        self.done = 0
        known = photos.survey is not None
        seen = survey(photos, lambda done: self._step("reading the photos"))
        self.done = len(photos) if known else self.done
        self.likeness = with_scene(seen.likeness, scene)
        self.finder = Finder(photos, seen)
        self.said = {view: self.finder.given(view, claim.prediction) for view, claim in claims.items()}
        side = len(next(iter(self.said.values())).logits)
        self.evidence = Evidence(scene, side) if scene is not None and len(scene.points) else None
        followed = Accord(claims, self.said, self.finder, self.likeness, self.evidence).followed()
        self.anchors = {view: self.said[view] for view in followed}
        self.trust = {view: self.finder.trust(view, found) for view, found in self.anchors.items()}
        parted = max(farthest(found.logits > 0) for found in self.anchors.values())
        self.allowed = max(GAP, SLACK * parted)
        self.found: dict[int, Found] = {}
        self.reliable: dict[int, float] = {}
        self.expected: dict[int, np.ndarray] = {}

    def run(self, start: float) -> Views:
        """Both rounds, and the judgement."""
        order = [view for view in reach(self.likeness, list(self.anchors)) if view not in self.said]
        for view in order:
            self._first(view)
        for view in sorted(order, key=lambda view: -self.reliable[view]):
            if self._disagrees(view):
                self._again(view)
            self._step("with all views together")
        return self._views(order, start)

    def _step(self, what: str) -> None:
        self.done += 1
        self.progress(self.done, self.steps, what)

    def _memory(self, view: int) -> dict[int, Found]:
        """The views that vote on one: prompted ones, and the reliable ones of the others."""
        chosen = nearest(self.likeness, view, self.anchors, ANCHORS)
        best = max(self.reliable.values(), default=0.0)
        reliable = [other for other, value in self.reliable.items() if value >= RELIABLE * best and value > 0]
        found = nearest(self.likeness, view, reliable, OTHERS)
        return {other: self.anchors[other] for other in chosen} | {other: self.found[other] for other in found}

    def _look(self, view: int) -> Found:
        votes = self.finder.vote(view, self._memory(view))
        share = votes.probability
        if self.evidence is not None:
            belief = self._belief(view)
            share = np.where(self.evidence.against(view, share > 0.5, *belief), np.float32(0), share)
            share = self.evidence.mix(view, share, *belief)
        inside = share > 0.5
        share = np.where(inside & ~belonging(inside, share, self.allowed), np.float32(0), share)
        self.expected[view] = share
        anchor = nearest(self.likeness, view, self.anchors, 1)[0]
        found = self.finder.decode(view, share, votes.similarity, self.trust[anchor])
        inside = found.logits > 0
        strange = inside & ~belonging(inside, inside * share, self.allowed)
        if self.evidence is not None:
            strange |= self.evidence.against(view, inside, *belief)
        return replace(found, logits=np.where(strange, -CERTAIN_LOGIT, found.logits)) if strange.any() else found

    def _belief(self, view: int | None) -> tuple[np.ndarray, np.ndarray]:
        shares = {v: f.share for v, f in self.anchors.items()} | {v: f.share for v, f in self.found.items()}
        trust = dict.fromkeys(self.anchors, 1.0) | {v: 0.5 * r for v, r in self.reliable.items()}
        return self.evidence.belief(shares, trust, without=view)

    def _back(self, view: int, found: Found) -> float:
        return self.finder.back(view, found, self.anchors, nearest(self.likeness, view, self.anchors, ANCHORS))

    def _first(self, view: int) -> None:
        self.found[view] = self._look(view)
        self.reliable[view] = self._back(view, self.found[view])
        self._step("along similar photos")

    def _again(self, view: int) -> None:
        again = self._look(view)
        reliable = self._back(view, again)
        if reliable >= self.reliable[view]:
            self.found[view], self.reliable[view] = again, reliable

    def _disagrees(self, view: int) -> bool:
        """Whether the first round left something to mend in a view."""
        fits = soft_iou(self.found[view].share, self.expected[view])
        return fits < AGREED or self.reliable[view] < AGREED * max(self.reliable.values())

    def _views(self, order: list[int], start: float) -> Views:
        """Masks at the photos' sizes, each with a judgement."""
        views, judged = [], {}
        for view in range(len(self.photos)):
            found = self.said.get(view) or self.found[view]
            prompted, name = view in self.said, self.photos.names[view]
            mask = upsample(found.logits, found.logits.shape, self.photos.size(view)) > 0
            signs = self._signs(view, found)
            here = bool(mask.mean() >= LEAST) and (prompted or found.likeness >= ABSENT)
            mask = mask if here else np.zeros_like(mask)
            judged[view] = consistency.judge(signs, prompted, here, view in self.anchors or not prompted)
            views.append(View(name, encode_rle(mask), signs.score, judged[view], prompted, here))
            if not prompted:
                self._step("judging")
        return Views(
            tuple(views),
            self._points(),
            consistency.whole(judged, dict(enumerate(self.photos.names))),
            tuple(order),
            self._notes(views),
            time.monotonic() - start,
        )

    def _signs(self, view: int, found: Found) -> consistency.Signs:
        others = self._memory(view)
        others.pop(view, None)
        if view in self.said and others:
            votes = self.finder.vote(view, others)
            expected, likeness = votes.probability, votes.similarity
            rest = {anchor: known for anchor, known in self.anchors.items() if anchor != view}
            order = nearest(self.likeness, view, rest, ANCHORS)
            back = self.finder.back(view, found, rest, order) if rest else soft_iou(expected, found.share)
        else:
            expected, likeness = self.expected.get(view, found.share), found.likeness
            back = self.reliable.get(view, 1.0)
        points = (0, 0, 0)
        if self.evidence is not None:
            points = self.evidence.tally(view, found.share, *self._belief(view))
        return consistency.Signs(
            back,
            soft_iou(found.share, expected),
            self._score(view, found),
            likeness,
            *points,
            name=self.photos.names[view],
        )

    def _score(self, view: int, found: Found) -> float:
        """IoU that the segmenter predicts when it is asked with the mask itself."""
        asked = prompt_variants(found.share, self.photos.size(view))
        if not asked:
            return 0.0
        prediction = self.photos.segmenter.predict(self.photos.embedding(view), asked["box and map"])
        return float(np.clip(prediction.scores[prediction.choice], 0, 1))

    def _points(self) -> np.ndarray:
        if self.evidence is None:
            return np.zeros(0, np.int64)
        belief, weight = self._belief(None)
        return np.flatnonzero((weight > 0) & (belief >= 0.5))

    def _notes(self, views: list[View]) -> tuple[str, ...]:
        notes = []
        alone = [view.name for number, view in enumerate(views) if view.prompted and number not in self.anchors]
        if alone:
            followed = ", ".join(self.photos.names[view] for view in sorted(self.anchors))
            names = ", ".join(alone)
            notes.append(
                f"the prompt in {names} contradicts {followed} and counts in its own view only; clear one of them"
            )
        if self.scene is None:
            notes.append("no cameras are known: views were compared by their looks alone")
        elif not self.scene.placed.all():
            rest = ", ".join(n for n, placed in zip(self.photos.names, self.scene.placed, strict=True) if not placed)
            notes.append(f"no camera is known of {rest}: there the object was found by its looks alone")
        absent = [view.name for view in views if not view.found]
        if absent:
            notes.append(f"the object was not found in {', '.join(absent)}")
        return tuple(notes)
