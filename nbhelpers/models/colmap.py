"""Structure from motion on a CPU by pycolmap, verified by runs on different features.

The first run uses SIFT, which is accurate and needs no weights. A second run on learned features must give the same
cameras. These features are first matched as nearest neighbours, which is fast, while the first run still maps; of many
photos that run maps all cameras at once. Only if it does not confirm every photo, LightGlue matches the features, and
if photos are still missing, a further run uses finer learned features. Photos on which no two runs agree remain
unregistered: a run can register all photos with a reprojection error below a pixel and still be wrong, for example for
a rotating object on a black background, or a building with two similar sides. Two runs can be wrong alike, so photos in
which the points of the others have other colours remain unregistered too, see `color_conflicts`.
"""

from __future__ import annotations

import itertools
import logging
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import load_image, rgb_to_lab
from nbhelpers.core.lazy import needs
from nbhelpers.core.scenes import MIN_FACING_COSINE, Scene, few
from nbhelpers.models.colmap_mapping import (
    CLEAR_FRACTION,
    FIRST_PAIR_MATCHES,
    GROWTH,
    MANY,
    MIN_ANGLE,
    Run,
    point_colors,
    quiet_log,
    run_global_mapping,
    run_mapping,
)
from nbhelpers.models.colmap_matching import (
    EXHAUSTIVE,
    FeatureStore,
    JoinedFeatures,
    Pair,
    candidate_pairs,
    connected_groups,
    pairs_of_runs,
    verified_pairs,
)
from nbhelpers.models.matchers import MutualNearest, Sift
from nbhelpers.models.protocols import Matcher

log = logging.getLogger(__name__)
LEARNED = ("xfeat-lighterglue", "disk-lightglue")
SECOND_SEED = 1  # added for a run that starts from another pair of photos
MIN_POINTS = 30  # points of a photo that is registered by only one run, or by the combined matches
MAX_ROTATION = 3.0  # between the relative rotations of two runs
MAX_CENTER = 0.2  # RMS distance of the centres after alignment, as a fraction of their spread
MAJORITY = 0.5  # of the common photos that must agree for any to be confirmed
MIN_DEEP_FRACTION = 0.15  # of the pairs that must show depth
MIN_FEATURES = 40  # of a photo, below which it is not matched
MIN_SHIFT = 0.7  # pixels of movement between two photos below which they are the same photo
MIN_COMPARED = 100  # points that other photos observed and that project into a photo, for a verdict on its colours
MAX_COLOR_DIFFERENCE = 20.0  # in CIELAB
MIN_CHANCE = 0.3  # fraction of differing colours in random order, below which colours say nothing
MAX_CONFLICT = 0.75  # of that fraction: 0.81 and more for 68 exchanged cameras, up to 0.67 for 47 right ones


@dataclass(frozen=True, eq=False)
class CheckedRun:
    """A run, and which of its photos are confirmed.

    Attributes:
        run: the model.
        confirmed: ``(v,)``.
        notes: reasons.
    """

    run: Run
    confirmed: Bool[np.ndarray, " v"]
    notes: tuple[str, ...]


