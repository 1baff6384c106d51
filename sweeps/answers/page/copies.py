"""A page's figures as files of their own, and these as PNG and the page as PDF by whichever Chromium there is."""

import os
import re
import shutil
import subprocess
import tempfile
from html import unescape
from pathlib import Path

from data_pipeline.atomic import deliver
from data_pipeline.errors import RequestError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
SHARP = 2  # points of a PNG per unit of a figure
PATIENCE = 300.0  # seconds that a browser may take
PARTS = re.compile(
    r'<h[23][^>]*>(?P<heading>.*?)</h[23]>|<p class="legend"[^>]*>(?P<legend>.*?)</p>|(?P<svg><svg .*?</svg>)',
    re.DOTALL,
)
REMEDY = re.compile(r'<i class="([^"]+)"></i>(.*?)</button>')
STYLE = re.compile(r"<style>(.*?)</style>", re.DOTALL)
ROW, LETTER, DOT = 16, 6.2, 14  # pixels of a legend's line, of a letter, of a dot with its space


def pictures(page: str) -> dict[str, str]:
    """Return the figures of a page as SVG files, by name, in their order; each with its colours' names below."""
    found, heading, legend = {}, "", []
    style = STYLE.search(page)[1]
    for part in PARTS.finditer(page):
        if part["heading"] is not None:
            heading, legend = part["heading"], []
        elif part["legend"] is not None:
            legend = REMEDY.findall(part["legend"])
        else:
            title = re.search(r'<text class="title"[^>]*>(.*?)</text>', part["svg"])[1]
            found[f"{len(found) + 1:03d}-{_slug(f'{heading} {title}')}.svg"] = _alone(part["svg"], legend, style)
    return found


def _slug(words: str) -> str:
    return re.sub(r"[^\w]+", "-", unescape(words)).strip("-").lower()[:80]


def _alone(svg: str, legend: list[tuple[str, str]], style: str) -> str:
    """Return a figure that needs no page: with the page's style, and a legend of the remedies that are in it."""
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', svg).groups())
    drawn, rows = _legend([one for one in legend if f'class="{one[0]}"' in svg], width, height)
    tall = height + ROW * rows
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {tall}" width="{width}" height="{tall}"'
    about = re.search(r'role="img" aria-label="[^"]*"', svg)[0]
    inside = svg[svg.index(">") + 1 : -len("</svg>")]
    back = f'<rect width="{width}" height="{tall}" fill="var(--page)"/>'
    return (
        f"{head} {about}><style>{style.replace('&', '&amp;').replace('<', '&lt;')}</style>{back}{inside}{drawn}</svg>\n"
    )


def _legend(entries: list[tuple[str, str]], width: int, height: int) -> tuple[str, int]:
    """Return a legend below a figure, and in how many lines."""
    drawn, x, row = [], 8.0, 0
    for css, name in entries:
        long = DOT + LETTER * len(unescape(name)) + DOT
        if x > 8 and x + long > width:
            x, row = 8.0, row + 1
        y = height + ROW * row + 8
        drawn.append(
            f'<circle class="{css}" cx="{x + 4:.1f}" cy="{y}" r="4"/><text x="{x + DOT:.1f}" y="{y + 4}">{name}</text>'
        )
        x += long
    return "".join(drawn), row + 1 if entries else 0


def write_pictures(page: str, folder: Path, with_png: bool = False) -> str:
    """Write a page's figures into a folder, made if need be; returns how many in words, and what else lies there."""
    browser, found = _browser("--png") if with_png else None, pictures(page)
    for name, svg in found.items():
        deliver(folder / name, svg.encode())
        if browser is not None:
            made = _made(browser, svg, "figure.svg", "figure.png", _as_png(svg))
            deliver((folder / name).with_suffix(".png"), made)
    older = sorted(path.name for path in folder.glob("[0-9][0-9][0-9]-*.svg") if path.name not in found)
    said = f"{folder}: {len(found)} figures as SVG{' and PNG' if with_png else ''}"
    return f"{said}; not of this page, and left there: {', '.join(older)}" if older else said


def pdf(page: str) -> bytes:
    """Return a page printed on A4. RequestError where no Chromium is installed, or it can't."""
    return _made(
        _browser("--format pdf"), page, "page.html", "page.pdf", ["--no-pdf-header-footer", "--print-to-pdf={out}"]
    )


def _as_png(svg: str) -> list[str]:
    """Return how a browser makes a PNG of a figure: twice as many points as it is wide and high."""
    width, height = re.search(r'width="(\d+)" height="(\d+)"', svg).groups()
    return [f"--window-size={width},{height}", f"--force-device-scale-factor={SHARP}", "--screenshot={out}"]


def _browser(asked: str) -> str:
    """Return Chromium, or what is like it; RequestError where there is none."""
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        raise RequestError(
            f"{asked} needs Chromium or Chrome, and none is on the PATH; install one (apt-get install chromium), or "
            "write HTML, which has a style for paper, and SVG"
        )
    return found


def _made(browser: str, text: str, name: str, into: str, how: list[str]) -> bytes:
    """Return what a browser makes of a page or figure. name, into: of the files; how: options, {out} for the latter."""
    with tempfile.TemporaryDirectory(prefix="cellskew-") as folder:
        source, out = Path(folder) / name, Path(folder) / into
        source.write_text(text, encoding="utf-8")
        _run(browser, source, out, [word.format(out=out) for word in how])
        return out.read_bytes()


def _run(browser: str, source: Path, out: Path, how: list[str]) -> None:
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium refuses its sandbox to root
    words = [browser, "--headless", "--disable-gpu", "--hide-scrollbars", *alone]
    words += [f"--user-data-dir={out.parent / 'profile'}", *how, source.as_uri()]
    try:
        said = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False).stderr
    except subprocess.TimeoutExpired:
        said = f"it took more than {PATIENCE:.0f} s"
    if not out.exists():
        last, kind = (said.strip().splitlines() or ["it said nothing"])[-1], out.suffix[1:].upper()
        raise RequestError(
            f"{browser} made no {kind}: {last[:300]}; write HTML and print it from a browser, or use SVG"
        )
