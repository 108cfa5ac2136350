"""One HTML file to look through a run: pictures inside, no network, light and dark, mouse and keys."""

from __future__ import annotations

import base64
import html
import json
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import write_text
from nbhelpers.core.images import fit, load_image
from nbhelpers.product_matching.histogram import histogram_svg
from nbhelpers.product_matching.outputs import lit, thumbnail
from nbhelpers.product_matching.results import Found, MatchedPhoto

if TYPE_CHECKING:
    from nbhelpers.product_matching.session import ProductSession

PICTURE = ((60, 640), (300, 400), (1 << 60, 280))  # up to so many photos: longer side of each picture in pixels
THINGS = ((60, 6), (300, 4), (1 << 60, 2))  # and so many dropped things are shown with a picture of their own
THING = 72  # pixels
QUALITY = 72


def save_page(session: ProductSession, path: str | Path) -> Path:
    """Write the results of a session as one self-contained page; return its path.

    With 1,000 photos it is about 20 MB: pictures are made smaller the more there are.

    Args:
        session: after a search.
        path: an ``.html`` file.
    """
    return write_text(path, page(session))


def page(session: ProductSession) -> str:
    """The text of `save_page`'s file."""
    results, count = session.results, len(session.results)
    side = next(size for most, size in PICTURE if count <= most)
    things = next(number for most, number in THINGS if count <= most)
    data = {
        "photos": [_photo(result, side, things) for result in results],
        "references": [
            {"name": each.photo, "how": each.how, "picture": _png(each.picture)} for each in session.references
        ],
    }
    text = json.dumps(data, ensure_ascii=False).replace("</", "<\\/")  # nothing in it can end the script
    by_status = [sum(result.status == status for result in results) for status in ("found", "absent", "failed")]
    told = "{} photos: {} with the product, {} without, {} failed".format(count, *by_status)
    made = f"{session.segmenter.name} and {session.encoder.name}"
    asset = files("nbhelpers.product_matching") / "page.html"
    filled = asset.read_text(encoding="utf-8")
    for name, value in (
        ("told", html.escape(told)),
        ("made", html.escape(made)),
        ("why", html.escape(session.calibration.why if session.calibration is not None else "")),
        ("histogram", histogram_svg(session)),
        ("data", text),
    ):
        filled = filled.replace("{{" + name + "}}", value, 1)
    return filled


def _photo(result: MatchedPhoto, side: int, things: int) -> dict[str, Any]:
    about = {
        "name": result.photo.name,
        "folder": result.photo.parent.as_posix(),
        "status": result.status,
        "score": round(result.score, 3),
        "error": result.error,
        "notes": list(result.notes),
        "things": [_thing(found) for found in result.found[:12]],
    }
    if result.error:
        return about
    try:
        small = fit(load_image(result.photo), side)
    except NbHelpersError as error:  # it was there when it was searched
        return {**about, "error": error.what}
    shown = [*result.matches, *[found for found in result.found if not found.kept][:things]]
    for found, thing in zip(result.found, about["things"], strict=False):
        if found in shown:
            thing["picture"] = _jpeg(lit(small, found, THING))
    return {**about, "picture": _jpeg(thumbnail(result, side, small))}


def _thing(found: Found) -> dict[str, Any]:
    return {
        "score": round(found.score, 3),
        "verdict": found.verdict,
        "why": found.why,
        "parts": {name: round(value, 2) for name, value in found.parts.items()},
    }


def _jpeg(image: np.ndarray) -> str:
    encoded = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(encoded.tobytes()).decode()


def _png(image: np.ndarray) -> str:
    encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGBA2BGRA))[1]
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode()
