"""Product matching without interaction: `ProductMatcher` returns results, `match_product` writes them to a folder."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.batch import apart, sign
from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import sha256, write_bytes
from nbhelpers.core.images import load_image, save_image
from nbhelpers.core.masks import encode_rle
from nbhelpers.models.adapters import model_signature
from nbhelpers.models.protocols import PatchEncoder, Segmenter
from nbhelpers.product_matching.report import MatchedPhoto
from nbhelpers.product_matching.search import PhotoSearch
from nbhelpers.product_matching.session import ProductSession
from nbhelpers.product_matching.settings import ProductSettings

RUN_FORMAT = "nbhelpers product-matching run 1"
log = logging.getLogger(__name__)


def match_product(
    images: Sequence[str | Path | np.ndarray] | np.ndarray | str | Path,
    reference: UInt8[np.ndarray, "h w 3"] | str | Path,
    output: str | Path,
    *,
    point: Sequence[float] | None = None,
    box: Sequence[float] | None = None,
    mask: Bool[np.ndarray, "mask_h mask_w"] | None = None,
    settings: ProductSettings | None = None,
    segmenter: Segmenter | None = None,
    encoder: PatchEncoder | None = None,
    panorama: bool = False,
    turntable: bool | str = False,
    client: Any = None,
    on_photo: Callable[[int], object] | None = None,
) -> tuple[MatchedPhoto, ...]:
    """Find a product in photos and write all results to a folder.

    Example:
        >>> match_product("shelf/", "shelf/1.jpg", "outputs/shelf", box=(120, 80, 340, 450))

    ``run.json``, the signature, is written first. Proposals are cached in ``cache/`` photo by photo, so an interrupted
    run resumes. Then the masks, cut-outs, crops and record of each photo are written (see
    `nbhelpers.product_matching.report.save_photo_results`), and finally ``annotations.coco.json``, ``matches.csv``,
    ``summary.json``, ``gallery.jpg`` and ``index.html``, a page that works offline. All of these list photos that
    cannot be read.

    Args:
        images: files, a folder, a glob, or arrays.
        reference: a photo that shows the product.
        output: a folder; one that holds results of another product or other settings is refused.
        point: a click ``(x, y)`` on the product,
        box: or ``(x0, y0, x1, y1)`` around it,
        mask: or its mask.
        settings: see `ProductSession`.
        segmenter: see `ProductSession`.
        encoder: see `ProductSession`.
        panorama: see `ProductSession`.
        turntable: see `ProductSession`.
        client: of Dask distributed, see `ProductSession.search`.
        on_photo: called with the index of each searched photo.

    Returns:
        A result for each photo.

    Raises:
        NbHelpersError: there are no photos; the reference cannot be used; the folder has results of another run.
    """
    output, settings = Path(output).expanduser(), settings or ProductSettings()
    apart(output, images)
    pixels = load_image(reference)
    is_array = isinstance(reference, np.ndarray)
    session = ProductSession(
        images,
        settings=settings,
        segmenter=segmenter,
        encoder=encoder,
        cache=output / "cache",
        panorama=panorama,
        turntable=turntable,
    )
    added = session.add_reference(pixels if is_array else reference, point=point, box=box, mask=mask)
    signature = {
        "format": RUN_FORMAT,
        "reference": hashlib.sha256(pixels).hexdigest() if is_array else sha256(reference),
        "point": _floats(point),
        "box": _floats(box),
        "mask": None if mask is None else encode_rle(mask),
        "settings": asdict(settings),
        "models": [model_signature(session.segmenter), model_signature(session.encoder)],
        "panorama": panorama,
        "turntable": turntable,
    }
    sign(output / "run.json", signature)
    save_image(output / "reference.png", added.picture)
    _keep_mean(session.photo_search, output / "mean.npy")
    results = session.search(client=client, on_photo=on_photo)
    session.export(output)
    return results


def raise_if_failed(results: Sequence[MatchedPhoto]) -> None:
    """Raise one error if some photos failed, after all others are done.

    Raises:
        NbHelpersError: names the first of them.
    """
    failed = [result for result in results if result.error]
    if failed:
        raise NbHelpersError(
            f"{len(failed)} of {len(results)} photos failed",
            given=f"{failed[0].photo.name}: {failed[0].error}",
            do="see matches.csv; fix these photos and run again, the results of the others are kept",
        )


def _keep_mean(search: PhotoSearch, path: Path) -> None:
    """Use the mean feature of an earlier run, so that added photos do not change the results of the others."""
    try:
        search.mean = np.load(path, allow_pickle=False)
        if search.mean.ndim == 2 and search.mean.shape[1] == search.encoder.dimension:
            return
    except (OSError, ValueError, EOFError):
        log.debug("no mean feature of an earlier run")
    search.mean = None
    file = io.BytesIO()
    np.save(file, search.mean_feature())
    write_bytes(path, file.getvalue())


def _floats(numbers: Sequence[float] | None) -> list[float] | None:
    """Numbers as JSON values."""
    return None if numbers is None else [float(number) for number in numbers]


class ProductMatcher:
    """Finds a product in photos.

    Example:
        >>> results = ProductMatcher().run(["1.jpg", "2.jpg"], reference_image="1.jpg", reference_point=(250, 300))
        >>> for result in results:
        ...     if not result.absent:
        ...         result.save_mask(f"{result.name}_mask.png")
        ...         result.save_cutout(f"{result.name}.png")

    Args:
        settings: of the search and the matches.
        segmenter: predicts the masks; by default the best one available.
        encoder: computes the patch tokens; likewise.
        cache: folder of the proposals, so that a second run is fast.
        models: ``"lite"``, ``"official"`` or ``"auto"``, see `nbhelpers.load`.
        device: of the models.
    """

    def __init__(
        self,
        settings: ProductSettings | None = None,
        segmenter: Segmenter | None = None,
        encoder: PatchEncoder | None = None,
        *,
        cache: str | Path | None = None,
        models: str | None = None,
        device: str | None = None,
    ):
        self.settings = settings or ProductSettings()
        if segmenter is None or encoder is None:
            from nbhelpers.models.load import load

            segmenter = segmenter or load("segmenter", self.settings.sam2_checkpoint, device, models)
            encoder = encoder or load("patch_encoder", self.settings.dinov2_model, device, models)
        self.segmenter, self.encoder, self.cache = segmenter, encoder, cache

    def run(
        self,
        image_paths: Sequence[str | Path] | str | Path,
        reference_image: UInt8[np.ndarray, "h w 3"] | str | Path,
        reference_point: Sequence[float] | None = None,
        *,
        reference_box: Sequence[float] | None = None,
        reference_mask: Bool[np.ndarray, "mask_h mask_w"] | None = None,
        panorama: bool = False,
        turntable: bool | str = False,
        client: Any = None,
        on_photo: Callable[[int], object] | None = None,
    ) -> tuple[MatchedPhoto, ...]:
        """A result for each photo, in order; a photo that cannot be read has an ``error``.

        Args:
            image_paths: files, a folder, or a glob.
            reference_image: a photo that shows the product, one of them or another.
            reference_point: a click ``(x, y)`` on the product, in pixels of that photo,
            reference_box: or ``(x0, y0, x1, y1)`` around it,
            reference_mask: or its mask.
            panorama: whether the photos are equirectangular.
            turntable: whether they are views in order, see `ProductSession`.
            client: of Dask distributed, see `ProductSession.search`.
            on_photo: called with the index of each searched photo.

        Raises:
            NbHelpersError: there are no photos, or the reference cannot be used.
        """
        session = ProductSession(
            image_paths,
            settings=self.settings,
            segmenter=self.segmenter,
            encoder=self.encoder,
            cache=self.cache,
            panorama=panorama,
            turntable=turntable,
        )
        session.add_reference(reference_image, point=reference_point, box=reference_box, mask=reference_mask)
        return session.search(client=client, on_photo=on_photo)
