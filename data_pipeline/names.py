"""Names as they come: how they are shown, cut short, and the nearest one that is known where nobody knows them."""

import re
from collections.abc import Iterable
from difflib import get_close_matches

UNSEEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u00ad\u2028\u2029\u200b\u200e\u200f\u2060\ufeff\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def shown(name: object, lines: bool = False) -> str:
    """Return a name in one line of visible characters: what breaks lines, controls a terminal or turns the direction of
    writing stands there as \\n, \\x1b, \\u202e. lines: line breaks may stay."""
    return UNSEEN.sub(lambda found: found[0] if lines and found[0] == "\n" else _escaped(found[0]), str(name))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def short(name: object, most: int) -> str:
    """Return a name as it is shown, in at most so many characters; of a longer one its begin and its end."""
    text, end = shown(name), most // 3
    return text if len(text) <= most else f"{text[: most - end - 1]}…{text[-end:]}"


def nearest(given: object, known: Iterable[str], least: float = 0.6) -> str | None:
    """Return the known name most like `given`, whatever the case, or None if none is so similar (0..1, difflib's)."""
    return next(iter(few_near(given, known, 1, least)), None)


def few_near(given: object, known: Iterable[str], most: int = 4, least: float = 0.5) -> list[str]:
    """Return the known names most like `given`, whatever the case, the likest first; at most so many."""
    folded = {name.casefold(): name for name in reversed(list(known))}
    return [folded[name] for name in get_close_matches(str(given).casefold(), list(folded)[::-1], most, least)]


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """Return "did you mean name? ", with a space to go on from, or nothing where no known name is near."""
    near = nearest(given, known)
    return "" if near is None else f"did you mean {near}? "