class ColmapEstimator:
    """Verified structure from motion; a `nbhelpers.models.protocols.SceneEstimator`.

    Example:
        >>> scene = nbhelpers.load("scene_estimator", "colmap").reconstruct(photos)
        >>> scene.placed, scene.notes

    Args:
        matchers: matchers, or functions that build one on demand; each run uses the next one.
        check: a fast matcher, or a function that builds it, for a run after the first, which counts only if it
            confirms every photo.
        name: catalog name.
        device: where learned features are computed.
        seed: of all random numbers, for reproducible scenes.
    """

    def __init__(
        self,
        matchers: Sequence[Matcher | Callable[[], Matcher]],
        name: str = "colmap",
        device: str = "cpu",
        seed: int = 0,
        check: Matcher | Callable[[], Matcher] | None = None,
    ):
        self.matchers, self.name, self.device, self.seed, self.check = matchers, name, device, seed, check

    def reconstruct(self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]], names: Sequence[str] | None = None) -> Scene:
        """A scene of all photos; its notes list those that could not be registered, and why.

        Args:
            images: RGB photos of one static scene, of any sizes; a lazy sequence is read one photo at a time.
            names: of the photos; by default their numbers.

        Raises:
            NbHelpersError: no photos, or another number of names.
        """
        names = tuple(names if names is not None else (f"{number:05d}" for number in range(len(images))))
        if not len(images) or len(names) != len(images):
            raise NbHelpersError("photos and names differ in number", given=f"{len(images)} photos, {len(names)} names")
        if len(images) == 1:
            return self._empty_scene(images, names, ["a single photo shows no depth, so it is not registered"])
        folder = tempfile.TemporaryDirectory(prefix="nbhelpers-features-")
        with folder as name, quiet_log(), ThreadPoolExecutor(1) as pool:
            return self._solve(images, names, Path(name), pool)

    def _solve(self, images: Sequence[np.ndarray], names: tuple[str, ...], folder: Path, pool: Executor) -> Scene:
        runs, stores, notes = [], [], []
        checked = None
        check = self._start_check(images, folder, pool) if len(images) > EXHAUSTIVE else None
        for number, matcher in enumerate(self.matchers):
            try:
                matcher = matcher if isinstance(matcher, Matcher) else matcher()
            except NbHelpersError as error:
                notes.append(f"learned features are not available, so fewer runs were made: {error.what}")
                continue
            stores.append(FeatureStore(matcher, images, folder / str(number)))
            runs.append(self._run(stores[-1], runs))
            checked = self._check(stores, runs, number == len(self.matchers) - 1)
            if not number and runs[0].placed.all() and not shows_no_depth(runs[0].all_pairs):
                check = check or self._start_check(images, folder, pool)
                checked = self._quick_check(runs[0], *check)
            if checked is not None and checked.confirmed.all():
                break
        if checked is None:
            return self._empty_scene(images, names, [*_failure_notes(runs, stores, names), *notes])
        notes = [*checked.notes, *_missing_notes(checked, names, stores, runs), *notes]
        scene = _scene(images, names, checked, stores[0].sizes, self.name, notes)
        wrong = color_conflicts(scene, images) > MAX_CONFLICT
        if not wrong.any() or wrong.sum() >= MAJORITY * scene.placed.sum():  # the light may have changed
            return scene
        listed = few([name for name, bad in zip(names, wrong, strict=True) if bad])
        line = f"not registered, because the points of the other photos have other colours there: {listed}"
        checked = replace(checked, confirmed=checked.confirmed & ~wrong)
        return _scene(images, names, checked, stores[0].sizes, self.name, [*notes, line])

    def _start_check(
        self, images: Sequence[np.ndarray], folder: Path, pool: Executor
    ) -> tuple[FeatureStore | None, Future]:
        """The features of the fast matcher, None if there is none, and the run on them, in another thread."""
        try:
            matcher = self.check if isinstance(self.check, Matcher) or self.check is None else self.check()
        except NbHelpersError:
            matcher = None  # the next run notes it
        store = None if matcher is None else FeatureStore(matcher, images, folder / "check")
        return store, pool.submit(self._quick_run, store)

    def _quick_run(self, store: FeatureStore | None) -> Run | None:
        """A run on quickly matched features."""
        if store is None:
            return None
        pairs = verified_pairs(store, candidate_pairs(store, EXHAUSTIVE), self.seed)
        if len(store) > MANY:
            return run_global_mapping(store, pairs, self.seed)
        return run_mapping(store, pairs, self.seed, growth=GROWTH)

    def _quick_check(self, run: Run, store: FeatureStore | None, quick: Future) -> CheckedRun | None:
        """A run that registered all photos, if a quick one agrees on all; of many photos mapped again one by one."""
        other = quick.result()
        if store is None or other is None:
            return None
        shared = agreement(run.poses, other.poses)
        if not shared.views.all() and len(store) > MANY:
            other = run_mapping(store, other.all_pairs, self.seed, growth=GROWTH)
            shared = agreement(run.poses, other.poses)
        return _checked(run, other, shared) if shared.views.all() else None

    def _run(self, store: FeatureStore, before: Sequence[Run]) -> Run:
        wanted = pairs_of_runs(len(store), [run.all_pairs for run in before]) if len(before) > 1 else None
        run = run_mapping(store, verified_pairs(store, wanted or candidate_pairs(store), self.seed), self.seed)
        log.info("%s: %d of %d photos, %d points", run.matcher, run.placed.sum(), len(store), len(run.points))
        return run

    def _check(self, stores: Sequence[FeatureStore], runs: Sequence[Run], last: bool) -> CheckedRun | None:
        """The best run so far with its confirmed photos; None if no two agree, or the photos show no depth."""
        consistent = consistent_runs(runs)
        if consistent is None or shows_no_depth(consistent[0].all_pairs):
            return None
        run, other, shared = consistent
        checked = _checked(run, other, shared)
        if not shared.views.all() and shared.views.sum() >= MAJORITY * run.placed.sum():
            checked = self._restarted(stores[runs.index(run)], checked)
        return self._joined(stores, runs, checked) if last and not checked.confirmed.all() else checked

    def _restarted(self, store: FeatureStore, checked: CheckedRun) -> CheckedRun:
        """Confirm more photos of a mostly confirmed run if a run from another first pair gives the same cameras."""
        run = checked.run
        again = run_mapping(store, run.all_pairs, self.seed + SECOND_SEED, barred=run.first_pair)
        seen = np.bincount(run.views, minlength=len(store)) >= MIN_POINTS
        more = agreement(run.poses, again.poses).views & seen & ~checked.confirmed
        if not more.any():
            return checked
        line = f"{more.sum()} more by {run.matcher} only, consistent from two initial pairs"
        return CheckedRun(run, checked.confirmed | more, (*checked.notes, line))

    def _joined(self, stores: Sequence[FeatureStore], runs: Sequence[Run], checked: CheckedRun) -> CheckedRun:
        """Confirm more photos by the combined matches of all runs, with the lens of the confirmed cameras.

        The confirmed photos must keep their cameras, and the others must be consistent from two initial pairs.
        """
        joined, best, confirmed = JoinedFeatures(stores), checked.run, checked.confirmed
        lenses = best.lenses(joined.sizes)
        pairs = joined.pairs([run.all_pairs for run in runs], lenses, self.seed)
        run = run_mapping(joined, pairs, self.seed, lenses)
        again = run_mapping(joined, pairs, self.seed + SECOND_SEED, lenses, barred=run.first_pair)
        kept = agreement(best.poses, run.poses).views & confirmed
        more = agreement(run.poses, again.poses).views & (np.bincount(run.views, minlength=len(joined)) >= MIN_POINTS)
        if kept.sum() < confirmed.sum() or (kept | more).sum() <= confirmed.sum():
            return checked
        line = (
            f"{(kept | more).sum() - confirmed.sum()} more by the combined matches, consistent from two initial pairs"
        )
        return CheckedRun(run, kept | more, (*checked.notes, line))

    def _empty_scene(self, images: Sequence[np.ndarray], names: Sequence[str], notes: Sequence[str]) -> Scene:
        """A scene without a registered view."""
        views, none = len(images), np.zeros(0, int)
        return Scene(
            tuple(names),
            np.array([np.shape(images[number])[:2] for number in range(views)], int),
            np.full((views, 3, 3), np.nan),
            np.full((views, 3, 4), np.nan),
            np.zeros((0, 3)),
            np.zeros((0, 3), np.uint8),
            none,
            none,
            np.zeros((0, 2)),
            model=self.name,
            notes=tuple(notes),
        )


