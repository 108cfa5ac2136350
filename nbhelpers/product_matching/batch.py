"""One product, many photos, without a person: resumable, results in files of their own, a page to look through."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import sha256, write_bytes
from nbhelpers.core.images import load_image, save_image
from nbhelpers.core.masks import encode_rle
from nbhelpers.core.runs import apart, own_name, sign
from nbhelpers.models.protocols import PatchEncoder, Segmenter
from nbhelpers.product_matching.outputs import save_gallery, save_photo, save_run
from nbhelpers.product_matching.page import save_page
from nbhelpers.product_matching.results import MatchedPhoto
from nbhelpers.product_matching.session import ProductSession
from nbhelpers.product_matching.settings import Settings

FORMAT = "nbhelpers product-matching run 1"
log = logging.getLogger(__name__)


def run(
    images: Sequence[str | Path | np.ndarray] | np.ndarray | str | Path,
    reference: UInt8[np.ndarray, "h w 3"] | str | Path,
    output: str | Path,
    *,
    point: Sequence[float] | None = None,
    box: Sequence[float] | None = None,
    mask: Bool[np.ndarray, "mask_h mask_w"] | None = None,
    settings: Settings | None = None,
    segmenter: Segmenter | None = None,
    encoder: PatchEncoder | None = None,
    panorama: bool = False,
    turntable: bool | str = False,
    client: Any = None,
    on_photo: Callable[[int], object] | None = None,
) -> tuple[MatchedPhoto, ...]:
    """Find a product in photos and write everything into a folder.

    Example:
        >>> run("shelf/", "shelf/1.jpg", "outputs/shelf", box=(120, 80, 340, 450))

    ``run.json``, the signature, is written first. Candidates go to ``cache/`` photo by photo, so a run that was cut off
    goes on when it is started again. Then come each photo's masks, cut-outs, crops and record (see `save_photo`), and
    ``annotations.coco.json``, ``matches.csv``, ``summary.json``, ``gallery.jpg`` and ``index.html``, a page to look
    through that needs no network. Photos that cannot be read are told in all of these.

    Args:
        images: files, a folder, a glob, or arrays.
        reference: a photo that shows the product.
        output: a folder; one that holds results of another product or other settings is refused.
        point: a click ``(x, y)`` on the product,
        box: or ``(x0, y0, x1, y1)`` around it,
        mask: or what it covers.
        settings: see there, as for the models.
        segmenter: see `ProductSession`, as for ``encoder``, ``panorama`` and ``turntable``.
        encoder: see there.
        panorama: see there.
        turntable: see there.
        client: of Dask distributed, see `ProductSession.search`.
        on_photo: called with the index of each photo when it is searched.

    Returns:
        A result for each photo.

    Raises:
        NbHelpersError: no photos; a reference that cannot be used; a folder with results of another run.
    """
    output, settings = Path(output).expanduser(), settings or Settings()
    apart(output, images)
    pixels = load_image(reference)
    session = ProductSession(
        images,
        settings=settings,
        segmenter=segmenter,
        encoder=encoder,
        cache=output / "cache",
        panorama=panorama,
        turntable=turntable,
    )
    shown = session.add_reference(
        pixels if isinstance(reference, np.ndarray) else reference, point=point, box=box, mask=mask
    )
    signature = {
        "format": FORMAT,
        "reference": _digest(pixels) if isinstance(reference, np.ndarray) else sha256(reference),
        "point": _plain(point),
        "box": _plain(box),
        "mask": None if mask is None else encode_rle(mask),
        "settings": asdict(settings),
        "models": [session.segmenter.name, session.encoder.name],
        "panorama": panorama,
        "turntable": turntable,
    }
    sign(output / "run.json", signature)
    save_image(output / "reference.png", shown.picture)
    _same_mean(session, output / "mean.npy")
    results = session.search(client=client, on_photo=on_photo)
    write(session, output)
    return results


def write(session: ProductSession, output: str | Path) -> list[Path]:
    """Write all results of a session; a photo whose files are there and say the same is left as it is.

    Where results of another photo have the name already, a number is added to it, see `own_name`.

    Args:
        session: after a search.
        output: a folder; see `run` for what it then holds.

    Returns:
        The files about all photos; each photo's own are beside them.
    """
    output, records, results = Path(output).expanduser(), [], []
    for each in session.results:
        result = replace(each, name=own_name(output, each.name, each.sha256))
        results.append(result)
        known = _known(output / f"{result.name}.json", result)
        records.append(known if known is not None else save_photo(result, output))
        _tidy(output, result)
    paths = save_run(records, output)
    return [*paths, save_gallery(results, output / "gallery.jpg"), save_page(session, output / "index.html")]


def _known(path: Path, result: MatchedPhoto) -> dict[str, Any] | None:
    """The record of an earlier run, if it says the same and its files are there."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        scores = [match["score"] for match in record["matches"]]
        same = record["path"] == result.photo.as_posix() and record["status"] == result.status != "failed"
        same &= scores == [round(each.score, 5) for each in result.matches]
        same &= [match["verdict"] for match in record["considered"]] == [
            each.verdict for each in result.found if not each.kept
        ]
        same &= record["threshold"] == round(result.threshold, 5) and record["size"] == list(result.size)
        same &= all((path.parent / name).is_file() for match in record["matches"] for name in match["files"].values())
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if same else None


def _tidy(folder: Path, result: MatchedPhoto) -> None:
    """Remove this photo's files of matches that there are no longer."""
    ours = re.compile(re.escape(result.name) + r"_(\d+)_(mask|cutout|crop)\.png")  # and not those of NAME_2
    for path in folder.iterdir():
        if (match := ours.fullmatch(path.name)) and int(match[1]) > len(result.matches):
            path.unlink(missing_ok=True)


def _same_mean(session: ProductSession, path: Path) -> None:
    """Take the mean feature of an earlier start, so that photos that were added since change nothing for the others."""
    try:
        session.mean = np.load(path, allow_pickle=False)
        if session.mean.ndim == 2 and session.mean.shape[1] == session.encoder.dimension:
            return
    except (OSError, ValueError, EOFError):
        log.debug("no mean feature of an earlier start")
    session.mean = None
    file = io.BytesIO()
    np.save(file, session.mean_feature())
    write_bytes(path, file.getvalue())


def _digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(pixels).hexdigest()


def _plain(numbers: Sequence[float] | None) -> list[float] | None:
    return None if numbers is None else [float(number) for number in numbers]


def told(result: MatchedPhoto) -> str:
    """A result in a line."""
    if result.error:
        return f"{result.photo.name}: {result.error}"
    if result.absent:
        closest = f"; the most similar thing scores {result.score:.2f}" if result.found else ""
        return f"{result.photo.name}: absent{closest}"
    scores = ", ".join(f"{each.score:.2f}" for each in result.matches)
    return f"{result.photo.name}: found, {scores}"


def check(results: Sequence[MatchedPhoto]) -> None:
    """Raise one error if some photos failed, after all others are done.

    Raises:
        NbHelpersError: names the first of them.
    """
    failed = [result for result in results if result.error]
    if failed:
        raise NbHelpersError(
            f"{len(failed)} of {len(results)} photos could not be done",
            given=f"{failed[0].photo.name}: {failed[0].error}",
            do="see matches.csv; mend them and run it again, the others are kept",
        )
