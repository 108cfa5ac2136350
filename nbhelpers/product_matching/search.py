"""The search of a session's photos: once per photo with cached proposals, in this process or on Dask workers.

A file of the cache is named by a key of everything that the search depends on: the bytes of the photo, the models, the
settings of the search, and the references that guide it. Proposals of another model have another name and are never
used. The file of a photo takes about 2 MB; the folder can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import outputs_dir, replacing, sha256
from nbhelpers.core.images import image_size, load_image
from nbhelpers.core.runs import photos as listed
from nbhelpers.core.runs import stems
from nbhelpers.models.protocols import PatchEncoder, Segmenter
from nbhelpers.product_matching.features import InstanceFeatures
from nbhelpers.product_matching.gallery import Gallery, evenly_spaced, mean_feature
from nbhelpers.product_matching.panorama import search_photo
from nbhelpers.product_matching.propose import DescribedProposal, PhotoProposals
from nbhelpers.product_matching.settings import ProductSettings

FILE_FORMAT = "nbhelpers candidates 1"
PER_PATCH = {"patches": "patches", "weights": "weights", "places": "positions", "colours": "colours"}  # array: field
KEY_VERSION = 5  # increased when the proposals of a search change
SCORING_SETTINGS = ("similarity_threshold", "top_k_matches", "calibrate", "colour_weight", "mirror_weight")
CACHE_SIZE = 32_000_000  # bytes of features kept in memory; others are read from disk again
MEAN_PHOTOS = 8  # photos whose mean feature is subtracted
RESERVED_NAMES = ("run", "summary", "annotations", "matches", "gallery", "index", "mean", "cache", "reference")
log = logging.getLogger(__name__)

Outcome = tuple[tuple[int, int], str]
"""``(H, W)`` of a photo, and the error message of its search; empty without an error."""


def save_proposals(proposals: PhotoProposals, path: str | Path) -> Path:
    """Write proposals as one ``.npz`` file, atomically; arrays with a row per patch in half precision."""
    about = {
        "format": FILE_FORMAT,
        "size": list(proposals.size),
        "prompts": proposals.prompts,
        "seconds": proposals.seconds,
        "models": list(proposals.models),
        "notes": list(proposals.notes),
        "items": [
            {"rle": dict(item.rle), "box": list(item.box), "area": item.area, "quality": item.quality}
            for item in proposals.items
        ],
    }
    features = [item.features for item in proposals.items]
    arrays: dict[str, np.ndarray] = {"about": np.array(json.dumps(about))}
    if features:
        arrays["counts"] = np.array([len(each.weights) for each in features])
        arrays["average"] = np.stack([each.average for each in features])
        for name, field in PER_PATCH.items():
            arrays[name] = np.concatenate([getattr(each, field) for each in features]).astype(np.float16)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
    return Path(path)


def load_proposals(path: str | Path) -> PhotoProposals:
    """Read a file of `save_proposals`.

    Raises:
        NbHelpersError: the file is missing, damaged, or of another format.
    """
    try:
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as stored:
            about = json.loads(str(stored["about"]))
            if about["format"] != FILE_FORMAT:
                raise ValueError(about["format"])
            features = _features(stored) if about["items"] else []
        items = tuple(
            DescribedProposal(item["rle"], tuple(item["box"]), item["area"], item["quality"], each)
            for item, each in zip(about["items"], features, strict=True)
        )
        size, models, notes = (tuple(about[name]) for name in ("size", "models", "notes"))
        return PhotoProposals(size, items, about["prompts"], about["seconds"], models, notes)
    except NbHelpersError:
        raise
    except Exception as error:  # zip, numpy and json each raise their own
        raise NbHelpersError(
            "the cached proposals cannot be read",
            given=f"{path}: {error}",
            expected=FILE_FORMAT,
            do="delete the file; the photo is then searched again",
        ) from error


def _features(stored) -> list[InstanceFeatures]:
    """Features from the arrays of a file."""
    ends = np.cumsum(stored["counts"])[:-1]
    columns = [np.split(stored[name].astype(np.float32), ends) for name in PER_PATCH]
    return [InstanceFeatures(average, *each) for average, *each in zip(stored["average"], *columns, strict=True)]


def cache_key(
    photo: str, models: Sequence[str], settings: ProductSettings, guide: str | None = None, panorama: bool = False
) -> str:
    """The key of a photo's proposals: 40 hexadecimal digits.

    Args:
        photo: sha256 of its file.
        models: names of the segmenter and the patch encoder.
        settings: only those of the search matter; a new threshold needs no new search.
        guide: digest of the references that guide the search; a search on a grid depends on none.
        panorama: whether the photo is split into tiles.
    """
    search = {name: value for name, value in asdict(settings).items() if name not in SCORING_SETTINGS}
    guide = guide if settings.candidates == "guided" else None
    text = json.dumps([KEY_VERSION, photo, list(models), search, guide, panorama], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


class ProposalCache:
    """A folder of proposals by key, with an in-memory cache of the last used ones.

    Example:
        >>> cache = ProposalCache("outputs/shelf/cache")
        >>> cache.put(key, propose_candidates(image, segmenter, encoder, gallery, settings))
        >>> cache.get(key).items[0].box

    Args:
        folder: created by the first `put`.
        memory: bytes of features to keep in memory.
    """

    def __init__(self, folder: str | Path, memory: int = CACHE_SIZE):
        self.folder = Path(folder).expanduser()
        self._memory, self._kept = memory, OrderedDict[str, PhotoProposals]()

    def path(self, key: str) -> Path:
        """The file of a key."""
        return self.folder / key[:2] / f"{key}.npz"

    def __contains__(self, key: str) -> bool:
        return key in self._kept or self.path(key).is_file()

    def get(self, key: str) -> PhotoProposals | None:
        """The proposals of a key; None if there are none or the file is damaged."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if not self.path(key).is_file():
            return None
        try:
            proposals = load_proposals(self.path(key))
        except NbHelpersError as error:
            log.warning("ignoring a damaged file of the cache: %s", error.given)
            return None
        self._keep(key, proposals)
        return proposals

    def put(self, key: str, proposals: PhotoProposals) -> PhotoProposals:
        """Store proposals and return them as read back: features lose some precision on disk.

        Using the returned proposals gives the same results with and without a cached file.
        """
        save_proposals(proposals, self.path(key))
        self._kept.pop(key, None)
        return self.get(key) or proposals

    def _keep(self, key: str, proposals: PhotoProposals) -> None:
        """Keep proposals in memory, and drop the least recently used ones."""
        self._kept[key] = proposals
        while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > self._memory:
            self._kept.popitem(last=False)


