"""What a record says about weights: the numbers, and the change from a reference."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from clipguard.bundled.nano import load_state
from clipguard.checkpoint.load import load_checkpoint
from clipguard.detect.weights_record import LAB, read_weights
from clipguard.errors import RefusedError, UsageError
from clipguard.record import ReferenceRecord

pytest_plugins = ["nano_models"]

TOWER_WEIGHT = "visual.layer1.0.conv2.weight"


def save(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path)
    return path


def compared(folder: Path, base: Path, **changes: Tensor | float) -> ReferenceRecord:
    """A model with changes added to tensors, held against `base`."""
    state = load_state("nano-rn")
    for key, change in changes.items():
        state[key] = state[key] + change
    checkpoint = load_checkpoint(save(folder / "changed.pt", state))
    found = read_weights(checkpoint, base).reference
    assert found is not None
    return found


def test_a_checkpoint_by_itself_has_named_numbers_and_no_reference(nano: Path):
    weights = read_weights(load_checkpoint(nano))
    assert weights.reference is None
    named = {reading.name: reading for reading in weights.readings}
    assert set(named) == {
        "channel_outliers",
        "energy_concentration",
        "image_projection",
        "text_projection",
    }
    assert 0 < named["channel_outliers"].value < 0.1
    assert named["energy_concentration"].value > 1
    assert "of 5,664 channels" in named["channel_outliers"].says


def test_the_order_of_the_tensors_in_the_file_does_not_matter(nano: Path, tmp_path: Path):
    state = load_state("nano-rn")
    save_file({key: state[key].contiguous() for key in sorted(state)}, tmp_path / "a.safetensors")
    sorted_file = load_checkpoint(tmp_path / "a.safetensors")
    assert [*sorted_file.state] == [*load_checkpoint(nano).state]
    assert read_weights(sorted_file) == read_weights(load_checkpoint(nano))


def test_a_change_is_counted_and_its_share_stands_beside_the_lab(nano: Path, tmp_path: Path):
    kernel = torch.zeros_like(load_state("nano-rn")[TOWER_WEIGHT])
    kernel[0, 0, 0, 0] = kernel[1, 1, 0, 0] = 1.0
    found = compared(tmp_path, nano, **{TOWER_WEIGHT: kernel, "logit_scale": 0.1})
    assert found.name == nano.name
    assert found.architecture == "nano-rn"
    assert (found.changed, found.image_changed) == (2, 1)
    assert found.concentration == pytest.approx(0.5, rel=1e-3)
    assert found.length is not None
    assert found.length > 0
    assert found.lab == LAB
    assert found.says.startswith("50.0 % of the square")


def test_the_same_weights_leave_nothing_to_read(nano: Path, tmp_path: Path):
    found = compared(tmp_path, nano)
    assert (found.changed, found.concentration, found.lab) == (0, None, ())
    assert found.says == (
        f"all {found.tensors} tensors are those of the reference, so there is no change to read"
    )


def test_an_image_tower_left_alone_is_named(nano: Path, tmp_path: Path):
    found = compared(tmp_path, nano, text_projection=0.1)
    assert (found.changed, found.image_changed, found.concentration) == (1, 0, None)
    assert "the image tower is that of the reference, value by value; 1 of " in found.says


def test_a_change_of_vectors_alone_is_too_little_to_read(nano: Path, tmp_path: Path):
    found = compared(tmp_path, nano, **{"visual.bn1.bias": 0.1})
    assert (found.image_changed, found.concentration) == (1, None)
    assert "too little to read" in found.says


def test_a_reference_of_another_architecture_is_a_usage_error(nano: Path, tmp_path: Path):
    other = save(tmp_path / "other.pt", load_state("nano-vit"))
    told = "reference: expected a nano-rn like the checkpoint, got other.pt, a nano-vit; give"
    with pytest.raises(UsageError, match=told):
        read_weights(load_checkpoint(nano), other)


def test_a_reference_of_other_shapes_is_a_usage_error(tmp_path: Path):
    nano = load_checkpoint(save(tmp_path / "nano.pt", load_state("nano-rn")))
    # A config from outside may bear any name, also that of the checkpoint under audit.
    longer = replace(nano, state={**nano.state, "text_projection": torch.zeros(3, 3)})
    with pytest.raises(UsageError, match=r"tensor text_projection has shape \(128, 256\), the"):
        read_weights(longer, tmp_path / "nano.pt")


@pytest.mark.parametrize("text", ["text", ""])
def test_a_reference_is_opened_like_any_hostile_checkpoint(nano: Path, tmp_path: Path, text: str):
    (tmp_path / "base.pt").write_text(text)
    with pytest.raises(RefusedError, match=r"^reference: base\.pt: CG102 "):
        read_weights(load_checkpoint(nano), tmp_path / "base.pt")
