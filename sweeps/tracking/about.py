"""What MLflow's page says of a sweep as a whole: a note with the answer, its file, a link to the table of its runs."""

from collections.abc import Mapping, Sequence

from sweeps.tracking.connection import asking, connect
from sweeps.tracking.uris import shown_uri, take_credentials

NOTE, LONGEST = "mlflow.note.content", 4900  # MLflow's own tag, and what it holds
ABOUT = "cellskew.about"  # experiment tag: the run with the sweep's files; it has no cellskew.trial, so no table has it


def describe(uri: str, sweep: str, sentences: Sequence[str], files: Mapping[str, str]) -> str:
    """Put the answer into the experiment's note, and texts by file name into a run of their own; return `link`.

    RequestError if MLflow doesn't answer.
    """
    client = connect(uri)
    with asking(take_credentials(uri)):
        experiment = client.get_experiment_by_name(sweep)
        client.set_experiment_tag(experiment.experiment_id, NOTE, "\n\n".join(sentences)[:LONGEST])
        run_id = experiment.tags.get(ABOUT)
        if run_id is None:
            tags = {"cellskew.sweep": sweep, "mlflow.source.name": "cellskew"}
            run_id = client.create_run(experiment.experiment_id, run_name=f"about {sweep}", tags=tags).info.run_id
            client.set_terminated(run_id)
            client.set_experiment_tag(experiment.experiment_id, ABOUT, run_id)
        for name, text in files.items():
            client.log_text(run_id, text, name)
        return link(uri, experiment.experiment_id)


def link(uri: str, experiment_id: str) -> str:
    """Return MLflow's page with the table of an experiment's runs; of a database, where `mlflow ui` serves it."""
    base = shown_uri(uri).rstrip("/") if uri.startswith("http") else "http://127.0.0.1:5000"
    return f"{base}/#/experiments/{experiment_id}/runs"
