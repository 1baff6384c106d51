"""Official checkpoints: fetched from a hub of our own, gone on with, held against its digests; folders looked at."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from official_folders import write_geneformer
from safetensors.torch import save

from data_pipeline.errors import RequestError
from trainables.official import checkpoints, hub
from trainables.official.folder import check

NAME = "Geneformer-V1-10M"
DICTIONARIES = "geneformer/gene_dictionaries_30m"
STATE = save({"a": torch.zeros(50_000)})
COMMIT = "0" * 40


class Hub(BaseHTTPRequestHandler):
    """As much of the hub's interface as a download asks for."""

    protocol_version = "HTTP/1.1"
    content: dict[str, bytes] = {}
    asked: list[tuple[str, str | None]] = []  # (path, Range) of every GET of a file
    cut: set[str] = set()  # files of which half is sent, once
    lies: set[str] = set()  # files that are other than the list says

    def log_message(self, *said: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if "/tree/" in self.path:
            return self.answer(json.dumps([about(name, data) for name, data in self.content.items()]).encode(), {})
        name = self.path.split("/resolve/")[1].partition("/")[2]
        data = self.content[name]
        data = data[::-1] if name in self.lies else data
        headers = {"ETag": f'"{about(name, data)["oid"]}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        return self.answer(data, headers, name)

    def answer(self, data: bytes, headers: dict[str, str], name: str = "") -> None:
        start = int((self.headers.get("Range") or "bytes=0-").split("=")[1].split("-")[0])
        if name and self.command == "GET":
            self.asked.append((name, self.headers.get("Range")))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for key, value in (headers | {"Content-Length": str(len(data) - start)}).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            end = len(data) // 2 if name in self.cut else len(data)
            self.wfile.write(data[start:end])
            if name in self.cut:
                self.close_connection = True


def about(name: str, data: bytes) -> dict:
    """Return what the hub's list says of a file."""
    is_large = name.endswith((".safetensors", ".pkl"))
    oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    lfs = {"lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}} if is_large else {}
    return {"type": "file", "path": name, "size": len(data), "oid": oid} | lfs


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    kinds = ("token_dictionary", "gene_median_dictionary", "gene_name_id_dict", "ensembl_mapping_dict")
    small = {f"{DICTIONARIES}/{kind}_gc30M.pkl": kind.encode() * 9 for kind in kinds}
    large = {f"geneformer/{kind}_gc104M.pkl": b"of another version" for kind in kinds}
    Hub.content = {f"{NAME}/config.json": b"{}", f"{NAME}/model.safetensors": STATE, "README.md": b"x"} | small | large
    Hub.asked, Hub.cut, Hub.lies = [], set(), set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    yield Hub
    server.shutdown()
    server.server_close()


def fetched(folder: Path) -> list[str]:
    said: list[str] = []
    hub.fetch(checkpoints.named(NAME), folder, said.append)
    return said


def test_a_checkpoint_is_fetched_whole_into_one_folder_and_not_again(served, tmp_path):
    assert fetched(tmp_path)[1] == "model.safetensors: 0.2 MB"
    right = {name.rpartition("/")[2]: data for name, data in served.content.items() if "30m" in name or NAME in name}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == right
    before = list(served.asked)
    assert all(line.endswith("is there already") for line in fetched(tmp_path)) and served.asked == before


def test_what_was_damaged_since_is_fetched_anew(served, tmp_path):
    fetched(tmp_path)
    (tmp_path / "config.json").write_bytes(b"[]")
    served.asked.clear()
    fetched(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == b"{}" and [name for name, _ in served.asked] == [
        f"{NAME}/config.json"
    ]


def test_a_download_that_ended_early_goes_on_where_it_ended(served, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    served.cut = {f"{NAME}/model.safetensors"}
    with pytest.raises(RequestError, match="it goes on where it ended"):
        fetched(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()
    served.cut = set()
    served.asked.clear()
    fetched(tmp_path)
    assert served.asked[0] == (f"{NAME}/model.safetensors", "bytes=100000-")  # of 200,072; in whole blocks of 1000
    assert (tmp_path / "model.safetensors").read_bytes() == STATE


def test_a_file_that_is_not_what_the_hub_says_is_refused_and_not_kept(served, tmp_path):
    served.lies = {f"{DICTIONARIES}/token_dictionary_gc30M.pkl"}
    with pytest.raises(RequestError, match="token_dictionary_gc30M.pkl"):
        fetched(tmp_path)
    assert not list(tmp_path.rglob("token_dictionary*.pkl"))


def test_a_hub_that_is_gone_or_lacks_a_file_is_said(served, tmp_path, monkeypatch):
    del served.content[f"{NAME}/model.safetensors"]
    with pytest.raises(RequestError, match="has no Geneformer-V1-10M/model.safetensors"):
        fetched(tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RequestError, match=r"127.0.0.1:9 gave no answer .* by hand: https://huggingface.co"):
        fetched(tmp_path)


def test_by_hand_says_which_files_and_unknown_names_the_nearest(tmp_path):
    with pytest.raises(RequestError, match=r"args.json, best_model.pt, vocab.json by hand \(https://drive.google"):
        hub.fetch(checkpoints.named("scgpt-whole-human"), tmp_path)
    with pytest.raises(RequestError, match="did you mean Geneformer-V1-10M"):
        checkpoints.named("Geneformer-V1-10")


def test_a_folder_is_said_to_be_whose_and_whole_or_what_it_lacks(tmp_path):
    folder = write_geneformer(tmp_path, [f"ENSG{i:011}" for i in range(9)])
    found = check(folder)
    assert found["model"] == "geneformer" and found["problems"] == []
    held = {file["name"]: file for file in found["files"]}
    state = held["model.safetensors"]
    assert state["sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert "numbers in" in state["holds"]
    next(folder.glob("token_dictionary*.pkl")).unlink()
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:99])
    problems = "\n".join(check(folder)["problems"])
    assert "token_dictionary*.pkl is missing; get it from huggingface.co" in problems and "cut off" in problems


def test_a_folder_that_asks_for_code_is_refused_and_nothing_run(tmp_path):
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple:
            return Path.touch, (mark,)

    for name in ("args.json", "vocab.json"):
        (tmp_path / name).write_text("{}")
    torch.save({"a": Evil()}, tmp_path / "best_model.pt")
    (problem,) = check(tmp_path)["problems"]
    assert "refused, it holds more than weights" in problem and not mark.exists()
    assert "no known network's files are here" in check(tmp_path.parent)["problems"][0]