def _checked(run: Run, other: Run, shared: Agreement) -> CheckedRun:
    """A run whose photos another run confirms."""
    line = (
        f"cameras from {run.matcher}, {run.error:.2f} px; a run with {other.matcher} agrees within "
        f"{shared.median:.1f} degrees (median, {shared.worst:.1f} at most) on {shared.views.sum()} photos"
    )
    return CheckedRun(run, shared.views, (line, *_narrow_notes(run)))


def _narrow_notes(run: Run) -> list[str]:
    """A note on photos that were taken close together."""
    if not run.widest < CLEAR_FRACTION * MIN_ANGLE:
        return []
    return [
        f"taken close together: the triangulation angle of any two photos is at most {run.widest:.0f} degrees, "
        "so depths are less accurate than directions"
    ]


def _missing_notes(
    checked: CheckedRun, names: Sequence[str], stores: Sequence[FeatureStore], runs: Sequence[Run]
) -> list[str]:
    """Notes on the photos that are not registered."""
    seen = np.any([run.placed for run in runs], axis=0)
    notes = []
    if doubted := [name for name, ok, here in zip(names, checked.confirmed, seen, strict=True) if here and not ok]:
        notes.append(f"not registered, because no two runs agree on its camera: {few(doubted)}")
    if absent := [name for name, ok, here in zip(names, checked.confirmed, seen, strict=True) if not here and not ok]:
        notes.append(f"not registered, because of too few matches with the others: {few(absent)}")
        most = max(range(len(runs)), key=lambda at: len(runs[at].all_pairs))
        notes += missing_photo_notes(stores[most], runs[most].all_pairs, names)
    return notes


