"""`cellskew export`: a finished sweep as a file for a supplement, and the same tables from it without MLflow."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd

from data_pipeline.atomic import deliver
from data_pipeline.errors import RequestError
from sweeps.answers import frames
from sweeps.answers.runs import results
from sweeps.answers.runs.stored import HIGHEST, Stored, highest_of
from sweeps.file.questions import Question
from sweeps.tables import as_parquet
from sweeps.tracking.uris import of_sweep

TABLES = ("per_class.csv", "predictions.parquet", "result.json")  # of each finished run, what tables are made of
README = """{name}: a sweep of cellskew, as it was exported.

sweep.yaml            the sweep file: what was asked for
trials.parquet        a row per trial and adjustment after training (posthoc): axes, key, metrics
types.parquet         a row per trial, adjustment and cell type: cells, precision, recall, F1, intervals
runs.parquet          runs with status and reason, as MLflow had them; of what is tuned the chosen
versions.json         code, packages, digests of the data, machines
report.html           the answer as a page
runs/ID/              of each finished run: its table per type, the types predicted and how sure that was, its
                      course of training

The same tables, without MLflow:      cellskew results {file}
                                      cellskew answer {file}
                                      cellskew compare {file} --between strategy
                                      cellskew report {file}
The same trials, trained anew:        cellskew run sweep.yaml
"""


class Bundled(Stored):
    """What finished runs left, read from a bundle."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        super().__init__(None)
        self._parts = {inside: file.read(inside) for inside in file.namelist() if inside.startswith("runs/")}

    def _fetch(self, run_id: str, artifact_uri: str, name: str) -> bytes | None:
        return self._parts.get(f"runs/{run_id}/{name}")


def write(path: Path, name: str, runs: pd.DataFrame, stored: Stored, sweep: str | None, report: str | None) -> None:
    """Write a sweep's bundle: whole or not at all. runs: see results.choose; sweep, report: the texts, None without.

    RequestError if nothing is finished.
    """
    finished = runs[runs["status"] == "FINISHED"]
    if finished.empty:
        raise RequestError(f"no trial of {name} is finished yet; `cellskew status {name}` says how far it is")
    texts = {"README.txt": README.format(name=name, file=path.name), "versions.json": _versions(finished)}
    texts |= {} if sweep is None else {"sweep.yaml": sweep}
    texts |= {} if report is None else {"report.html": report}
    texts["about.json"] = json.dumps(
        {"name": name, "questions": _questions(runs), "controls": runs.attrs.get("controls", [])}
    )
    tables = {"trials": frames.trials(runs), "types": frames.types(runs, stored), "runs": runs}
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        for inside, text in texts.items():
            file.writestr(inside, text)
        for inside, table in tables.items():
            file.writestr(f"{inside}.parquet", as_parquet(table))
        for _, run in finished.iterrows():
            for inside in TABLES:
                if (part := _slim(stored, run, inside)) is not None:
                    file.writestr(f"runs/{run['run_id']}/{inside}", part)
    deliver(path, data.getvalue())


def read(path: Path) -> tuple[pd.DataFrame, Bundled]:
    """Return a bundle's runs, see results.fetch, and what they left; RequestError if it is none."""
    try:
        with zipfile.ZipFile(path) as file:
            runs = pd.read_parquet(io.BytesIO(file.read("runs.parquet")))
            about, stored = json.loads(file.read("about.json")), Bundled(file)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise _is_none(path, error) from None
    runs.attrs |= {"keys": None, "uri": None, "driver": None}
    runs.attrs["controls"] = about.get("controls", [])
    runs.attrs["questions"] = [Question(**one) for one in about["questions"]]
    return runs, stored


def told(path: Path) -> tuple[str, str | None]:
    """Return what the sweep in a bundle is called, and its file, None if it isn't there; RequestError if it is none."""
    try:
        with zipfile.ZipFile(path) as file:
            text = file.read("sweep.yaml").decode() if "sweep.yaml" in file.namelist() else None
            return json.loads(file.read("about.json"))["name"], text
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise _is_none(path, error) from None


def _is_none(path: Path, error: Exception) -> RequestError:
    return RequestError(f"{path} is no bundle that `cellskew export` wrote: {error}")


def open_sweep(
    name: str, storage: Path, uri: str | None, every: bool = False, all_settings: bool = False
) -> tuple[pd.DataFrame, Stored, str | None]:
    """Return a sweep's runs, what they left, and a sentence on runs left out, see results.choose.

    name: of a sweep, looked for in `uri` or the storage folder's own MLflow, or a bundle (*.zip), which has the wanted
    runs and chosen settings alone. RequestError if there is none.
    """
    if name.endswith(".zip"):
        if all_settings:
            raise RequestError(f"{name}: a bundle has the chosen settings alone; ask the sweep itself for all settings")
        return *read(Path(name)), None
    place = of_sweep(storage, uri, name)
    runs, left_out = results.choose(place, results.fetch(place, name), every, all_settings)
    return runs, Stored(place), left_out


def _questions(runs: pd.DataFrame) -> list[dict[str, Any]]:
    return [question.model_dump() for question in runs.attrs.get("questions", ())]


def _versions(finished: pd.DataFrame) -> str:
    """Return what the trials were made with: each tag's values, and of how many trials."""
    found = {name: finished[name].value_counts().to_dict() for name in results.MADE_WITH if name in finished}
    return json.dumps({name: counts for name, counts in found.items() if set(counts) != {""}}, indent=1)


def _slim(stored: Stored, run: pd.Series, name: str) -> bytes | None:
    """Return one of a run's files; of predictions the types and the highest probability: those of all types are most
    of a bundle, and no table needs them."""
    data = stored.file(run["run_id"], run["artifact_uri"], name)
    if data is None or name != "predictions.parquet":
        return data
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    table = parquet.read_table(io.BytesIO(data))
    empty = arrow.nulls(len(table))
    columns = {one: empty if one.startswith("p_") else table[one] for one in table.column_names}
    columns[HIGHEST] = highest_of(table.to_pandas())
    out = io.BytesIO()
    parquet.write_table(arrow.table(columns), out)
    return out.getvalue()
