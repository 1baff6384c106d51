"""Shards: what is read back is what was encoded, half-made ones never look complete, damage is found and mended."""

import json
import os
import resource
import subprocess
import sys
import threading
import time
import tracemalloc
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import made_up_cells, make_shards

from data_pipeline.errors import RequestError
from data_pipeline.hashes import file_sha256
from data_pipeline.shards import parts
from data_pipeline.shards import shards as shards_module
from data_pipeline.shards import writing as module
from data_pipeline.shards.encoded import Encoded, concatenate
from data_pipeline.shards.shards import Joined, ShardError, Shards
from data_pipeline.shards.writing import Job, write_shards

ROOT = Path(__file__).resolve().parents[2]


class Ragged:
    """An encoder of (gene, count) pairs with a random last token, so that the generator matters."""

    def __init__(self, version: int = 1) -> None:
        self.identity = {"encoder": "ragged", "version": version}
        self.network_options = {"num_tokens": 1000}
        self.coverage = {}

    def __call__(self, counts, rng, totals=None):
        ids = counts.indices.astype(np.int64)
        return Encoded(ids, counts.data + rng.random(len(ids)).astype(np.float32), counts.indptr.astype(np.int64))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr("data_pipeline.shards.job.BLOCK", 64)


def test_take_returns_the_cells_asked_for_in_their_order_across_parts(tmp_path, small_blocks):
    cells = made_up_cells(200)
    shards = Shards(make_shards(cells, Ragged(), tmp_path))
    assert len(shards._parts) == 4
    rows = np.array([199, 0, 63, 64, 0, 130])
    taken = shards.take(rows)
    for place, row in enumerate(rows):
        expected = cells.counts[row]
        part = slice(taken.offsets[place], taken.offsets[place + 1])
        assert np.array_equal(taken.ids[part], expected.indices)
        assert np.array_equal(np.floor(taken.values[part]), expected.data)
    assert len(shards.take(np.zeros(0, np.int64))) == 0
    assert np.array_equal(shards.lengths, np.diff(cells.counts.indptr))
    assert np.array_equal(shards.labels, cells.labels)


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_take_is_right_for_any_rows_in_any_order(tmp_path, small_blocks, monkeypatch, kind):
    """Runs are joined over short gaps and cut at long ones; neither shows."""
    monkeypatch.setattr(parts, "GAP", 40)  # a cell has about 30 tokens
    cells, rng = made_up_cells(300), np.random.default_rng(0)
    shards = Shards(make_shards(cells, Ragged(), tmp_path))
    wanted = [np.sort(rng.choice(300, number, replace=False)) for number in (1, 20, 150, 300)]
    wanted += [rng.integers(0, 300, 500), np.array([5, 5, 5, 6]), np.arange(299, -1, -1)]
    for rows in wanted:
        taken, expected = shards.take(rows, kind), cells.counts[rows]
        assert taken.ids.dtype == kind and np.array_equal(taken.ids, expected.indices)
        assert np.array_equal(np.floor(taken.values), expected.data)
        assert np.array_equal(taken.offsets, expected.indptr)


def limited(files: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))


MANY = """
import sys, numpy as np
from pathlib import Path
from data_pipeline.shards.shards import Shards
shards = Shards(Path(sys.argv[1]))
rows = np.arange(len(shards))[::-7]
print(len(shards._parts), shards.take(rows).ids.sum())
"""


