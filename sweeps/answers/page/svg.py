"""Plain SVG: panels with axes, dots, bars and lines, with a tooltip and a text for those who can't see.

Drawn here and not in the browser, so that a figure is there in print, without a script, and in any viewer; a page of
2,000 trials stays small. Colours are classes (c0, c1, ...) that the style gives for light, dark and print.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from data_pipeline.names import shown

COLOURS = 8


def text(said: object, lines: bool = False) -> str:
    """Return what may stand in HTML: escaped, and what can't be seen made visible. lines: line breaks stay."""
    return escape(shown(said, lines=lines))


def breaking(said: object) -> str:
    """Return text that may break after the signs that join the words of a name, and so within no word."""
    return re.sub(r"([_/=+-])(?=\w)", r"\1<wbr>", text(said))


def colour(number: int) -> str:
    """Return the class of a colour; from the ninth on the colours come again, with open dots and dashed lines."""
    return f"c{number % COLOURS}" + (" open" if number // COLOURS % 2 else "")


@dataclass(frozen=True)
class Axis:
    """low, high: ends of the scale (of log10 where log); at: where ticks are, with their labels."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    label: str
    log: bool = False

    def share(self, value: float) -> float:
        place = np.log10(value) if self.log else value
        return float((place - self.low) / (self.high - self.low))


@dataclass(frozen=True)
class Panel:
    """A plot of its own, so that a page can put panels side by side or below one another.

    above: names of rows stand above their lines, inside, not left of them.
    """

    title: str
    x: Axis
    y: Axis
    width: int = 360
    height: int = 250
    left: int = 48
    bottom: int = 46
    above: bool = False

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return pixels of a point."""
        across = self.left + self.x.share(x) * (self.width - self.left - 12)
        up = self.height - self.bottom - self.y.share(y) * (self.height - self.bottom - 26)
        return round(across, 1), round(up, 1)

    def draw(self, marks: Sequence[str], said: str) -> str:
        """Return the panel with its marks; said: what it shows, for those who can't see it."""
        parts = [f'<text class="title" x="{self.left}" y="14">{text(self.title)}</text>', *self._axes(), *marks]
        wide = ' class="wide"' if self.width > 400 else ""
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}"'
        return f'<svg {size}{wide} role="img" aria-label="{text(said)}">{"".join(parts)}</svg>'

    def _axes(self) -> list[str]:
        found = []
        right, floor = self.width - 12, self.height - self.bottom
        for value, label in self.y.ticks:
            _, y = self.at(10**self.x.low if self.x.log else self.x.low, value)
            found.append(f'<path class="grid" d="M{self.left} {y}H{right}"/>')
            place = f'tick" x="{self.left}" y="{y - 7}' if self.above else f'tick end" x="{self.left - 5}" y="{y + 4}'
            found.append(f'<text class="{place}">{text(label)}</text>')
        for value, label in self.x.ticks:
            x, _ = self.at(value, self.y.low)
            lines = label.split("\n")
            spans = "".join(
                f'<tspan x="{x}" dy="{0 if not at else 11}">{text(one)}</tspan>' for at, one in enumerate(lines)
            )
            found.append(f'<text class="tick mid" x="{x}" y="{floor + 14}">{spans}</text>')
        found.append(
            f'<text class="tick mid" x="{(self.left + right) / 2}" y="{self.height - 4}">{text(self.x.label)}</text>'
        )
        if self.y.label:
            middle = (26 + floor) / 2
            turned = f'x="11" y="{middle}" transform="rotate(-90 11 {middle})"'
            found.append(f'<text class="tick mid" {turned}>{text(self.y.label)}</text>')
        return [*found, f'<path class="axis" d="M{self.left} 26V{floor}H{right}"/>']


def dot(place: tuple[float, float], css: str, tip: str, radius: float = 3.5) -> str:
    return f'<circle class="{css}" cx="{place[0]}" cy="{place[1]}" r="{radius}"><title>{text(tip)}</title></circle>'


def bar(one: tuple[float, float], other: tuple[float, float], css: str) -> str:
    return f'<path class="bar {css}" d="M{one[0]} {one[1]}L{other[0]} {other[1]}"/>'


def line(places: Sequence[tuple[float, float]], css: str) -> str:
    return f'<path class="line {css}" d="M{"L".join(f"{x} {y}" for x, y in places)}"/>' if len(places) > 1 else ""


def ticks(low: float, high: float, number: int = 5) -> list[tuple[float, str]]:
    """Return round numbers between low and high with their labels."""
    step = (high - low) / number
    size = 10 ** np.floor(np.log10(step))
    step = size * min((one for one in (1, 2, 5, 10) if one * size >= step), default=10)
    places = int(max(0, -np.floor(np.log10(step))))
    first = np.ceil(low / step - 1e-9)
    values = [float(step * at) + 0.0 for at in np.arange(first, np.floor(high / step + 1e-9) + 1)]
    return [(value, f"{value:.{places}f}") for value in values]


def decades(low: float, high: float) -> list[tuple[float, str]]:
    """Return 1, 3, 10, 30, ... between low and high, closer ones where these are under three, with their labels."""
    for mantissas in ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8)):
        listed = [round(mantissa * 10.0**power, 6) for power in range(-3, 7) for mantissa in mantissas]
        found = [(one, f"{one:,.7g}") for one in listed if low <= one <= high]
        if len(found) > 2:
            return found
    return ticks(low, high, 3) if low < high else [(low, f"{low:,.7g}")]
