"""How weights changed from a reference: the numbers by hand, and what the record says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipguard.bundled.nano import load_state
from clipguard.checkpoint.load import load_checkpoint
from clipguard.detect.weights_change import (
    LAB,
    change_concentration,
    reference_change_length,
    reference_changed_tensors,
    weights_compared,
)
from clipguard.record import ReferenceRecord

pytest_plugins = ["nano_models"]

TOWER_WEIGHT = "visual.layer1.0.conv2.weight"


def save(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path)
    return path


def compared(folder: Path, base: Path, **changes: Tensor | float) -> ReferenceRecord:
    """A model with changes added to tensors, held against `base`."""
    state = load_state("nano-rn")
    changed = {key: value + changes.get(key, 0) for key, value in state.items()}
    loaded = load_checkpoint(save(folder / "changed.pt", changed))
    return weights_compared(loaded, load_checkpoint(base))


def test_a_change_is_counted_and_its_share_stands_beside_the_lab(nano: Path, tmp_path: Path):
    kernel = torch.zeros_like(load_state("nano-rn")[TOWER_WEIGHT])
    kernel[0, 0, 0, 0] = kernel[1, 1, 0, 0] = 1.0
    found = compared(tmp_path, nano, **{TOWER_WEIGHT: kernel, "logit_scale": 0.1})
    assert found.name == nano.name
    assert (found.changed, found.image_changed) == (2, 1)
    assert found.concentration == pytest.approx(0.5, rel=1e-3)
    assert found.length > 0
    assert (found.lab, found.says[:6]) == (LAB, "50.0 %")


@pytest.mark.parametrize(
    ("changes", "counts", "says"),
    [
        ({}, (0, 0), "all "),
        ({"text_projection": 0.1}, (1, 0), "value by value; 1 of "),
        ({"visual.bn1.bias": 0.1}, (1, 1), "too little to read"),
    ],
)
def test_where_no_matrix_of_the_image_tower_changed_there_is_no_share(
    changes: dict[str, float], counts: tuple[int, int], says: str, nano: Path, tmp_path: Path
):
    found = compared(tmp_path, nano, **changes)
    assert (found.changed, found.image_changed) == counts
    assert (found.concentration, found.lab) == (None, ())
    assert says in found.says


def test_of_a_reference_of_another_architecture_no_weights_are_compared(nano: Path, tmp_path: Path):
    other = load_checkpoint(save(tmp_path / "other.pt", load_state("nano-vit")))
    found = weights_compared(load_checkpoint(nano), other)
    assert (found.architecture, found.tensors, found.length) == ("nano-vit", 0, None)
    # A config from outside may bear any name, also that of the checkpoint under audit.
    loaded = load_checkpoint(nano)
    longer = replace(loaded, state={**loaded.state, "text_projection": torch.zeros(3, 3)})
    assert weights_compared(longer, loaded).tensors == 0


def tower(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "visual.conv1.weight": torch.randn(16, 3, 3, 3, generator=generator),
        "visual.c_fc.weight": torch.randn(16, 12, generator=generator),
        "visual.c_fc.bias": torch.zeros(16),
        "visual.small.weight": torch.zeros(7, 12),
        "text.c_fc.weight": torch.randn(16, 12, generator=generator),
    }


def moved(**changes: Tensor) -> dict[str, Tensor]:
    """The tower with changes added, by name without dots."""
    return {key: w + changes.get(key.replace(".", "_"), 0.0) for key, w in tower().items()}


def test_a_change_in_one_direction_is_all_in_it_and_noise_is_not():
    one = torch.outer(torch.ones(16), torch.arange(12.0))
    huge = torch.full((16, 12), 3e38)  # whose square is out of range
    noise = torch.randn(16, 12, generator=torch.Generator().manual_seed(1))
    squares = torch.linalg.svdvals(noise) ** 2
    for change, wanted in ((one, 1.0), (huge, 1.0), (noise, (squares[0] / squares.sum()).item())):
        found = change_concentration(moved(visual_c_fc_weight=change), tower())
        assert found == pytest.approx(wanted, rel=1e-4)
    assert found < 0.3


def test_matrices_count_alike_however_long_their_change_and_unchanged_ones_not_at_all():
    two = torch.zeros(16, 12)
    two[0, 0] = two[1, 1] = 100.0
    kernel = torch.zeros(16, 3, 3, 3)
    kernel[0, 0, 0, 0] = 1e-3
    both = moved(visual_c_fc_weight=two, visual_conv1_weight=kernel)
    assert change_concentration(both, tower()) == pytest.approx((0.5 + 1.0) / 2, rel=1e-3)


@pytest.mark.parametrize("name", ["visual_c_fc_bias", "visual_small_weight", "text_c_fc_weight"])
def test_vectors_small_matrices_and_the_text_tower_are_not_read(name: str):
    changed = moved(**{name: torch.ones(())})
    assert change_concentration(changed, tower()) is None
    assert reference_change_length(changed, tower()) == 0
    assert reference_changed_tensors(changed, tower()) == [
        key for key in tower() if key.replace(".", "_") == name
    ]


def test_the_length_of_a_change_is_a_share_of_the_length_before():
    double = {key: 2 * weight for key, weight in tower().items()}
    assert reference_change_length(double, tower()) == pytest.approx(1.0)
    assert reference_change_length(tower(), tower()) == 0
    assert reference_change_length({}, {}) is None
    assert (
        reference_change_length(tower(), {key: 0 * weight for key, weight in tower().items()})
        is None
    )
