"""The command `cellskew`. Heavy imports happen inside the commands, so that --help answers at once."""

import os
import sys
import traceback
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from data_pipeline.errors import RequestError
from sweeps.commands import asking, data, deciding, networks, running, submitting, trial
from sweeps.commands.options import notes_given

COMMANDS = {  # in the order of use
    "init": data.init,
    "check": data.check,
    "plan": running.plan,
    "run": running.run,
    "resume": running.resume,
    "submit": submitting.submit,
    "status": running.status,
    "trial": trial.trial,
    "answer": deciding.answer,
    "leaderboard": deciding.leaderboard,
    "needs": deciding.needs,
    "shares": deciding.shares,
    "results": asking.results,
    "compare": asking.compare,
    "report": asking.report,
    "export": asking.export,
    "predict": networks.predict,
    "promote": networks.promote,
    "datasets": data.datasets,
    "weights": networks.weights,
}
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in COMMANDS.items():
    app.command(name)(notes_given(command))


def _print_version(asked: bool) -> None:
    if asked:
        print(f"cellskew {version('cellskew')}")
        raise typer.Exit


@app.callback(
    help="Which single-cell foundation model, and which remedy, still finds the rare cell types?",
    epilog="Exit codes: 0 all good, 1 a trial failed or is left over, 2 the request is wrong, 3 the machine failed.",
)
def _options(
    ask: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    plugins: Annotated[
        Path | None, typer.Option(help="A folder of models and remedies of your own, see docs/your-own-model.md.")
    ] = None,
) -> None:
    """Take the options that stand before a command."""
    from data_pipeline.outside import VARIABLE

    if plugins is not None:
        if not plugins.is_dir():
            raise RequestError(f"--plugins {plugins}: there is no such folder; name one that holds a file per model")
        before = os.environ.get(VARIABLE)
        os.environ[VARIABLE] = os.pathsep.join([str(plugins.absolute()), *([before] if before else [])])


def main() -> None:
    """Run the command line; a wrong request ends in its problems, one a line, and its exit code; else 3."""
    from data_pipeline.names import shown
    from sweeps.cluster import environment
    from sweeps.drive.stopping import one_signal

    assert environment.DEFAULTS  # before anything that reads them is imported
    for stream in (sys.stdout, sys.stderr):  # a name outside the terminal's encoding is no reason to fall over
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        with one_signal():
            app()
    except RequestError as error:
        for problem in error.problems:
            print(f"cellskew: {shown(problem, lines=True)}", file=sys.stderr)
        sys.exit(error.exit_code)
    except PermissionError as error:
        where = "make it readable and writable for this user, or choose another place (--storage, --out)"
        print(f"cellskew: {error.filename or error}: {error.strerror}; {where}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:  # a full disk, a lost cluster, or a fault of ours
        if not isinstance(error, OSError):
            print(_shown(traceback.format_exc()), file=sys.stderr)
        print(f"cellskew: {type(error).__name__}: {_shown(str(error))[:1000]}", file=sys.stderr)
        print("cellskew: what is finished is kept; run the same command again to go on", file=sys.stderr)
        sys.exit(3)


def _shown(text: str) -> str:
    from sweeps.tracking.uris import without_secrets

    return without_secrets(text)


if __name__ == "__main__":
    main()
