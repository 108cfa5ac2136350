"""One phrase or some clicks on a scene, answered: a result a view, and all of it together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from nbhelpers.core.scenes import Scene
from nbhelpers.multiview.objects import lift
from nbhelpers.multiview.search import Found
from nbhelpers.multiview.session import ViewsSession
from nbhelpers.multiview.values import Views
from nbhelpers.plots import colour_of, overlay
from nbhelpers.plots3d import Arrow, draw_scene

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SURFACES = 4  # views from which the object's surface is lifted


@dataclass(frozen=True, eq=False)
class ViewResult:
    """The object in one view.

    Attributes:
        view_index: number of the photo.
        name: of the photo.
        similarity: how much the view looks like the noun, 0 to 1; NaN where it was not asked.
        consistency: how well its mask goes together with those of the others, 0 to 1.
        why: a sentence on that.
        found: whether the object was found here.
    """

    view_index: int
    name: str
    similarity: float
    consistency: float
    why: str
    found: bool
    _result: Result = field(repr=False)

    @property
    def mask(self) -> Bool[np.ndarray, "h w"]:
        """At the photo's size, made anew at each call."""
        return self._result.views.mask(self.view_index)

    @property
    def overlay(self) -> UInt8[np.ndarray, "h w 3"]:
        """The photo with the mask laid over it."""
        return overlay(self._result.session.image(self.view_index), self.mask)


@dataclass(frozen=True, eq=False)
class Result:
    """The same object in all views: a sequence of `ViewResult`.

    Example:
        >>> result = MultiviewSegmenter().run("photos", "chair behind the desk")
        >>> for view in result:
        ...     view.view_index, view.mask, view.overlay, view.similarity, view.consistency
        >>> print(result)

    Attributes:
        session: takes corrections by clicks; solve it again and `with_views` follows.
        views: masks and consistency.
        found: what the phrase led to; None where there was no phrase.
        name: of the object.
        notes: what a person should know.
    """

    session: ViewsSession = field(repr=False)
    views: Views = field(repr=False)
    found: Found | None
    name: str
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, view: int) -> ViewResult:
        each = self.views[view]
        similarity = float("nan")
        if (
            self.found is not None
            and self.found.similarity.shape[1]
            and self.found.choice.phrase.noun in self.found.nouns
        ):
            column = self.found.nouns.index(self.found.choice.phrase.noun)
            similarity = float(self.found.similarity[view, column])
        return ViewResult(view, each.name, similarity, each.consistency.value, each.consistency.why, each.found, self)

    def __iter__(self) -> Iterator[ViewResult]:
        return (self[view] for view in range(len(self)))

    @property
    def scene(self) -> Scene | None:
        """Cameras and points; None where features alone were used."""
        return self.session.scene

    @property
    def consistency(self) -> float:
        """How consistent all views are together, 0 to 1."""
        return self.views.whole.value

    def __str__(self) -> str:
        lines = []
        if self.found is not None:
            lines += [self.found.choice.phrase.understood, self.found.choice.why]
        count = sum(view.found for view in self.views)
        lines.append(
            f"{self.name}: found in {count} of {len(self)} views, consistency {self.consistency:.2f}, "
            f"{self.views.whole.why}"
        )
        doubtful = [view for view in self.views if view.consistency.is_doubtful]
        lines += [f"look again: {view.consistency.why}" for view in doubtful]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def labels(self) -> tuple[Int[np.ndarray, " p"], tuple[str, ...], tuple[str, ...]]:
        """For each point of the scene the index of its object, -1 for none; names and colours of the objects.

        The object is the first; those that the phrase's relations named follow.
        """
        scene = self.scene
        labels = np.full(0 if scene is None else len(scene.points), -1)
        others = () if self.found is None else self.found.references
        names = (self.name, *(other.name for other in others))
        for number, other in reversed(list(enumerate(others, 1))):
            labels[other.points] = number
        labels[self.views.points] = 0
        return labels, names, tuple(colour_of(number) for number in range(len(names)))

    def surface(self) -> tuple[Float[np.ndarray, "n 3"], Int[np.ndarray, " n"]]:
        """More places on the objects than the scene's own points, and the index of the object of each.

        The pixels of the masks, lifted to space; of the object in its `SURFACES` most consistent views.
        """
        scene = self.scene
        if scene is None:
            return np.empty((0, 3)), np.empty(0, int)
        order = sorted((view for view in self if view.found), key=lambda view: -view.consistency)
        placed = [view for view in order if scene.placed[view.view_index]][:SURFACES]
        parts = [np.concatenate([np.empty((0, 3)), *(lift(scene, view.view_index, view.mask) for view in placed)])]
        parts += [other.xyz for other in (() if self.found is None else self.found.references)]
        return np.concatenate(parts), np.repeat(np.arange(len(parts)), [len(part) for part in parts])

    def arrows(self) -> tuple[Arrow, ...]:
        """The relations that decided, for a picture."""
        if self.found is None or not self.found.choice.ranking:
            return ()
        names = [other.name for other in self.found.references]
        out = []
        for judgement in self.found.choice.ranking[0].judgements:
            if judgement.references:
                ends = [names.index(self.found.objects[n].name) + 1 for n in judgement.references]
            else:
                ends = [-1]
            text = f"{judgement.relation.words} ({judgement.score:.2f})"
            out += [Arrow(0, end, text if index == 0 else "") for index, end in enumerate(ends)]
        return tuple(out)

    def figure(self, **what: Any) -> Figure:
        """The scene to turn: points coloured by object, cameras, relations; see `nbhelpers.plots3d.draw_scene`."""
        labels, names, colours = self.labels()
        reference = None if self.found is None else self.found.frame.view
        return draw_scene(self.scene, labels, names, colours, arrows=self.arrows(), reference=reference, **what)

    def with_views(self, views: Views) -> Result:
        """The same with the views of a later ``session.solve()``."""
        return Result(self.session, views, self.found, self.name, self.notes)