def _failure_notes(runs: Sequence[Run], stores: Sequence[FeatureStore], names: Sequence[str]) -> list[str]:
    """Notes on why there is no model at all."""
    notes = ["the scene could not be reconstructed: no photo is registered"]
    placed = [run for run in runs if run.placed.sum() > 1]
    if len(placed) > 1:
        apart = [agreement(first.poses, second.poses) for first, second in itertools.combinations(placed, 2)]
        differ = [each.median for each in apart if not each.holds and np.isfinite(each.median)]
        if differ:
            who = ", ".join(run.matcher for run in placed)
            notes.append(f"runs ({who}) found cameras that differ by {min(differ):.0f} degrees or more (median)")
    elif placed:
        notes.append(f"only the run with {placed[0].matcher} found cameras, and no other confirmed them")
    most = max(range(len(runs)), key=lambda at: len(runs[at].all_pairs), default=None)
    notes += missing_photo_notes(stores[most], runs[most].all_pairs, names) if most is not None else []
    if len(notes) > 1:
        return notes
    if placed:
        return [*notes, "the runs registered different photos, so none confirmed another"]
    widest = max((run.widest for run in runs if np.isfinite(run.widest)), default=None)
    if widest is None:
        return [*notes, f"no two photos have the {FIRST_PAIR_MATCHES} matches that the initial pair needs"]
    return [
        *notes,
        f"no initial pair was found: the triangulation angle of any two photos is at most {widest:.1f} degrees; take "
        "the photos from positions farther apart",
    ]


def _scene(
    images: Sequence[np.ndarray],
    names: Sequence[str],
    checked: CheckedRun,
    sizes: Sequence[tuple[int, int]],
    model: str,
    notes: Sequence[str],
) -> Scene:
    """The confirmed photos of a run, and the points observed by at least two of them."""
    run, confirmed = checked.run, checked.confirmed
    kept = confirmed[run.views]
    counts = np.bincount(run.tracks[kept], minlength=len(run.points))
    kept &= counts[run.tracks] > 1
    numbers, tracks = np.unique(run.tracks[kept], return_inverse=True)
    views, pixels = run.views[kept], run.pixels[kept]
    intrinsics, poses = run.intrinsics.copy(), run.poses.copy()
    intrinsics[~confirmed], poses[~confirmed] = np.nan, np.nan
    return Scene(
        tuple(names),
        np.array(sizes, int),
        intrinsics,
        poses,
        run.points[numbers],
        point_colors(images, views, tracks, pixels, len(numbers)),
        views,
        tracks,
        pixels,
        distortion=run.distortion,
        model=model,
        notes=tuple(notes),
    )


def build(name: str, files: dict[str, Path], device: str, install: str = "") -> ColmapEstimator:
    """Build the estimator; ``files`` is empty, since it has no weights, and ``install`` is used by the catalog.

    Raises:
        NbHelpersError: pycolmap is not installed.
    """
    needs("multiview", "pycolmap")
    learned: list[Callable[[], Matcher]] = [partial(_matcher, which, device) for which in LEARNED]
    return ColmapEstimator([Sift(), *learned], name, device, check=lambda: MutualNearest(_matcher(LEARNED[0], device)))


