"""A session as a small JSON file: what was shown, what was said. Masks travel as run lengths, photos as paths."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from nbhelpers.core.errors import NbHelpersError
from nbhelpers.core.files import write_text
from nbhelpers.core.masks import decode_rle
from nbhelpers.product_matching.session import ProductSession

FORMAT = "nbhelpers product session 1"
log = logging.getLogger(__name__)


def save(session: ProductSession, path: str | Path) -> Path:
    """Write a session's photos, references, marks and threshold; return the path.

    Raises:
        NbHelpersError: a reference was given as an array, so that no file could be opened again.
    """
    marks = session.marks
    confirmed = [each for each in marks.values() if each.how == "confirmed"]
    references = [each for each in session.references if each not in confirmed]
    if loose := [each for each in references if not each.source]:
        raise NbHelpersError("a reference has no file", given=loose[0].photo, do="add it from a file")
    about = {
        "format": FORMAT,
        "models": [session.segmenter.name, session.encoder.name],
        "panorama": session.panorama,
        "turntable": session.turntable,
        "threshold": session.threshold if session.threshold_from == "person" else None,
        "photos": [str(photo) for photo in session.photos],
        "references": [{"photo": each.source, "how": each.how, "rle": dict(each.rle)} for each in references],
        "marks": [
            {"photo": str(session.photos[photo]), "how": each.how, "rle": dict(each.rle)}
            for (photo, _), each in marks.items()
        ],
    }
    return write_text(Path(path).expanduser(), json.dumps(about, indent=1, ensure_ascii=False))


def reopen(path: str | Path, **options: Any) -> ProductSession:
    """Go on with a saved session: photos are searched (at once, where the cache has them), and what was said is said.

    Example:
        >>> session.save("outputs/shelf.json")
        >>> session = reopen("outputs/shelf.json", cache="outputs/cache")

    Args:
        path: what `save` wrote.
        **options: of `ProductSession`: settings, models, cache.

    Raises:
        NbHelpersError: the file cannot be read, or was made with other models.
    """
    try:
        about = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(about["format"])
        shown = [(each["photo"], decode_rle(each["rle"])) for each in about["references"]]
        said = [(each["photo"], each["how"], each["rle"]) for each in about["marks"]]
        options = {"panorama": about["panorama"], "turntable": about["turntable"], **options}
        photos, models, threshold = about["photos"], about["models"], about["threshold"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NbHelpersError("the session cannot be read", given=f"{path}: {error}", expected=FORMAT) from error
    session = ProductSession(photos, **options)
    if [session.segmenter.name, session.encoder.name] != models:
        raise NbHelpersError(
            "the session was made with other models",
            given=f"{session.segmenter.name}, {session.encoder.name}",
            expected=", ".join(models),
            do="load these, or begin anew",
        )
    for photo, mask in shown:
        session.add_reference(photo, mask=mask)
    session.search()
    for photo, how, rle in said:
        index = photos.index(photo)
        found = session.result(index).found if session.is_done(index) else ()
        thing = next((number for number, each in enumerate(found) if each.rle == rle), None)
        if thing is None:
            log.warning("%s: what was %s there is not found any more", photo, how)
        elif how == "confirmed":
            session.confirm(index, thing)
        else:
            session.reject(index, thing)
    if threshold is not None:
        session.set_threshold(threshold)
    return session
