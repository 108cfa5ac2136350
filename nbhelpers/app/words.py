"""What the sessions say about their work, in words for people who do not know how it is done."""

from __future__ import annotations

import re

UNKNOWN = (
    "It is not known from where the photos were taken, so they were compared by what they look like. "
    "More photos, taken closer together, help."
)
PLAIN = {  # a message as a regular expression: what a page says instead
    # progress
    r"judging": "Comparing the photos with each other",
    r"along similar photos": "Following it from photo to photo",
    r"with all views together": "Looking again, with all photos together",
    r"estimating the cameras of (\d+) photos": r"Finding out from where the \1 photos were taken",
    r"triangulating points of (\d+) photos": r"Measuring the scene in \1 photos",
    r"matching (\d+) pairs of photos": r"Comparing \1 pairs of photos",
    r"searching (.+)": r"Looking through \1",
    r"verifying each object": "Looking closely at each thing that was found",
    r"looking for any \"(.+)\"": r'Looking for any "\1"',
    # notes on where photos were taken
    r"runs \(.+\) found cameras that differ by (\d+) degrees or more \(median\)": (
        "It is not certain from where these photos were taken: two ways to find it out disagree. "
        "More photos, taken closer together, help."
    ),
    r"only the run with .+ found cameras, and no other confirmed them|the runs registered different photos.+": (
        "It is not certain from where these photos were taken. More photos, taken closer together, help."
    ),
    r"the scene could not be reconstructed: no photo is registered": UNKNOWN,
    r"cameras from .+; a run with .+ agrees within (\S+) degrees .+ on (\d+) photos": (
        r"Two ways agree from where \2 photos were taken, within \1 degrees."
    ),
    r"taken close together: .+": "Taken close together, so distances are not exact. Step further aside.",
    r"no initial pair was found: .+": "The photos were taken from almost one place. Step aside between them.",
    r"no two photos have .+": "No two photos have enough in common. Take more, each with much of the one before.",
    r"not registered, because .+: (.+)": (
        r"It is not known from where \1 was taken. Another photo from between it and the next one helps."
    ),
    r"too little texture for matching: (.+)": r"\1 shows too few details. Take in more of what is around the object.",
    r"(?:the matching photos were taken from the same viewpoint|most photos differ only by a rotation).+": (
        "The photos were taken from one place, so distances are not known. Walk around the object."
    ),
    r"the photos fall into (\d+) groups without common matches, of which the largest is kept: .+": (
        r"The photos form \1 groups with nothing in common; the largest was used. Photos from in between help."
    ),
    r"no cameras are known: views were compared by appearance only": UNKNOWN,
    r"no camera is known: left, right, above and below are those of the image, .+": (
        "Left, right, above and below are meant as in the picture."
    ),
    r"looking for (.+)": r"Looked for \1.",
    r"no camera is known for (.+): the object was found there by its appearance only": (
        r"It is not known from where \1 was taken, so the object was found there by its look. "
        "Another photo from between it and the next one helps."
    ),
    r"no position is known relative to view (\S+): (.+)": (
        r"It is not known where \2 is, seen from the photo \1. Photos that show both together help."
    ),
    r"relative to view (.+), with up from all cameras": (
        r"Left, right, in front and behind are meant as seen in the photo \1."
    ),
    r"relative to view (.+); the cameras have no common up, so that of the view is used": (
        r"Left, right, above and below are meant as seen in the photo \1, which should be held upright."
    ),
    r"the camera hardly moves: depth cannot be estimated": (
        "The camera hardly moves, so distances are not known. Walk around the object while filming."
    ),
    r"the image jumps at frame (\d+): a cut, or a very fast rotation": (
        r"The picture jumps at frame \1. Use a video without cuts, and turn the camera slowly."
    ),
    r"(\d+) of (\d+) (photos|frames) were selected by sharpness and distance": (
        r"Of \2 \3, \1 were used: sharp ones from different places."
    ),
    r"blurred: (.+)": r"\1 is blurred. A sharper photo instead of it helps.",
    # notes on what was found
    r"1 regions failed crop verification": (
        "One place looked like the words at first, but not from near. If that was the object, click it."
    ),
    r"(\d+) regions failed crop verification": (
        r"\1 places looked like the words at first, but not from near. If one was the object, click it."
    ),
    r"\"(.+)\" was not found by .+; try another word, or click it": (
        r'Nothing that looks like "\1" was found. Try another word, or click it in a photo.'
    ),
    r"the object was not found in (.+)": r"It was not found in \1. If it can be seen there, click it.",
    r"the prompt in (.+) contradicts (.+) and applies to its own view only; clear one of them": (
        r"The clicks in \1 and in \2 seem to be on different objects. Clear those that are wrong."
    ),
    r"\"(.+)\" is not a known relation; it was kept in the noun phrase": (
        r'"\1" was taken as part of the name. To say where a thing is, use left of, right of, behind or on.'
    ),
    # how well views agree
    r"all (\d+) views agree; the least certain is (.+)": r"All \1 photos agree. If you check one, check \2.",
    r"(\d+) of (\d+) views should be inspected, first (.+)": r"\1 of \2 photos may be wrong: look at \3 first.",
    r"the object was prompted here": "You clicked it here.",
    r"the prompt in (.+) does not agree with the other views": (
        r"The click in \1 seems to be on another object than in the other photos."
    ),
    r"(.+) agrees with the others, and .+ points of it lie inside|(.+) agrees with the others": (
        "This photo agrees with the others."
    ),
    r"(.+) disagrees: .+": (
        "This photo does not agree well with the others. If the outline is wrong, click to correct it."
    ),
    r"the object was not found here, and there is no evidence that it should be visible": (
        "It was not found here. If it can be seen, click it."
    ),
    r"not found, though \d+ points of it should be visible": (
        "It was not found here, though it should be in sight. If it can be seen, click it."
    ),
    r"consistency 1\.00": "agrees 100 %",
    r"consistency 0\.0?(\d\d?)": r"agrees \1 %",
    r"Then find it in all views, and correct the least consistent view\.": (
        "Then press Find in all views, and correct where it is wrong."
    ),
    r"the file does not name its photos: they were taken in the order given": (
        "The file of camera positions does not name its photos; their order is used."
    ),
    r"After one click on a frame the masks that it may mean are here\.": (
        "After one click on a frame, the outlines that it may mean are here."
    ),
    # which mask a click means
    r"Mask (\d+): \d\.\d+": r"Outline \1",
    r"Predicted IoU [\d.]+": "Take this outline",
    r"Predicted IoU [\d.]+; the model's choice": "Take this outline; it is the suggested one",
    r"predicted IoU; the star is the model's choice(.*)": r"the star is the suggested one\1",
    r"After a click the candidate masks are here, each with its predicted IoU\.": (
        "After a click, the outlines that it may mean are here."
    ),
    # notes on products
    r"too few scores to calibrate \(.+\)": (
        "There are too few photos to tell well what is another product. Say Yes or No below some photos."
    ),
    r"the product does not differ from the background, which scores up to .+": (
        "Other things in the photos look much like the product. Say No below those that are wrong."
    ),
    r"between the background \(up to .+\) and expected matches \(from .+\)": (
        "The product looks clearly different from the other things in these photos."
    ),
    r"between the nearest reject \(.+\) and expected matches \(from .+\)": (
        "What you said No to does not look like the product."
    ),
    # notes on clips
    r"its overlap with the mask predicted by optical flow is only \d+%": (
        "the outline changes more than the picture moves. Click there if it is wrong."
    ),
    r"another thing that looks the same may be the object \(\d+%\)": (
        "something alike is near. Click the right one if it was exchanged."
    ),
}
_RULES = [(re.compile(pattern), text) for pattern, text in PLAIN.items()]


def plain(message: str) -> str:
    """A message of a session in plain words, with what one can do about it; one that is not known stays unchanged.

    Example:
        >>> plain("judging")
        'Comparing the photos with each other'
    """
    for pattern, text in _RULES:
        if match := pattern.fullmatch(message):
            return match.expand(text)
    return message
