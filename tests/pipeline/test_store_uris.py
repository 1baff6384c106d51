"""Places in buckets: refused in words before anything starts, and what is refused is not waited for."""

from pathlib import Path

import pytest

from data_pipeline.errors import RequestError
from data_pipeline.reading.h5ad import Source, open_cells
from data_pipeline.shared import objects
from sweeps.file.config import parse


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("gs://bucket/x", "give s3://BUCKET/FOLDER"),
        ("s3:///x", "give s3://BUCKET/FOLDER"),
        ("/data", "give s3://BUCKET/FOLDER"),
        ("s3://me:secret@bucket/x", "leave user, password and settings out of the URI"),
        ("s3://bucket/x?scheme=http", "leave user, password and settings out of the URI"),
    ],
)
def test_a_place_that_is_no_bucket_is_refused_and_no_secret_said(uri, said):
    with pytest.raises(RequestError, match=said) as refused:
        objects.checked(uri)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("AWS Error NO_SUCH_BUCKET during PutObject operation: no", "there is no bucket b; create it"),
        ("AWS Error ACCESS_DENIED during PutObject operation: no", "these credentials may not write there, or there"),
        ("AWS Error NETWORK_CONNECTION during: curlCode: 7", "the store doesn't answer; is AWS_ENDPOINT_URL right"),
    ],
)
def test_a_store_that_takes_nothing_is_refused_with_what_to_do(error, said, monkeypatch):
    monkeypatch.setattr(objects, "write", lambda *given: (_ for _ in ()).throw(OSError(error)))
    with pytest.raises(RequestError, match=f"--shared s3://b/x: {said}"):
        objects.try_out("s3://b/x")


def test_a_data_set_in_a_bucket_that_gives_nothing_is_a_sentence(monkeypatch):
    def refuse(path):
        raise OSError("When getting information for key 'a.h5ad' in bucket 'b': AWS Error ACCESS_DENIED")

    monkeypatch.setattr("data_pipeline.reading.file.places._remote", refuse)
    with pytest.raises(RequestError, match=r"^s3://b/a.h5ad: these credentials may not read there, or there are none"):
        open_cells(Source("a", ("s3://b/a.h5ad",), "l"))


def test_a_data_set_in_a_bucket_is_where_its_file_says():
    text = "name: s\ndatasets: [{path: s3://bucket/a.h5ad, label: l, name: a}]\nmodels: {majority: {}}\n"
    assert parse(text, Path("/elsewhere/s.yaml")).datasets[0]["path"] == "s3://bucket/a.h5ad"


DATA = "name: a, path: s3://b/a.h5ad, label: l"


@pytest.mark.parametrize(
    ("data", "model", "where"),
    [
        (DATA, "scgpt: {weights: s3://b/scGPT}", "models.scgpt.weights"),
        (DATA, "m: {model: mlp, on: {embeddings: s3://b/e.h5ad}}", "models.m.on.embeddings"),
        (DATA, "m: {model: mlp, on: {model: scgpt, weights: s3://b/scGPT}}", "models.m.on.weights"),
        (f"{DATA}, tree: s3://b/t.yaml", "majority: {}", "datasets[0].tree"),
        (f"{DATA}, labels: {{map: s3://b/m.csv}}", "majority: {}", "datasets[0].labels.map"),
    ],
)
def test_what_is_not_read_from_a_bucket_says_so_also_where_no_path_is_looked_at(data, model, where):
    """As `submit` does: only the cluster would refuse it."""
    text = f"name: s\ndatasets: [{{{data}}}]\nmodels: {{{model}}}\n"
    with pytest.raises(RequestError) as refused:
        parse(text, Path("/elsewhere/s.yaml"), check_files=False)
    (said,) = refused.value.problems
    assert f": {where}: s3://b/" in said and "is in a bucket, from where only a dataset's `path`" in said


def test_a_store_that_refuses_is_not_waited_for():
    said = []
    with pytest.raises(OSError, match="ACCESS_DENIED"):
        objects.waiting(lambda: (_ for _ in ()).throw(OSError("AWS Error ACCESS_DENIED")), said.append)
    assert not said
