"""`cellskew weights`: the official checkpoints, one fetched, a folder looked at; on the screen or as JSON."""

from pathlib import Path
from typing import Any

import pandas as pd

from sweeps import tables
from trainables.official.checkpoints import CHECKPOINTS, Checkpoint


def show_all(as_json: bool) -> None:
    """Print the official checkpoints."""
    rows = [_row(one) for one in CHECKPOINTS]
    if as_json:
        tables.print_json(rows)
        return
    shown = pd.DataFrame(rows).drop(columns=["files", "place"])
    tables.draw(shown.rename(columns={"cells": "pretrained on", "how": "how to get"}), left=len(shown.columns))
    for one in CHECKPOINTS:
        print()
        tables.headed(one.name, f": {', '.join(one.files)}\n  {one.place}")


def _row(one: Checkpoint) -> dict[str, Any]:
    how = f"cellskew weights {one.name}" if one.repo else "by hand"
    about = {"name": one.name, "model": one.model, "cells": one.title, "parameters": one.parameters}
    return about | {"licence": one.licence, "how": how, "files": list(one.files), "place": one.place}


def show_fetched(wanted: Checkpoint, folder: Path) -> None:
    """Print how a sweep file names what was fetched."""
    print(f"{folder}: {wanted.name}, as the hub has it, {wanted.licence}. In a sweep file:")
    print(f"models: {{{wanted.model}: {{weights: {folder}}}}}")


def show_checked(found: dict[str, Any], as_json: bool) -> bool:
    """Print what is in a folder; returns whether all is well."""
    if as_json:
        tables.print_json(found)
        return not found["problems"]
    if found["model"] is not None:
        tables.headed(found["folder"], f": files of {found['model']}")
        frame = pd.DataFrame(found["files"])
        tables.draw(
            frame.assign(megabytes=frame["megabytes"].map("{:,.1f}".format)).rename(columns={"megabytes": "MB"})
        )
    for problem in found["problems"]:
        print(f"- {problem}")
    if not found["problems"]:
        print("complete; nothing in it asks for code to be run")
    return not found["problems"]