def _bytes(proposals: PhotoProposals) -> int:
    """Approximate memory of proposals."""
    return sum(each.features.patches.nbytes + len(each.rle["counts"]) for each in proposals.items)


@dataclass(frozen=True, eq=False)
class SearchTask:
    """The common parameters of all searches.

    Attributes:
        gallery: of the product.
        settings: of the search.
        panorama: whether the photos are equirectangular.
        cache: folder of the proposals.
        models: catalog names of the segmenter and the patch encoder.
        device: of the models.
    """

    gallery: Gallery
    settings: ProductSettings
    panorama: bool
    cache: Path
    models: tuple[str, str]
    device: str


def search_into_cache(
    path: Path, key: str, task: SearchTask, cache: ProposalCache, segmenter: Segmenter, encoder: PatchEncoder
) -> Outcome:
    """Search a photo and cache its proposals, unless they are cached.

    Raises:
        NbHelpersError: the cache cannot be written.
    """
    try:
        if cache.get(key) is not None:
            return image_size(path), ""
        image = load_image(path)
        proposals = search_photo(image, segmenter, encoder, task.gallery, task.settings, task.panorama)
    except NbHelpersError as error:
        return (0, 0), " ".join(str(error).split())
    cache.put(key, proposals)  # errors of writing concern all photos
    return image.shape[:2], ""


def search_on_workers(
    work: Sequence[tuple[int, Path, str]], task: SearchTask, client: Any
) -> Iterator[tuple[int, Outcome]]:
    """Search photos on the workers of a Dask client; yields the outcome of each photo.

    Each worker loads the models once, by name. Proposals are written to the cache folder; only sizes are sent back.

    Args:
        work: index, path and cache key of each photo; paths must be valid on all workers.
        task: sent to each worker once.
        client: of Dask distributed (``pip install 'nbhelpers[scale]'``).
    """
    from distributed import as_completed

    shared = client.scatter(task, broadcast=True)
    number = {client.submit(_search_on_worker, path, key, shared, pure=False): index for index, path, key in work}
    for future in as_completed(number):
        yield number[future], future.result()


def _search_on_worker(path: Path, key: str, task: SearchTask) -> Outcome:
    """`search_into_cache` with the worker's own models."""
    from nbhelpers.models.load import load

    try:
        segmenter = load("segmenter", task.models[0], task.device)
        encoder = load("patch_encoder", task.models[1], task.device)
    except NbHelpersError as error:
        return (0, 0), " ".join(str(error).split())
    return search_into_cache(path, key, task, ProposalCache(task.cache, memory=0), segmenter, encoder)


