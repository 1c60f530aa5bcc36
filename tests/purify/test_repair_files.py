"""Purified heads on disk: what belongs to what, and nothing believed that a stranger changed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import CONTEXT_TOKENS, NAMES, WIDTH, generator, stripes_probe
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional

from clipguard.bundled.nano import nano_network
from clipguard.checkpoint.load import load_checkpoint
from clipguard.errors import RefusedError, UsageError
from clipguard.model.nano import nano_model
from clipguard.model.open_clip import build_model
from clipguard.purify.files import SCHEMA_VERSION, Weights, load_head, save_head, save_tower
from clipguard.purify.roles import PurifiedHead
from clipguard.record import HEAD_SCOPE, TOWER_SCOPE

DIGEST = "ab" * 32


def head() -> PurifiedHead:
    classes = functional.normalize(torch.randn(len(NAMES), WIDTH, generator=generator()), dim=1)
    context = torch.randn(len(NAMES), CONTEXT_TOKENS, WIDTH, generator=generator(1))
    return PurifiedHead(classes, context, {"classification": 0.1}, "cbpt")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_head(head(), stripes_probe(), Weights(DIGEST), tmp_path / "head.safetensors")
    return tmp_path / "head.safetensors"


def test_a_head_survives_the_way_to_disk_and_back(file: Path):
    classes, names, *_ = load_head(file, DIGEST)
    torch.testing.assert_close(classes, head().classes)
    assert names == load_head(tampered(file), DIGEST)[1] == NAMES


def test_a_head_file_says_what_it_is_for_and_how_far_it_reaches(file: Path):
    with safe_open(file, framework="pt") as opened:
        told = json.loads(opened.metadata()["clipguard"])
        assert torch.equal(opened.get_tensor("context"), head().context)
    assert (told["schema_version"], told["scope"]) == (SCHEMA_VERSION, HEAD_SCOPE)
    assert (told["method"], told["checkpoint_sha256"]) == ("cbpt", DIGEST)


def test_the_bytes_of_a_head_repeat(file: Path, tmp_path: Path):
    save_head(head(), stripes_probe(), Weights(DIGEST), tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == file.read_bytes()


def test_odd_strides_and_what_speaks_against_a_head_are_written(file: Path):
    made = head()
    context = made.context[:, :1].expand(-1, CONTEXT_TOKENS, -1)
    odd = replace(made, classes=made.classes.T.contiguous().T, context=context)
    save_head(odd, stripes_probe(), Weights(DIGEST), file, caveat="NOT shown\x1b[2J")
    assert torch.equal(load_head(file, DIGEST)[0], made.classes)
    assert load_head(file, DIGEST).caveat == "NOT shown\\u{1b}[2J"


def test_a_head_of_a_repaired_tower_fits_that_alone_and_says_where_it_lies(file: Path):
    save_head(head(), stripes_probe(), Weights(DIGEST, "ef" * 32), file)
    assert load_head(file, "ef" * 32).repaired_from == DIGEST
    with safe_open(file, framework="pt") as opened:
        told = json.loads(opened.metadata()["clipguard"])
    assert (told["scope"], told["method"]) == (TOWER_SCOPE, "realign+cbpt")
    with pytest.raises(UsageError, match=r"give the repaired\.safetensors"):
        load_head(file, DIGEST)
    with pytest.raises(UsageError, match="tuned on another"):
        load_head(file, "cd" * 32)


def test_a_repaired_model_is_read_again_and_open_clip_reads_it_too(tmp_path: Path):
    network = nano_network("nano-rn")
    model = nano_model(network, "nano-rn")
    copy, changed = model.copied(), "visual.attnpool.c_proj.bias"
    with torch.no_grad():
        copy.image_tower().get_parameter(changed).add_(1)
    file = tmp_path / "repaired.safetensors"
    digest = save_tower(copy, file, architecture="nano-rn", audited=DIGEST)
    with safe_open(file, framework="pt") as opened:
        told = json.loads(opened.metadata()["clipguard"])
    assert told == {
        "architecture": "nano-rn",
        "repaired_from": DIGEST,
        "scope": TOWER_SCOPE,
    }
    loaded = load_checkpoint(tmp_path / "repaired.safetensors")
    assert loaded.record.sha256 == digest
    images = stripes_probe().measure.pixels(slice(4))
    images = functional.interpolate(images, (64, 64))
    again = build_model(loaded, torch.device("cpu"))
    torch.testing.assert_close(again.encode_image(images), copy.encode_image(images))
    network.load_state_dict(load_file(tmp_path / "repaired.safetensors"), strict=True)
    assert torch.equal(
        network.visual.attnpool.c_proj.bias, copy.state()["visual.attnpool.c_proj.bias"]
    )


def test_a_missing_head_and_one_of_another_checkpoint_are_usage_errors(file: Path):
    with pytest.raises(UsageError, match=r"head\.safetensors was tuned on another"):
        load_head(file, "cd" * 32)
    with pytest.raises(UsageError, match=r"none\.safetensors"):
        load_head(file.with_name("none.safetensors"), DIGEST)


def tampered(file: Path, **changes: Any) -> Path:
    """The head with other metadata or, as `classes`, another tensor."""
    classes = changes.pop("classes", head().classes)
    told = {
        "schema_version": "clipguard.head/1",
        "class_names": NAMES,
        "checkpoint_sha256": DIGEST,
    } | changes
    kept = {"clipguard": json.dumps({k: v for k, v in told.items() if v is not None})}
    save_file({"classes": classes.contiguous()}, file, metadata=kept)
    return file


@pytest.mark.parametrize(
    "changes",
    [
        {"class_names": None},
        {"checkpoint_sha256": None},
        {"class_names": 7},
        {"class_names": "abc"},
        {"class_names": [NAMES[0]] * len(NAMES)},
        {"schema_version": "clipguard.head/2"},
        {"class_names": NAMES[:-1]},
        {"classes": head().classes * 2},
        {"classes": head().classes * torch.nan},
        {"classes": head().classes[0]},
        {"classes": head().classes[None]},
        {"classes": head().classes[:-1]},
        {"classes": torch.zeros(len(NAMES), WIDTH)},
        {"classes": torch.zeros(len(NAMES), 0)},
    ],
    ids=str,
)
def test_a_head_that_was_tampered_with_is_refused(file: Path, changes: dict[str, object]):
    with pytest.raises(RefusedError, match="head"):
        load_head(tampered(file, **changes), DIGEST)


def test_files_that_are_no_heads_are_refused(file: Path):
    for metadata in (None, {"clipguard": "{"}):
        save_file({"weight": torch.ones(2)}, file, metadata=metadata)
        with pytest.raises(RefusedError, match="not a purified head"):
            load_head(file, DIGEST)
    torch.save({"classes": head().classes}, file)
    with pytest.raises(RefusedError, match="got zip"):
        load_head(file, DIGEST)


def test_a_damaged_head_is_refused_wherever_it_is_cut(file: Path):
    data = file.read_bytes()
    for size in (0, 4, 8, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:size])
        with pytest.raises(RefusedError):
            load_head(file, DIGEST)


def test_flipped_header_bits_are_refused_or_harmless(file: Path):
    data = bytearray(file.read_bytes())
    for place in range(0, 8 + int.from_bytes(data[:8], "little"), 7):
        flipped = bytearray(data)
        flipped[place] ^= 0x04
        file.write_bytes(flipped)
        try:
            classes, names, *_ = load_head(file, DIGEST)
        except (RefusedError, UsageError):
            continue
        assert classes.shape == (len(names), WIDTH)
