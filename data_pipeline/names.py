"""Names that nobody knows: the nearest one that somebody does."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(given: object, known: Iterable[str], least: float = 0.6) -> str | None:
    """Return the known name most like `given`, whatever the case, or None if none is so similar (0..1, difflib's)."""
    folded = {name.casefold(): name for name in reversed(list(known))}
    near = get_close_matches(str(given).casefold(), list(folded)[::-1], 1, least)
    return folded[near[0]] if near else None


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """Return "did you mean name? ", with a space to go on from, or nothing where no known name is near."""
    near = nearest(given, known)
    return "" if near is None else f"did you mean {near}? "