def test_more_parts_than_a_process_may_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipeline.shards.job.BLOCK", 1)
    cells = made_up_cells(1100, 20)
    folder = make_shards(cells, Ragged(), tmp_path)
    run = partial(subprocess.run, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    done = run([sys.executable, "-c", MANY, folder], preexec_fn=partial(limited, 256))
    assert done.stdout.split() == ["1100", str(cells.counts[np.arange(1100)[::-7]].indices.sum())], done.stderr


def test_the_time_that_take_needs_grows_with_the_cells_alone(tmp_path, monkeypatch):
    """Twice the cells in twice the parts: about twice the time, where it was four times."""
    seconds = {}
    monkeypatch.setattr("data_pipeline.shards.job.BLOCK", 4)
    for number in (1000, 4000):
        shards = Shards(make_shards(made_up_cells(number, 10), Ragged(), tmp_path / str(number)))
        rows = np.random.default_rng(0).permutation(number)
        times = []
        for _ in range(3):
            begin = time.process_time()
            shards.take(rows)
            times.append(time.process_time() - begin)
        seconds[number] = min(times)
    assert seconds[4000] < 8 * seconds[1000]  # 16 were it quadratic


def test_taking_cells_holds_little_more_than_the_cells(tmp_path):
    """Four bytes for an id and four for a value are returned; 37 were held on the way."""
    shards = Shards(make_shards(made_up_cells(20_000, 200), Ragged(), tmp_path))
    rows = np.flatnonzero(np.random.default_rng(0).random(20_000) < 0.7)
    tracemalloc.start()
    taken = shards.take(rows, np.int32)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(taken.ids) > 500_000 and peak < 14 * len(taken.ids)


def test_what_was_hashed_is_not_hashed_again_until_it_changes(tmp_path, small_blocks, monkeypatch):
    folder = make_shards(made_up_cells(200), Ragged(), tmp_path)
    hashed = []
    monkeypatch.setattr(shards_module, "file_sha256", lambda path: hashed.append(path.name) or file_sha256(path))
    Shards(folder)
    assert len(hashed) == 6  # four parts, lengths, cells
    Shards(folder)
    assert len(hashed) == 6
    os.utime(folder / "part-000000064.arrow")
    Shards(folder)
    assert hashed[6:] == ["part-000000064.arrow"]


def test_a_folder_that_may_only_be_read_is_read(tmp_path, monkeypatch):
    def refuses(*about, **options) -> None:
        raise PermissionError(13, "Permission denied")

    folder = make_shards(made_up_cells(20), Ragged(), tmp_path)
    monkeypatch.setattr(shards_module, "publish", refuses)
    assert len(Shards(folder)) == 20


def test_donors_and_test_cells_come_back_as_they_were(tmp_path):
    cells = made_up_cells(60)
    donors, tested = np.array(["d2", "d10", "d1"] * 20, dtype=object), np.arange(60) >= 50
    known = ("digest", "counts", "labels", "classes", "num_cells", "totals", "cell_ids", "read")
    known = {name: getattr(cells, name) for name in known} | {
        "donors": donors,
        "fixed_test": tested,
        "twins": np.arange(60) % 50,
    }
    shards = Shards(make_shards(SimpleNamespace(**known), Ragged(), tmp_path))
    assert np.array_equal(np.asarray(shards.donors), donors) and np.array_equal(shards.fixed_test, tested)
    assert np.array_equal(shards.twins, np.arange(60) % 50)
    assert Shards(make_shards(cells, Ragged(2), tmp_path / "none")).donors is None


def test_whole_numbers_are_stored_in_one_byte_and_read_back_as_they_were():
    assert parts.smallest(np.array([0.0, 255.0], np.float32)).dtype == np.uint8
    assert parts.smallest(np.array([256.0], np.float32)).dtype == np.uint16
    assert parts.smallest(np.array([0.5], np.float32)).dtype == np.float32
    assert parts.smallest(np.array([-1, 5])).dtype == np.int32
    assert parts.smallest(np.array([70000])).dtype == np.int32


def test_the_key_depends_on_data_and_encoder(tmp_path):
    jobs = [Job(made_up_cells(), Ragged(), tmp_path), Job(made_up_cells(), Ragged(2), tmp_path)]
    jobs.append(Job(made_up_cells(seed=1), Ragged(), tmp_path))
    assert len({job.folder for job in jobs}) == 3
    assert Job(made_up_cells(), Ragged(), tmp_path).folder == jobs[0].folder


@pytest.mark.parametrize("victim", ["part-000000064.arrow", "../cells.arrow"])
def test_an_altered_file_is_refused_and_made_again(victim, tmp_path, small_blocks, ray_here):
    job = Job(made_up_cells(200), Ragged(), tmp_path)
    write_shards([job])
    before = Shards(job.folder).take(np.arange(200))
    victim = job.folder / victim
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(ShardError, match="altered; run the sweep again"):
        Shards(job.folder)
    assert not job.is_complete()
    write_shards([job])
    assert np.array_equal(Shards(job.folder).take(np.arange(200)).values, before.values)


def test_a_damaged_note_of_a_part_is_made_again(tmp_path, small_blocks, ray_here):
    job = Job(made_up_cells(200), Ragged(), tmp_path)
    write_shards([job])
    (job.folder / "manifest.json").unlink()
    (job.folder / "part-000000064.json").write_text('{"file": "part-00')
    write_shards([job])
    assert job.is_complete() and len(Shards(job.folder)) == 200


def test_a_preparation_cut_short_goes_on_where_it_stopped(tmp_path, small_blocks, ray_here):
    job = Job(made_up_cells(200), Ragged(), tmp_path)
    job.writer.write(64, job.cells.read(64, 128))
    kept = (job.folder / "part-000000064.arrow").stat().st_mtime_ns
    (job.folder / ".part-000000128.arrow.abc").write_bytes(b"half")
    assert not job.is_complete()
    with pytest.raises(ShardError, match="no complete shards"):
        Shards(job.folder)
    write_shards([job])
    assert job.is_complete()
    assert (job.folder / "part-000000064.arrow").stat().st_mtime_ns == kept
    assert len(Shards(job.folder)) == 200


def test_parallel_and_local_encoding_write_the_same_bytes(tmp_path, small_blocks, ray_here):
    cells = made_up_cells(200)
    write_shards([Job(cells, Ragged(), tmp_path / "ray"), Job(cells, Ragged(2), tmp_path / "ray")])
    local, parallel = make_shards(cells, Ragged(), tmp_path / "here"), Job(cells, Ragged(), tmp_path / "ray").folder
    for part in json.loads((local / "manifest.json").read_text())["parts"]:
        assert (local / part["file"]).read_bytes() == (parallel / part["file"]).read_bytes()


def test_two_preparations_of_the_same_data_at_once_end_with_the_same_shards(tmp_path, small_blocks):
    cells, gate, errors = made_up_cells(300), threading.Barrier(4), []
    alone = make_shards(cells, Ragged(), tmp_path / "alone")

    def prepare(order: int) -> None:
        try:
            job = Job(cells, Ragged(), tmp_path / "both")
            gate.wait()
            module._drop_damaged(job)
            module._write_cells(job)
            for start in range(0, 300, 64)[::order]:
                job.writer.write(start, cells.read(start, min(start + 64, 300)))
            module._finish(job)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=prepare, args=(order,)) for order in (1, -1, 1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    both = Job(cells, Ragged(), tmp_path / "both").folder
    assert sorted(path.name for path in both.iterdir()) == sorted(path.name for path in alone.iterdir())
    assert all((both / path.name).read_bytes() == path.read_bytes() for path in alone.iterdir())


class Refuses(Ragged):
    """An encoder that can't make sense of the cells."""

    def __call__(self, counts, rng, totals=None):
        raise RequestError("no gene in common with the vocabulary")


def test_an_encoders_refusal_reaches_the_user_as_it_is(tmp_path, ray_here):
    job = Job(made_up_cells(50), Refuses(), tmp_path)
    with pytest.raises(RequestError, match="^no gene in common with the vocabulary$"):
        write_shards([job])
    assert not job.is_complete()


def test_a_truncated_part_makes_the_job_incomplete(tmp_path, small_blocks):
    cells = made_up_cells(200)
    job = Job(cells, Ragged(), tmp_path)
    make_shards(cells, Ragged(), tmp_path)
    assert job.is_complete()
    path = job.folder / "part-000000000.arrow"
    path.write_bytes(path.read_bytes()[:-10])
    assert not job.is_complete()


def test_generated_cells_follow_the_real_ones(tmp_path):
    real = Shards(make_shards(made_up_cells(50), Ragged(), tmp_path))
    made = Shards(make_shards(made_up_cells(20, seed=1), Ragged(), tmp_path))
    joined = Joined(real, made)
    rows = np.array([69, 3, 50, 49])
    taken = joined.take(rows)
    expected = concatenate([part.take(np.array([row])) for part, row in [(made, 19), (real, 3), (made, 0), (real, 49)]])
    assert np.array_equal(taken.ids, expected.ids)
    assert np.array_equal(taken.offsets, expected.offsets)
    assert np.array_equal(joined.labels, np.concatenate([real.labels, made.labels]))
