"""Shards: what is read back is what was encoded, half-made ones never look complete, damage is found and mended."""

import json
import re
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import made_up_cells, make_shards

from data_pipeline.errors import RequestError
from data_pipeline.shards import writing as module
from data_pipeline.shards.encoded import Encoded, concatenate
from data_pipeline.shards.shards import Joined, ShardError, Shards
from data_pipeline.shards.writing import Job, write_shards


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
    monkeypatch.setattr(module, "BLOCK", 64)


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


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="only Linux tells which pages are mapped")
def test_pages_that_were_read_are_let_go(tmp_path):
    shards = Shards(make_shards(made_up_cells(600, 200), Ragged(), tmp_path))

    def resident() -> int:
        """Return kB of the parts that count as this process's memory."""
        mappings = Path("/proc/self/smaps").read_text().split("VmFlags")
        return sum(int(re.search(r"Rss: *(\d+)", m)[1]) for m in mappings if f"{shards.folder}/part" in m)

    assert resident() == 0
    assert shards._parts[0].ids.sum() > 0 and resident() > 0  # reading behind its back is seen
    first = shards.take(np.arange(100))
    assert resident() == 0
    assert np.array_equal(shards.take(np.arange(100)).values, first.values)


def test_whole_numbers_are_stored_in_one_byte_and_read_back_as_they_were():
    assert module._smallest(np.array([0.0, 255.0], np.float32)).dtype == np.uint8
    assert module._smallest(np.array([256.0], np.float32)).dtype == np.uint16
    assert module._smallest(np.array([0.5], np.float32)).dtype == np.float32
    assert module._smallest(np.array([-1, 5])).dtype == np.int32
    assert module._smallest(np.array([70000])).dtype == np.int32


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
