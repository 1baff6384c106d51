"""The results as Markdown: parts, targets, ours beside upstream's, then every check with its numbers."""

from gpu_parts.scene import Record

MARKS = {True: "ok", False: "FAILED", None: "skipped"}
HIDDEN = ("part", "check", "ok", "traceback", "stderr", "said", "versions", "longest")


def tabled(records: list[Record]) -> str:
    """Return the whole table."""
    sections = (parts(records), targets(records), beside(records), checks(records))
    return "\n\n".join("\n".join(section) for section in sections if len(section) > 2) + "\n"


def _row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def parts(records: list[Record]) -> list[str]:
    columns = ("part", "status", "checks", "failed", "skipped", "seconds", "limit")
    rows = [_row(*(record[name] for name in columns)) for record in records if "status" in record]
    return [_row(*columns), "|---" * len(columns) + "|", *rows]


def targets(records: list[Record]) -> list[str]:
    found = [record for record in records if "met" in record]
    rows = [_row(r["check"], r["target"], _against(r), "met" if r["met"] else "MISSED") for r in found]
    return ["| target of | wanted | found | |", "|---|---|---|---|", *rows]


def _against(record: Record) -> object:
    names = ("matrix_share_of_peak", "times_alone", "cells_per_second")
    return next((record[name] for name in names if name in record), "?")


def beside(records: list[Record]) -> list[str]:
    """Return the rows of training: cells per second, times, share of the measured bf16 peak, GiB."""
    done = {r["check"]: r for r in records if r["part"] == "training" and "cells_per_second" in r}
    rows = []
    for name, ours in done.items():
        if name.endswith((" ours", " largest batch")):
            theirs = done.get(name.replace(" ours", " upstream"), {}) if name.endswith(" ours") else {}
            speed, other = ours["cells_per_second"], theirs.get("cells_per_second")
            gib = f"{ours.get('allocated_gib', '-')} / {theirs.get('allocated_gib', '-')}"
            times = f"{speed / other:.1f}" if other else "-"
            share = f"{ours['share_of_peak']:.1%}"
            rows.append(_row(name.removesuffix(" ours"), ours["batch"], speed, other or "-", times, share, gib))
    head = "| training | batch | ours, cells/s | upstream, cells/s | times | of bf16 peak | GiB, ours / upstream |"
    return [head, "|---|---|---|---|---|---|---|", *rows]


def checks(records: list[Record]) -> list[str]:
    rows = [_row(r["part"], r["check"], MARKS[r["ok"]], numbers(r)) for r in records if "check" in r]
    return ["| part | check | | numbers |", "|---|---|---|---|", *rows]


def numbers(record: Record) -> str:
    said = ", ".join(f"{name} {value}" for name, value in record.items() if name not in HIDDEN)
    return said.replace("|", "/").replace("\n", " ")[:420]
