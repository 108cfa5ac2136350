"""Licences that a person has to accept before weights are used."""

from __future__ import annotations

import os

from nbhelpers.core.errors import NbHelpersError

VARIABLE = "NBHELPERS_ACCEPT"


def check_accepted(name: str, licence: str, address: str) -> None:
    """Raise an error for a model with a restrictive licence unless ``NBHELPERS_ACCEPT`` names it.

    Raises:
        NbHelpersError: it does not; the message gives the licence and its address.
    """
    accepted = {each.strip() for each in os.environ.get(VARIABLE, "").split(",")}
    if name not in accepted:
        raise NbHelpersError(
            "the licence of this model restricts its use and has not been accepted",
            given=f"{name}: {licence}",
            expected=f"read {address}",
            do=f"set {VARIABLE}={name} if you accept it",
        )
