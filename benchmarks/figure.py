"""The figure of README: one of those that `cellskew report` draws, as SVG for light and for dark pages.

    python benchmarks/figure.py few-cells               # make figure: runs docs/figures/few-cells.yaml and this
    python benchmarks/figure.py quickstart --metric test_macro_f1 --heading "Which model, which remedy"

Writes OUT-light.svg and OUT-dark.svg: the first figure below that heading of the report.
"""

import argparse
import tempfile
from pathlib import Path

import matplotlib

from data_pipeline.errors import RequestError
from sweeps import cli

PAPER = {"light": {"savefig.transparent": True}, "dark": {"savefig.transparent": True}}
INK = "#e6edf3"
NAMES = (
    "text.color",
    "axes.labelcolor",
    "axes.edgecolor",
    "axes.titlecolor",
    "xtick.color",
    "ytick.color",
    "grid.color",
)
PAPER["dark"] |= dict.fromkeys(NAMES, INK) | {"legend.labelcolor": INK}


def figure(page: str, heading: str) -> str:
    """Return the first SVG below a heading of a report."""
    _, found, rest = page.partition(f"<h2>{heading}</h2>")
    headings = [part.partition("</h2>")[0] for part in page.split("<h2>")[1:]]
    if not found or "<svg" not in rest.partition("<h2>")[0]:
        raise RequestError(f"no figure below {heading!r}; the report has: {', '.join(headings)}")
    drawn = rest[rest.index("<svg") : rest.index("</svg>")] + "</svg>\n"
    return drawn if "xmlns=" in drawn[:500] else drawn.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", help="name of a finished sweep")
    parser.add_argument("--storage", type=Path, default=Path("cellskew-runs"))
    parser.add_argument("--metric", default="test_f1_rarefied")
    parser.add_argument("--heading", default="How it changes with the skew")
    parser.add_argument("--out", default="docs/figures/answer", help="-light.svg and -dark.svg are added")
    asked = parser.parse_args()
    for name, settings in PAPER.items():
        with matplotlib.rc_context(settings), tempfile.TemporaryDirectory() as folder:
            page, words = Path(folder) / "page.html", ["--storage", str(asked.storage), "--metric", asked.metric]
            cli.app(["report", asked.sweep, "-o", str(page), *words], standalone_mode=False)
            drawn = figure(page.read_text(encoding="utf-8"), asked.heading)
        Path(f"{asked.out}-{name}.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
