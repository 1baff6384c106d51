"""Files and folders appear whole or not at all, and nothing is left beside them."""

import re
from pathlib import Path

import pytest

from data_pipeline import atomic
from data_pipeline.atomic import deliver, publish, replacing
from data_pipeline.errors import RequestError

ROOT = Path(__file__).resolve().parents[2]


def test_a_file_takes_the_place_of_the_one_before(tmp_path):
    publish(tmp_path / "new" / "file", b"one")
    publish(tmp_path / "new" / "file", b"two", durable=False)
    assert (tmp_path / "new" / "file").read_bytes() == b"two"
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_a_folder_takes_the_place_of_the_one_before(tmp_path):
    for text in ("one", "two"):
        with replacing(tmp_path / "folder") as part:
            part.mkdir()
            (part / text).write_text(text)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "two"]


def test_a_file_never_takes_the_place_of_a_folder(tmp_path):
    """`report -o FOLDER` once removed the folder, and all that was in it."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "precious").write_text("mine")
    with pytest.raises(IsADirectoryError):
        publish(tmp_path / "folder", b"page")
    with pytest.raises(RequestError, match="folder can't be written: it is a folder. Name another place"):
        deliver(tmp_path / "folder", b"page")
    with pytest.raises(RequestError, match="/proc/nothing/page can't be written: No such file"):
        deliver(Path("/proc/nothing/page"), b"page")
    assert [path.name for path in tmp_path.rglob("*")] == ["folder", "precious"]


def test_nothing_of_a_failed_write_stays_and_the_old_file_does(tmp_path, monkeypatch):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    publish(tmp_path / "file", b"old")
    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        publish(tmp_path / "file", b"data")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_what_a_killed_attempt_left_is_removed_by_the_only_writer_alone(tmp_path):
    (tmp_path / ".model.0123456789ab.part").mkdir()
    (tmp_path / ".model.0123456789ab.part-journal").write_text("half")
    (tmp_path / ".other.0123456789ab.part").write_text("somebody else's")
    publish(tmp_path / "model", b"1")
    assert len(list(tmp_path.iterdir())) == 4
    with replacing(tmp_path / "model", alone=True) as part:
        part.write_bytes(b"2")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.0123456789ab.part", "model"]


def test_whoever_renames_into_place_does_it_here():
    renames = re.compile(r"os\.(replace|rename)\(|\b(part|temporary|work)\.(replace|rename)\(")
    sources = [path for name in ("data_pipeline", "trainables", "sweeps") for path in (ROOT / name).rglob("*.py")]
    assert [path.name for path in sources if renames.search(path.read_text())] == ["atomic.py"]
