"""Tables and sentences on standard output."""

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from sweeps.answers import comparison as comparing
from sweeps.answers import results


def console() -> Console:
    """Return standard output; wide enough for a table when it is not a terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=160)


def draw(table: pd.DataFrame, title: str | None = None, left: int = 1) -> None:
    """Print a table of text; the first `left` columns are aligned left, the others right."""
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(table.columns):
        drawn.add_column(str(name), justify="left" if place < left else "right", overflow="fold")
    for row in table.itertuples(index=False):
        drawn.add_row(*(str(cell) for cell in row))
    console().print(drawn)


def spread(mean: float, sd: float) -> str:
    """Return mean ± sd to three places."""
    if pd.isna(mean):
        return "-"
    return f"{mean:.3f}" if pd.isna(sd) else f"{mean:.3f} ± {sd:.3f}"


def final_table(runs: pd.DataFrame) -> None:
    """Print model x strategy (x loss): each seed's mean over datasets and skews, then mean ± sd over the seeds."""
    shown = [metric for metric in results.SHOWN if metric in runs.columns]
    finished = runs[runs["status"] == "FINISHED"]
    if finished.empty or not shown:
        return
    by = ["model", "strategy", *(["loss"] if finished["loss"].nunique() > 1 else [])]
    table = results.summarise(runs, by, shown)
    text = table[by].astype(str)
    for metric in shown:
        pairs = zip(table[metric], table[f"{metric}_sd"], strict=True)
        text[results.TITLES.get(metric, metric)] = [spread(*pair) for pair in pairs]
    if (warning := results.warning(runs)) is not None:
        console().print(warning, style="bold red")
    draw(text, left=len(by))
    print(_grounds(finished))
    _say_uneven(table)


def _say_uneven(table: pd.DataFrame) -> None:
    if len(table) and table["uneven"].any():
        print("note: some seeds lack finished runs that others have (n*): those means are over different trials")


def _grounds(finished: pd.DataFrame) -> str:
    """Say over what the final table's numbers were averaged."""
    datasets, skews = finished["dataset"].nunique(), finished["skew"].nunique()
    seeds = len(finished[["split", "seed"]].drop_duplicates())
    return f"mean over {datasets} dataset(s) x {skews} skew(s), ± sd over {seeds} seed(s), on test cells"


def _for_programs(table: pd.DataFrame, form: str, warning: str | None) -> bool:
    """Print a table as CSV or JSON if that was asked for; else the warning alone, and return False."""
    if form == "json":
        rows = json.loads(table.to_json(orient="records"))
        print(json.dumps({"warning": warning, "rows": rows}, indent=1, ensure_ascii=False))
    elif form == "csv":
        print(("" if warning is None else f"# {warning}\n") + table.to_csv(index=False), end="")
    elif warning is not None:
        console().print(warning, style="bold red")
    return form in ("json", "csv")


def summary(table: pd.DataFrame, by: list[str], metrics: list[str], form: str, warning: str | None) -> None:
    """Print what results.summarise returned as a table, CSV or JSON."""
    if _for_programs(table, form, warning):
        return
    if table.empty:
        print("no finished trial yet")
        return
    text = table[by].astype(str)
    for metric in metrics:
        columns = (table[name] for name in (metric, f"{metric}_sd", f"{metric}_low", f"{metric}_high"))
        text[results.TITLES.get(metric, metric)] = [_cell(*numbers) for numbers in zip(*columns, strict=True)]
    text["n"] = table["n"].astype(str) + table["uneven"].map({True: "*", False: ""})
    draw(text, left=len(by))
    print("mean ± sd over n seeds [95 % confidence interval of the mean, Student's t]; what else differs within a row")
    print("(skews, datasets, ...) is averaged for each seed first")
    _say_uneven(table)


def _cell(mean: float, sd: float, low: float, high: float) -> str:
    return spread(mean, sd) + ("" if pd.isna(low) else f" [{low:.3f}, {high:.3f}]")


def comparison(
    table: pd.DataFrame, between: str, within: list[str], metric: str, form: str, warning: str | None
) -> None:
    """Print what comparison.compare returned as a table, CSV or JSON."""
    if _for_programs(table, form, warning):
        return
    draw(comparing.as_text(table, between, within, metric), left=len(within) + 1)
    print(textwrap.fill(comparing.explained(table, between), 110))


