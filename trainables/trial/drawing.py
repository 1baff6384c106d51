"""Names in pictures: as they are, in a font that has their characters if this machine has one, never too long."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

LITERAL = {"parse_math": False}  # a name may hold a $
FAMILIES = ("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei")
FAMILIES += ("Droid Sans Fallback", "Arial Unicode MS", "PingFang SC", "Microsoft YaHei", "Noto Emoji", "Symbola")


@contextmanager
def names_as_they_are() -> Iterator[None]:
    """Draw with fonts for more writings than matplotlib's own has, and say nothing of characters that none has."""
    import matplotlib
    from matplotlib import font_manager

    there = {font.name for font in font_manager.fontManager.ttflist}
    families = ["DejaVu Sans", *(name for name in FAMILIES if name in there)]
    with matplotlib.rc_context({"font.family": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        yield
