"""Run the commands of README and docs on the tests' small sweep, and put what they print now into the pages.

    python tests/docs/renew.py

Of a block that leaves lines out (`...`) the others are renewed. Output of commands that aren't run is left as it is.
"""

import contextlib
import re
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]

from documents import Block, blocks, finish_sweep, renewed, run  # noqa: E402

PROGRESS = re.compile(
    r"^(tracking:|[CG]PUs given|.* of .* done|registering|preparing|encoding|my-sweep: \d+ trials; checking)"
)


def printed_by(block: Block, first_run: str) -> str:
    """Return what the block's commands print; of the sweep's run, what it printed when it trained."""
    return "".join(first_run if words == "cellskew run my.yaml" else run(words)[1] for words in block.commands())


def tidy(printed: str, folder: str) -> str:
    """Return output without the lines of a display in motion, and without the temporary folder."""
    kept = [line.rstrip() for line in printed.replace(folder, "/home/you").splitlines() if not PROGRESS.match(line)]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip("\n") + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        folder = str(Path(name).resolve())
        first_run = finish_sweep(Path(folder))
        for block in blocks("sh"):
            if not block.is_run or block.printed is None:
                continue
            printed = tidy(printed_by(block, first_run), folder)
            said = renewed(block.printed, printed) if "..." in block.printed.splitlines() else printed
            if said is None:
                print(f"{block}: other lines are printed now; choose again which to show:\n{printed}")
                continue
            page, output = block.page.read_text(encoding="utf-8"), "```text\n{}```"
            old = f"```sh\n{block.text}```\n\n{output.format(block.printed)}"
            assert page.count(old) == 1, f"{block}: this block stands there twice"
            block.page.write_text(page.replace(old, f"```sh\n{block.text}```\n\n{output.format(said)}"))


if __name__ == "__main__":
    main()
