"""Checkpoints by name: told from paths, fetched, and refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from clipguard.checkpoint.hubs import fetched, is_remote
from clipguard.errors import UsageError


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
