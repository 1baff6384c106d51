"""The figure of README: one of those that `cellskew report` draws, as SVG for light and for dark pages.

    python benchmarks/figure.py few-cells               # make figure: runs docs/figures/few-cells.yaml and this
    python benchmarks/figure.py quickstart --metric macro_f1 --about what-a-remedy-changes

Writes OUT-light.svg and OUT-dark.svg: the first figure of the report whose name has these words.
"""

import argparse
import tempfile
from pathlib import Path

from data_pipeline.errors import RequestError
from sweeps import cli
from sweeps.answers.page import copies

DARK = "(prefers-color-scheme: dark)"  # the reader's system; a page on the web has a scheme of its own
SCHEMES = {"light": "not all", "dark": "all"}


def figure(page: str, about: str) -> str:
    """Return the first figure of a report whose name has these words; RequestError if none has."""
    found = copies.pictures(page)
    drawn = next((svg for name, svg in found.items() if about in name), None)
    if drawn is None:
        raise RequestError(f"no figure is called {about!r}; the report has: {', '.join(found)}")
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", help="name of a finished sweep, or its bundle")
    parser.add_argument("--storage", type=Path, default=Path("cellskew-runs"))
    parser.add_argument("--metric", default="f1_rarefied")
    parser.add_argument("--where", default="posthoc == 'none'", help="which trials, as `cellskew report` takes it")
    parser.add_argument("--about", default="changes-with-the-skew", help="words of the figure's name")
    parser.add_argument("--out", default="docs/figures/answer", help="-light.svg and -dark.svg are added")
    asked = parser.parse_args()
    where = [] if asked.sweep.endswith(".zip") else ["--storage", str(asked.storage)]
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        words = ["report", asked.sweep, "-o", str(page), "--metric", asked.metric, "--where", asked.where, *where]
        cli.app(words, standalone_mode=False)
        drawn = figure(page.read_text(encoding="utf-8"), asked.about)
    for name, scheme in SCHEMES.items():
        Path(f"{asked.out}-{name}.svg").write_text(drawn.replace(DARK, scheme), encoding="utf-8")


if __name__ == "__main__":
    main()
