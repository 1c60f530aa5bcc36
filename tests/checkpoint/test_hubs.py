"""Checkpoints by name: told from paths, fetched, and refused in one line."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from clipguard.checkpoint.hubs import fetched, is_remote
from clipguard.errors import UsageError

COMMIT = "c0ffee" * 6 + "c0ff"
REPOSITORIES = {
    "o/shards": ("config.json", "model.safetensors.index.json", "model-1-of-1.safetensors"),
    "o/file": ("config.json", "model.safetensors", "tokenizer.json"),
    "o/pickle": ("config.json", "pytorch_model.bin"),
    "o/both": ("open_clip_config.json", "open_clip_pytorch_model.bin"),
}
TOO_MUCH = ("README.md", "tf_model.h5", "modeling.py", "onnx/model.onnx")


class Endpoint(BaseHTTPRequestHandler):
    """A hub with repositories of transformers, and what else they hold."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        found = re.match(r"/api/models/(o/\w+)/(revision|tree)/(main|v1|c0ff\w+)", self.path)
        if found and found[1] in REPOSITORIES:
            names = (*REPOSITORIES[found[1]], *TOO_MUCH)
            known = [{"rfilename": name} for name in names]
            tree = [{"type": "file", "oid": "a", "size": len(n), "path": n} for n in names]
            whole = {"id": found[1], "sha": COMMIT, "siblings": known}
            self.answer(json.dumps(tree if found[2] == "tree" else whole).encode())
        elif found := re.match(rf"/(o/\w+)/resolve/{COMMIT}/(.+)$", self.path):
            self.answer(found[2].encode())
        else:
            self.send_error(404)

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing to the terminal."""


@pytest.fixture
def endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """huggingface_hub speaks to a server of this machine, with an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    here = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", here)
    template = here + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.usefixtures("endpoint")
@pytest.mark.parametrize("repository", REPOSITORIES)
def test_a_repository_of_transformers_gives_its_model_and_nothing_else(repository: str):
    place = fetched(Path(f"hf-hub:{repository}@v1"))
    assert place.arch is None
    assert {file.name for file in place.path.iterdir()} == {*REPOSITORIES[repository]}


@pytest.mark.usefixtures("endpoint")
def test_a_repository_without_weights_is_one_line(monkeypatch: pytest.MonkeyPatch, one_line):
    monkeypatch.setitem(REPOSITORIES, "o/empty", ("config.json",))
    with one_line(UsageError, r"hf-hub:o/empty holds none of .*model\.safetensors"):
        fetched(Path("hf-hub:o/empty"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A hub whose only repository holds safetensors and a config; what it was asked for."""
    asked: list[dict[str, Any]] = []

    def download(repository: str, **options: Any) -> str:
        asked.append({"repository": repository, **options})
        if repository != "laion/CLIP-ViT-B-32-laion2B-s34B-b79K":
            raise OSError("no such repository\nand more")
        (tmp_path / "open_clip_config.json").write_text("{}")
        (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    return asked


@pytest.mark.parametrize(
    ("name", "remote"),
    [
        ("hf-hub:owner/name", True),
        ("ViT-B-32:laion2b_s34b_b79k", True),
        ("model.pt", False),
        ("C:model.pt", False),
        ("ViT-B-32", False),
        ("ViT-B-32:" + "x" * 300, True),
    ],
)
def test_a_name_is_told_from_a_path(name: str, remote: bool):
    assert is_remote(Path(name)) is remote


def test_a_file_that_bears_such_a_name_is_that_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("ViT-B-32:openai").write_text("x")
    assert fetched(Path("ViT-B-32:openai")) == (Path("ViT-B-32:openai"), None)


def test_a_repository_gives_its_folder_at_the_revision_that_was_asked_for(
    hub: list[dict[str, Any]], tmp_path: Path
):
    name = "hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K@abc"
    assert fetched(Path(name)) == (tmp_path, None)
    assert hub[0]["revision"] == "abc"
    assert "open_clip_model.safetensors" in hub[0]["allow_patterns"]


def test_a_tag_of_open_clip_gives_weights_and_architecture(
    hub: list[dict[str, Any]], tmp_path: Path
):
    assert fetched(Path("ViT-B-32:laion2b_s34b_b79k")) == (tmp_path, "ViT-B-32")
    assert hub[0]["revision"] is None


def test_weights_of_another_activation_get_the_architecture_that_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "open_clip_model.safetensors").write_bytes(b"")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    assert fetched(Path("ViT-B-32:openai")).arch == "ViT-B-32-quickgelu"
    assert fetched(Path("ViT-B-32:laion2b_s34b_b79k")).arch == "ViT-B-32"


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("hf-hub:owner/other", "cannot fetch hf-hub:owner/other: no such repository; download"),
        ("ViT-B-32:nobody", "ViT-B-32 has no weights named nobody .*openai"),
    ],
)
def test_what_cannot_be_fetched_is_refused_in_one_line(name: str, told: str):
    with pytest.raises(UsageError, match=told) as refused:
        fetched(Path(name))
    assert "\n" not in str(refused.value)