def outcome(name: str, storage: Path, uri: str | None, store: str, found: Any, say: Callable[[str], None]) -> None:
    """Say how a run ended and what to type next."""
    from sweeps.tracking.store import shown_uri

    where = "" if storage == Path("cellskew-runs") else f" --storage {storage}"
    where += "" if uri is None else f" --tracking-uri {shown_uri(uri)}"
    done = found.before + found.finished
    say(f"\n{done} of {found.wanted} trials finished ({found.finished} now, in {found.seconds:.0f} s)")
    if found.utilisation is not None:
        say(f"slots were busy {found.utilisation:.0%} of the time")
    if found.failed:
        say(f"{len(found.failed)} failed; the first: {next(iter(found.failed.values())).splitlines()[0][:300]}")
        say(f"  reasons: cellskew status {name}{where}   again: cellskew resume {name} --retry-failed{where}")
    if found.stopped:
        say(f"{found.stopped}; go on: cellskew resume {name}{where}")
    elif done + len(found.failed) < found.wanted:
        say(f"Ray ended before the others had: a node was lost; go on: cellskew resume {name}{where}")
    if found.undelivered:
        say(f"MLflow did not answer: {found.undelivered} records wait in {storage}/sweeps; the next run delivers them")
    say(f"more:   cellskew results {name} --by model,strategy{where}")
    say(f"        cellskew compare {name} --between strategy --within model{where}")
    say(f"        cellskew report {name} -o {name}.html{where}")
    if store.startswith("sqlite"):
        say(f"MLflow: mlflow ui --backend-store-uri {store} --host 127.0.0.1")


def plan(found: Any, as_json: bool) -> None:
    """Print a planning.Plan: trials, class counts by class and by skew x strategy, time, disk, notes."""
    if as_json:
        print(json.dumps(_plan_json(found), indent=1, ensure_ascii=False))
        return
    out = console()
    models = ", ".join(f"{name} {count}" for name, count in found.models.items())
    out.print(f"[bold]{found.name}[/bold]: {len(found.trials)} trials ({models})")
    for dataset, origin in found.datasets.items():
        first = next(axes[1] for axes in found.shapes if axes[0] == dataset)
        inside = {axes[2:]: shape for axes, shape in found.shapes.items() if axes[:2] == (dataset, first)}
        out.print(f"\n[bold]{dataset}[/bold] ({origin}), split {first}")
        _by_class(inside)
        _by_strategy(inside)
    for note in [*found.notes, *found.left_out]:
        out.print(f"note: {note}", markup=False)
    cpus = _cpus()
    print(
        f"\nabout {_hours(found.seconds)} of one CPU core ({_hours(found.seconds / cpus)} on the {cpus} here; official "
        f"sizes want GPUs), {found.disk_gb:.1f} GB of disk. Nothing has been touched."
    )


def _cpus() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _by_class(inside: dict[tuple[str, str], Any]) -> None:
    """Print cells per class: in test, validation and training, and in training after each skew."""
    first = next(iter(inside.values()))
    table = pd.DataFrame({"class": first.classes, "test": first.test, "validation": first.validation})
    for (skew, _), shape in inside.items():
        table[f"train {skew}"] = shape.kept
    draw(table.sort_values(table.columns[3], ascending=False))


def _by_strategy(inside: dict[tuple[str, str], Any]) -> None:
    rows = []
    for (skew, strategy), shape in inside.items():
        counts = shape.kept if shape.trained is None else shape.trained
        seen = counts[counts > 0]
        most = "at most " if shape.trained is None else ""
        rows.append(
            (skew, strategy, f"{most}{counts.sum():,}", seen.max(), seen.min(), f"{seen.max() / seen.min():.1f}")
        )
    print()
    draw(pd.DataFrame(rows, columns=["skew", "strategy", "rows per epoch", "largest", "smallest", "ratio"]), left=2)


def _plan_json(found: Any) -> dict[str, Any]:
    def counts(shape: Any, numbers: Any) -> dict[str, int] | None:
        return None if numbers is None else dict(zip(shape.classes, numbers.tolist(), strict=True))

    parts = ("train", "validation", "test", "kept", "trained")
    shapes = [
        dict(zip(("dataset", "split", "skew", "strategy"), axes, strict=True))
        | {part: counts(shape, getattr(shape, part)) for part in parts}
        for axes, shape in found.shapes.items()
    ]
    return {
        "name": found.name,
        "trials": [{"key": trial.key, "name": trial.name} for trial in found.trials],
        "models": found.models,
        "datasets": found.datasets,
        "class_counts": shapes,
        "cpu_seconds": found.seconds,
        "disk_gb": found.disk_gb,
        "notes": [*found.notes, *found.left_out],
    }


def _hours(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.0f} h" if seconds < 72 * 3600 else f"{seconds / 86400:,.0f} days"


