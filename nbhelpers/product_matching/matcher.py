"""The shortest way: photos, a reference and a click in, results out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.models.protocols import PatchEncoder, Segmenter
from nbhelpers.product_matching.results import MatchedPhoto
from nbhelpers.product_matching.session import ProductSession
from nbhelpers.product_matching.settings import Settings


class ProductMatcher:
    """Finds a product in photos.

    Example:
        >>> results = ProductMatcher().run(["1.jpg", "2.jpg"], reference_image="1.jpg", reference_point=(250, 300))
        >>> for result in results:
        ...     if not result.absent:
        ...         result.save_mask(f"{result.name}_mask.png")
        ...         result.save_cutout(f"{result.name}.png")

    Args:
        settings: see there.
        segmenter: makes the masks; the best that is here when left out.
        encoder: describes what they cover; likewise.
        cache: folder of what was found, so that a second run is quick.
        models: ``"lite"``, ``"official"`` or ``"auto"``, see `nbhelpers.load`.
        device: where they compute.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        segmenter: Segmenter | None = None,
        encoder: PatchEncoder | None = None,
        *,
        cache: str | Path | None = None,
        models: str | None = None,
        device: str | None = None,
    ):
        self.settings = settings or Settings()
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
        """A result for each photo, in their order; a photo that cannot be read has an ``error``.

        Args:
            image_paths: files, a folder, or a glob.
            reference_image: a photo that shows the product, one of them or another.
            reference_point: a click ``(x, y)`` on the product, in pixels of that photo,
            reference_box: or ``(x0, y0, x1, y1)`` around it,
            reference_mask: or what it covers.
            panorama: whether the photos are equirectangular.
            turntable: whether they are views in order, see `ProductSession`.
            client: of Dask distributed, see `ProductSession.search`.
            on_photo: called with the index of each photo when it is searched.

        Raises:
            NbHelpersError: no photos, or a reference that cannot be used.
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
