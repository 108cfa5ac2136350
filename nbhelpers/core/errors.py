"""The one error type of the package."""

from __future__ import annotations


class NbHelpersError(Exception):
    """Says what went wrong, what was given, what was expected, and what to do about it.

    Example:
        >>> raise NbHelpersError("the click lies outside the photo", given=(900, 20),
        ...                      expected="0 <= x < 640, 0 <= y < 480", do="click inside the photo")

    Args:
        what: one sentence; the problem in the words of the caller.
        given: the offending value (shown by ``str``), if there is one.
        expected: what would have been right.
        do: the next step for the user; a command where there is one.
    """

    def __init__(self, what: str, *, given: object = None, expected: str | None = None, do: str | None = None):
        self.what, self.given, self.expected, self.do = what, given, expected, do
        lines = [what]
        lines += [f"  given:    {given}"] if given is not None else []
        lines += [f"  expected: {expected}"] if expected else []
        lines += [f"  do:       {do}"] if do else []
        super().__init__("\n".join(lines))

    def __reduce__(self):
        return _rebuild, (type(self), self.what, self.given, self.expected, self.do)


def _rebuild(cls, what, given, expected, do):
    return cls(what, given=given, expected=expected, do=do)