def status(found: Any, as_json: bool) -> None:
    """Print a state.State."""
    if as_json:
        fields = {name: getattr(found, name) for name in ("name", "wanted", "counts", "removed", "driver")}
        fields |= {"seconds_left": found.seconds_left, "waiting_records": found.waiting_records}
        fields |= {name: getattr(found, name).to_dict("records") for name in ("failed", "troubled")}
        print(json.dumps(fields, indent=1, ensure_ascii=False))
        return
    out = console()
    counts = ", ".join(f"{number} {word}" for word, number in found.counts.items())
    out.print(f"[bold]{found.name}[/bold]: {found.wanted} trials: {counts}; {found.driver}")
    if found.seconds_left is not None:
        print(f"about {_hours(found.seconds_left)} left")
    if found.removed:
        print(f"{found.removed} runs beside these are of trials that the sweep's file no longer has; they stay")
    if found.waiting_records:
        print(f"{found.waiting_records} records wait on disk for MLflow; the next run delivers them")
    for row in found.failed.head(10).itertuples():
        then = "the next run tries it again" if row.again else "left alone until --retry-failed"
        out.print(f"FAILED {row.name}: {then}\n       {row.reason}", markup=False)
    for row in found.troubled.head(10).itertuples():
        out.print(f"{row.status} in spite of trouble: {row.name}\n       {row.trouble}", markup=False)
    left_out = sum(max(0, len(table) - 10) for table in (found.failed, found.troubled))
    if left_out:
        print(f"... and {left_out} more (--json lists them)")


def promoted(found: Any) -> None:
    """Print a promote.Promoted."""
    word = "is now" if found.new else "was already"
    print(f"models:/{found.name}/{found.version} {word} the best checkpoint of {found.run_name}\n  in {found.place}")


def predicted(found: Any) -> None:
    """Print a predicting.Predicted."""
    table = found.types.assign(probability=[f"{value:.2f}" for value in found.types["probability"]])
    draw(table.rename(columns={"probability": "mean probability"}))
    print(f"{found.num_cells:,} cells annotated by {found.known:,} of the model's {found.genes:,} genes: {found.out}")
    print("a network names one of the types that it was trained on, whatever the cell is; look at low probabilities")


def datasets(listed: list[tuple[Any, bool]], as_json: bool) -> None:
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
        print(json.dumps(rows, indent=1, ensure_ascii=False))
        return
    draw(pd.DataFrame(rows).drop(columns=["how to get", "licence", "citation", "title"]))
    for row in rows:
        console().print(f"\n[bold]{row['name']}[/bold]: {row['title']}\n  {row['how to get']}\n  {row['licence']}")


def checked(found: dict[str, Any], as_json: bool) -> None:
    """Print what checking.check found."""
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
        return
    out = console()
    out.print(
        f"[bold]{found['name']}[/bold]: {found['cells']:,} cells x {found['genes']:,} genes ({found['gene_names']})"
    )
    totals = found["totals"]
    print(
        f"values: {found['values']}, {found['density']:.1%} not zero, {found['genes_per_cell']:,.0f} genes per cell; "
        f"counts per cell {totals['minimum']:,.0f} to {totals['maximum']:,.0f}, median {totals['median']:,.0f}"
    )
    print(f"largest type / smallest: {found['imbalance']:.1f}")
    draw(pd.DataFrame({"type": found["classes"].keys(), "cells": found["classes"].values()}))
    for name, genes in found["coverage"].items():
        if genes["weights"] is None:
            out.print(
                f"{name}: from scratch, knows all genes (give --model {name} --weights DIR for pretrained weights)"
            )
        elif "problem" not in genes:
            out.print(f"{name}: knows {genes['known']:,} of {genes['genes']:,} genes ({genes['share']:.1%})")
    for doubt in found["warnings"]:
        out.print(f"note: {doubt}", markup=False)
    if "weights" in found:
        _weights(found["weights"])
    print("the file can be used" if found.get("weights", {"complete": True})["complete"] else "")


def _weights(found: dict[str, Any]) -> None:
    """Print what a weights folder lacks and what else is wrong with it, or what of it would be newly initialised."""
    from trainables.weights import missing_file

    out = console()
    for name, where in found["missing"].items():
        out.print(missing_file(found["weights"], name, where), markup=False)
    for problem in found["problems"]:
        out.print(problem, markup=False)
    if found["complete"]:
        fresh = found["fresh"]
        modules = ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in fresh))
        out.print(
            f"{found['weights']}: complete; newly initialised: {modules} ({len(fresh)} parameters, learnt from your "
            "cells)",
            markup=False,
        )
    else:
        out.print(f"{found['weights']}: can't be used as it is", style="bold red")
