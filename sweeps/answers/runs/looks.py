"""How often it was looked whether a sweep's splits are enough: what intervals must allow for."""

from typing import Any

import pandas as pd


def looks_at(runs: pd.DataFrame) -> int:
    """Return after how many numbers of splits it was, or might be, looked whether they are enough; 1: at all listed."""
    return int(runs["looks"].max()) if "looks" in runs and len(runs) else 1


def sentences(until: dict[str, Any] | None) -> list[str]:
    """Return what is known of a sweep that adds splits until it is sure, see wanted.until; nothing of others."""
    if until is None or until["asked"] is None:
        return []
    told = until["said"] or "more splits are added if that isn't sure by then"
    return [f"{until['asked']}: {until['splits']} of at most {until['at_most']} splits are wanted now; {told}"]
