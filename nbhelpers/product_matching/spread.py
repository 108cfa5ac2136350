"""The search of one photo as a piece of work that any process can do, and many of them over Dask's workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.images import image_size, load_image
from nbhelpers.models.protocols import PatchEncoder, Segmenter
from nbhelpers.product_matching.cache import Cache
from nbhelpers.product_matching.gallery import Gallery
from nbhelpers.product_matching.search import search
from nbhelpers.product_matching.settings import Settings

Outcome = tuple[tuple[int, int], str]
"""``(H, W)`` of the photo, and what went wrong; empty if nothing did."""


@dataclass(frozen=True, eq=False)
class Task:
    """What all photos of a search have in common.

    Attributes:
        gallery: what is looked for.
        settings: how.
        panorama: whether the photos are equirectangular.
        cache: folder of the candidates.
        models: catalog names of the segmenter and the patch encoder.
        device: where they compute.
    """

    gallery: Gallery
    settings: Settings
    panorama: bool
    cache: Path
    models: tuple[str, str]
    device: str


def look(path: Path, key: str, task: Task, cache: Cache, segmenter: Segmenter, encoder: PatchEncoder) -> Outcome:
    """Search one photo, unless the cache knows what is in it; the candidates go into the cache.

    Raises:
        NbHelpersError: the cache cannot be written.
    """
    try:
        if cache.get(key) is not None:
            return image_size(path), ""
        image = load_image(path)
        found = search(image, segmenter, encoder, task.gallery, task.settings, task.panorama)
    except NbHelpersError as error:
        return (0, 0), " ".join(str(error).split())
    cache.put(key, found)  # a folder that cannot be written or a full disk is no matter of one photo
    return image.shape[:2], ""


def over_workers(work: Sequence[tuple[int, Path, str]], task: Task, client: Any) -> Iterator[tuple[int, Outcome]]:
    """Search photos on the workers of a Dask client; gives each photo's outcome as it comes.

    Each worker loads the models once, by name. What was found stays in the cache folder; only sizes travel.

    Args:
        work: index, path and signature of each photo; paths mean the same on all workers.
        task: what they have in common; sent to each worker once.
        client: of Dask distributed (``pip install 'nbhelpers[scale]'``).
    """
    from distributed import as_completed

    shared = client.scatter(task, broadcast=True)
    number = {client.submit(_on_worker, path, key, shared, pure=False): index for index, path, key in work}
    for future in as_completed(number):
        yield number[future], future.result()


def _on_worker(path: Path, key: str, task: Task) -> Outcome:
    from nbhelpers.models.load import load

    try:
        segmenter = load("segmenter", task.models[0], task.device)
        encoder = load("patch_encoder", task.models[1], task.device)
    except NbHelpersError as error:
        return (0, 0), " ".join(str(error).split())
    return look(path, key, task, Cache(task.cache, memory=0), segmenter, encoder)