class PhotoSearch:
    """The photos of a session, the models that search them, and the proposals in each.

    Args:
        images: see `nbhelpers.product_matching.ProductSession`.
        settings: see `nbhelpers.product_matching.ProductSession`.
        segmenter: see `nbhelpers.product_matching.ProductSession`.
        encoder: see `nbhelpers.product_matching.ProductSession`.
        cache: see `nbhelpers.product_matching.ProductSession`.
        panorama: see `nbhelpers.product_matching.ProductSession`.
        mean: see `nbhelpers.product_matching.ProductSession`.

    Attributes:
        photos: files.
        names: file names for the results of each photo.
        problems: error message of each failed photo, by its index.
        digests: sha256 of each photo's file, by its index.
        keys: cache key of each photo, by its index.
        sizes: ``(H, W)`` of each searched photo, by its index.
    """

    def __init__(
        self,
        images: Sequence[str | Path | np.ndarray] | np.ndarray | str | Path,
        settings: ProductSettings,
        segmenter: Segmenter | None,
        encoder: PatchEncoder | None,
        cache: str | Path | None,
        panorama: bool,
        mean: Float32[np.ndarray, "m d"] | None,
    ):
        cache = outputs_dir("product_matching") / "cache" if cache is None else cache
        self.photos = tuple(listed(images, Path(cache) / "arrays"))
        if segmenter is None or encoder is None:
            from nbhelpers.models.load import load

            segmenter = segmenter or load("segmenter", settings.sam2_checkpoint)
            encoder = encoder or load("patch_encoder", settings.dinov2_model)
        self.settings, self.segmenter, self.encoder = settings, segmenter, encoder
        self.cache = ProposalCache(cache)
        self.panorama, self.mean = panorama, mean
        self.names = tuple(stems(self.photos, RESERVED_NAMES))
        self.problems: dict[int, str] = {}
        self.digests: dict[int, str] = {}
        self.keys: dict[int, str] = {}
        self.sizes: dict[int, tuple[int, int]] = {}

    def proposals(self, photo: int, gallery: Callable[[], Gallery]) -> PhotoProposals:
        """All proposals of a searched photo, with features, from the cache.

        Args:
            photo: its index.
            gallery: returns the gallery that guides a search, in case the cache has been deleted.

        Raises:
            NbHelpersError: the photo has not been searched.
        """
        if photo not in self.sizes:
            raise NbHelpersError("this photo has not been searched", given=photo, expected=self.problems.get(photo))
        proposals = self.cache.get(self.keys[photo])
        if proposals is None:
            image = load_image(self.photos[photo])
            proposals = search_photo(image, self.segmenter, self.encoder, gallery(), self.settings, self.panorama)
            proposals = self.cache.put(self.keys[photo], proposals)
        return proposals

    def mean_feature(self) -> Float32[np.ndarray, "m d"]:
        """The common component of evenly spaced photos of the session, computed once; see `Gallery`."""
        if self.mean is None:
            self.mean = mean_feature(self._sample_photos(), self.encoder, MEAN_PHOTOS)
        return self.mean

    def run(self, gallery: Gallery, client: Any, on_photo: Callable[[int], object] | None, repeat: bool) -> None:
        """Search all photos, or those that have not been searched; see `ProductSession.search`."""
        models = self.segmenter.name, self.encoder.name
        work = []
        for index, path in enumerate(self.photos):
            if index in self.sizes and not repeat:
                continue
            try:
                digest = self.digests[index] = sha256(path)
            except OSError as error:
                self._fail(index, f"the photo cannot be read: {error.strerror or error}")
                continue
            self.keys[index] = cache_key(digest, models, self.settings, gallery.digest, self.panorama)
            work.append((index, path, self.keys[index]))
        task = SearchTask(gallery, self.settings, self.panorama, self.cache.folder, models, self.segmenter.device)
        for index, (size, problem) in self._outcomes(work, task, client):
            if problem:
                self._fail(index, problem)
            else:
                self.sizes[index] = size
                self.problems.pop(index, None)
            if on_photo is not None:
                on_photo(index)

    def _outcomes(self, work: list, task: SearchTask, client: Any) -> Iterator[tuple[int, Outcome]]:
        """The outcome of each photo's search, on workers if there is a client and the photo is not cached."""
        if client is not None:
            known = [each for each in work if each[2] in self.cache]  # no worker needs to load models for these
            if rest := [each for each in work if each not in known]:
                yield from search_on_workers(rest, task, client)
            work = known
        for index, path, key in work:
            yield index, search_into_cache(path, key, task, self.cache, self.segmenter, self.encoder)

    def _sample_photos(self) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        """The readable photos, evenly spaced ones first."""
        readable = 0
        for path in dict.fromkeys([*evenly_spaced(self.photos, MEAN_PHOTOS), *self.photos]):
            try:
                image = load_image(path)
            except NbHelpersError:
                continue
            readable += 1
            yield image
        if not readable:
            raise NbHelpersError(
                "none of the photos can be read", given=f"{len(self.photos)} photos, the first {self.photos[0]}"
            )

    def _fail(self, index: int, problem: str) -> None:
        """Record the error of a photo."""
        log.warning("%s: %s", self.photos[index].name, problem)
        self.problems[index] = problem
        self.sizes.pop(index, None)