def _matcher(name: str, device: str) -> Matcher:
    """A learned matcher, loaded when it is needed."""
    from nbhelpers.models.load import load

    return load("matcher", name, device)


@dataclass(frozen=True, eq=False)
class Agreement:
    """Agreement of two runs.

    Attributes:
        views: photos whose cameras agree.
        median: median difference of their relative rotations in degrees; of all common photos if none agree.
        worst: the maximum difference.
        away: difference of the centres after alignment, root mean square, as a fraction of their spread.
    """

    views: Bool[np.ndarray, " v"]
    median: float
    worst: float
    away: float

    @property
    def holds(self) -> bool:
        """Whether any photo is confirmed."""
        return bool(self.views.any())


def agreement(first: Float[np.ndarray, "v 3 4"], second: Float[np.ndarray, "v 3 4"]) -> Agreement:
    """The common photos for which two sets of cameras agree.

    Photos that disagree with most others are removed one by one, the worst first. The rest must be the majority, and
    its centres must agree too, which excludes cameras that only rotated.
    """
    common = np.flatnonzero(np.isfinite(first).all((1, 2)) & np.isfinite(second).all((1, 2)))
    none = np.zeros(len(first), bool)
    if len(common) < 2:
        return Agreement(none, float("nan"), float("nan"), float("nan"))
    differences = rotation_differences(first[common, :, :3], second[common, :, :3])
    kept = np.arange(len(common))
    while len(kept) > 1:
        typical = np.array([np.median(np.delete(differences[i, kept], at)) for at, i in enumerate(kept)])
        if typical.max() <= MAX_ROTATION:
            break
        kept = np.delete(kept, typical.argmax())
    if len(kept) < 2 or len(kept) <= MAJORITY * len(common):
        upper = differences[np.triu_indices(len(common), 1)]
        return Agreement(none, float(np.median(upper)), float(upper.max()), float("nan"))
    upper = differences[np.ix_(kept, kept)][np.triu_indices(len(kept), 1)]
    away = center_difference(first[common[kept]], second[common[kept]])
    views = none.copy()
    views[common[kept]] = len(kept) == 2 or away <= MAX_CENTER
    return Agreement(views, float(np.median(upper)), float(upper.max()), away)


def rotation_differences(first: Float[np.ndarray, "v 3 3"], second: Float[np.ndarray, "v 3 3"]) -> np.ndarray:
    """``(v, v)`` degrees between the rotations from view to view of one set of cameras and of the other."""
    # trace((A_i A_j^T)(B_i B_j^T)^T) = trace(D_j^T D_i) with D = B^T A
    delta = np.einsum("vki,vkj->vij", second, first)
    trace = np.einsum("aij,bij->ab", delta, delta)
    return np.degrees(np.arccos(np.clip((trace - 1) / 2, -1, 1)))


def center_difference(first: Float[np.ndarray, "v 3 4"], second: Float[np.ndarray, "v 3 4"]) -> float:
    """Distance of the centres after alignment, root mean square, as a fraction of the spread of the first."""
    a, b = (-np.einsum("vji,vj->vi", each[:, :, :3], each[:, :, 3]) for each in (first, second))
    scale, turn, shift = similarity_transform(b, a)
    moved = scale * b @ turn.T + shift
    spread = np.sqrt(((a - a.mean(0)) ** 2).sum(1).mean())
    return float(np.sqrt(((moved - a) ** 2).sum(1).mean()) / max(spread, 1e-12))


def similarity_transform(
    source: Float[np.ndarray, "n 3"], target: Float[np.ndarray, "n 3"]
) -> tuple[float, Float[np.ndarray, "3 3"], Float[np.ndarray, " 3"]]:
    """Scale, rotation and shift that carry points onto others with the least squared distance (Umeyama 1991)."""
    a, b = source - source.mean(0), target - target.mean(0)
    left, values, right = np.linalg.svd(b.T @ a)
    sign = np.array([1, 1, np.sign(np.linalg.det(left @ right))])
    turn = left * sign @ right
    scale = float((values * sign).sum() / max((a**2).sum(), 1e-12))
    return scale, turn, target.mean(0) - scale * turn @ source.mean(0)


