"""`cellskew datasets`: the catalog, and what of it is on this machine."""

import pandas as pd

from data_pipeline.reading.known.catalog import Entry
from sweeps import tables


def show(listed: list[tuple[Entry, bool]], as_json: bool) -> None:
    """Print the catalog and which datasets are on this machine."""
    rows = []
    for entry, is_here in listed:
        rows.append(
            {
                "name": entry.name,
                "cells": entry.cells + entry.test_cells,
                "genes": entry.genes,
                "types": len(entry.classes),
                "largest": max(entry.classes.values()),
                "smallest": min(entry.classes.values()),
                "here": "yes" if is_here else "made when first used" if entry.bundled else "to be fetched by hand",
                "title": entry.title,
                "how to get": entry.how_to_get,
                "licence": entry.licence,
                "citation": entry.citation,
            }
        )
    if as_json:
        tables.print_json(rows)
        return
    tables.draw(pd.DataFrame(rows).drop(columns=["how to get", "licence", "citation", "title"]))
    for row in rows:
        print()
        tables.headed(row["name"], f": {row['title']}\n  {row['how to get']}\n  {row['licence']}")