def color_conflicts(scene: Scene, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]) -> Float[np.ndarray, " v"]:
    """How badly the points of the other photos fit the colours of each photo, relative to chance.

    The photo's exposure and white balance are corrected by the points that it observed.

    Two runs can agree on a wrong camera if an object has two similar sides. Then points that the photo did not observe,
    but should see, lie on something else in it. (Heinly, Dunn and Frahm, ECCV 2014, look for such conflicting
    observations to correct scenes with duplicate structure.)

    Args:
        scene: with points and observations.
        images: its photos.

    Returns:
        Fraction of those points whose colour differs by more than `MAX_COLOR_DIFFERENCE`, divided by that of the same
        colours in random order; NaN without a verdict. Right cameras have up to 0.7, since some points are occluded.
    """
    out, rng, colors = np.full(len(scene), np.nan), np.random.default_rng(0), rgb_to_lab(scene.colors)
    for view in np.flatnonzero(scene.placed).tolist():
        pixels, _ = scene.project(view, scene.points)
        shown = np.isfinite(pixels).all(1) & (scene.facing(view) > MIN_FACING_COSINE)
        shown[shown] = scene.inside(view, pixels[shown])
        own, at = scene.seen(view)
        shown[own] = False
        if shown.sum() < MIN_COMPARED:
            continue
        image = load_image(np.asarray(images[view]))
        x, y = np.clip(np.rint(np.concatenate([at, pixels[shown]])).astype(int), 0, np.array(image.shape[1::-1]) - 1).T
        here = image[y, x].astype(float)
        if len(own):  # exposure and white balance of the photo
            here *= np.median((scene.colors[own] + 1.0) / (here[: len(own)] + 1), axis=0)
        here, there = rgb_to_lab(np.clip(here[len(own) :], 0, 255).astype(np.uint8)), colors[shown]
        shuffled = there[rng.permutation(len(there))]
        found, chance = (
            np.mean(np.linalg.norm(here - each, axis=1) > MAX_COLOR_DIFFERENCE) for each in (there, shuffled)
        )
        if chance >= MIN_CHANCE:
            out[view] = found / chance
    return out


def shows_no_depth(pairs: Sequence[Pair]) -> bool:
    """Whether nearly all pairs of photos can be explained by a rotation of the camera or by a plane.

    For such photos runs can agree on cameras that are all wrong: a wrong focal length compensates for the missing
    baseline.
    """
    return sum(not pair.flat for pair in pairs) <= MIN_DEEP_FRACTION * len(pairs)


def missing_photo_notes(store: FeatureStore, pairs: Sequence[Pair], names: Sequence[str]) -> list[str]:
    """Notes on photos without a camera: one line per reason."""
    notes = []
    bare = [name for name, count in zip(names, store.counts, strict=True) if count < MIN_FEATURES]
    if bare:
        notes.append(f"too little texture for matching: {few(bare)}")
    if not pairs:
        if len(bare) < len(names):
            notes.append("no two photos have enough matches: they do not overlap, or the viewpoints are too far apart")
        return notes
    if all(pair.shift < MIN_SHIFT for pair in pairs):
        notes.append("the matching photos were taken from the same viewpoint: they show no depth")
    elif shows_no_depth(pairs):
        notes.append("most photos differ only by a rotation of the camera, or the scene is flat: they show no depth")
    parts = [part for part in connected_groups(len(names), pairs) if len(part) > 1]
    if len(parts) > 1:
        listed = "; ".join(few([names[view] for view in part]) for part in parts)
        notes.append(
            f"the photos fall into {len(parts)} groups without common matches, of which the largest is kept: {listed}"
        )
    return notes


def consistent_runs(runs: Sequence[Run]) -> tuple[Run, Run, Agreement] | None:
    """The best run, one that agrees with it, and their agreement; None if no two agree.

    Runs are compared by the number of photos that agree, then by their error.
    """
    agreeing = []
    for run in runs:
        for other in runs:
            if other is not run and (shared := agreement(run.poses, other.poses)).holds:
                agreeing.append(
                    (int(shared.views.sum()), int(run.placed.sum()), -run.error, len(agreeing), run, other, shared)
                )
    return max(agreeing)[-3:] if agreeing else None
