"""Statistics of weights alone, on layers whose numbers are worked by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from clipguard.bundled.nano import load_state
from clipguard.detect.weights import (
    change_concentration,
    change_length,
    changed_tensors,
    channel_energy,
    energy_concentration,
    lipschitz_outliers,
    projection_spectrum,
)


def batch_norm(name: str, gamma: list[float], variance: list[float]) -> dict[str, Tensor]:
    return {
        f"{name}.weight": torch.tensor(gamma),
        f"{name}.bias": torch.zeros(len(gamma)),
        f"{name}.running_mean": torch.zeros(len(gamma)),
        f"{name}.running_var": torch.tensor(variance),
    }


def kernels(*strengths: float) -> Tensor:
    """(C, 2, 2, 2) kernels; the one of strength s has the singular values s and s / 2."""
    kernel = torch.zeros(len(strengths), 2, 4)
    kernel[:, 0, 1] = torch.tensor(strengths)
    kernel[:, 1, 2] = torch.tensor(strengths) / 2
    return kernel.view(-1, 2, 2, 2)


# channel_energy


def test_a_channel_amplifies_by_its_kernel_times_what_its_normalisation_makes_of_it():
    state = {
        "visual.conv1.weight": kernels(3.0, 5.0),
        **batch_norm("visual.bn1", [2.0, -1.0], [4.0 - 1e-5, 0.25 - 1e-5]),
    }
    energy = channel_energy(state)["visual.conv1.weight"]
    torch.testing.assert_close(energy, torch.tensor([3.0, 10.0], dtype=torch.float64))


def test_every_convolution_takes_the_normalisation_that_comes_next():
    state = {
        "visual.conv1.weight": kernels(1.0, 1.0),
        **batch_norm("visual.bn1", [2.0, 2.0], [1.0, 1.0]),
        "visual.conv2.weight": kernels(1.0, 1.0),
        **batch_norm("visual.bn2", [3.0, 3.0], [1.0, 1.0]),
        **batch_norm("visual.bn3", [9.0, 9.0], [1.0, 1.0]),
        "visual.conv3.weight": kernels(1.0, 1.0),
    }
    found = {key: round(values[0].item(), 4) for key, values in channel_energy(state).items()}
    names = [f"visual.conv{i}.weight" for i in (1, 2, 3)]
    assert found == dict(zip(names, (2.0, 3.0, 1.0), strict=True))


def test_a_normalisation_of_other_channels_is_not_of_this_convolution():
    state = {
        "visual.conv1.weight": kernels(1.0, 1.0),
        **batch_norm("visual.bn1", [7.0, 7.0, 7.0], [1.0, 1.0, 1.0]),
    }
    assert channel_energy(state)["visual.conv1.weight"].tolist() == [1.0, 1.0]


def test_the_gain_of_a_layer_normalisation_counts_for_the_linear_layer_right_after_it():
    state = {
        "visual.ln_1.weight": torch.tensor([10.0, 1.0]),
        "visual.attn.in_proj_weight": torch.tensor([[3.0, 4.0], [0.0, 1.0]]),
        "visual.attn.out_proj.weight": torch.tensor([[3.0, 4.0], [0.0, 1.0]]),
    }
    energy = channel_energy(state)
    expected = torch.tensor([(30.0**2 + 4**2) ** 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(energy["visual.attn.in_proj_weight"], expected)
    assert energy["visual.attn.out_proj.weight"].tolist() == [5.0, 1.0]


def test_the_text_tower_has_no_channels_here():
    assert channel_energy({"transformer.c_fc.weight": torch.ones(9, 9)}) == {}


@pytest.mark.parametrize("variance", [0.0, -5.0])
def test_values_of_a_hostile_file_give_finite_energies(variance: float):
    state = {
        "visual.conv1.weight": kernels(3e38, 1.0),
        **batch_norm("visual.bn1", [3e38, 1.0], [variance, variance]),
    }
    assert channel_energy(state)["visual.conv1.weight"].isfinite().all()


@pytest.mark.parametrize(("base", "layers"), [("nano-rn", 35), ("nano-vit", 17)])
def test_the_bundled_models_have_an_energy_for_every_layer(base: str, layers: int):
    energy = channel_energy(load_state(base))
    assert len(energy) == layers
    assert all((values >= 0).all() and values.isfinite().all() for values in energy.values())


# lipschitz_outliers and energy_concentration


def test_one_loud_channel_of_many_is_found():
    energy = {"a": torch.ones(50).double(), "b": torch.ones(50).double()}
    energy["b"][17] = 2.0
    found = lipschitz_outliers(energy)
    assert {key: indices.tolist() for key, indices in found.items()} == {"a": [], "b": [17]}


def test_u_is_how_far_a_channel_must_stand_out():
    energy = {"a": torch.tensor([1.0] * 9 + [2.0])}  # mean 1.1, deviation 0.316: at 2.85
    assert lipschitz_outliers(energy, u=2.8)["a"].tolist() == [9]
    assert lipschitz_outliers(energy, u=2.9)["a"].tolist() == []


def test_equal_channels_have_no_outlier_and_few_channels_are_left_out():
    energy = {"equal": torch.full((11,), 0.1).double(), "few": torch.tensor([0.0, 0.0, 1.0])}
    assert {key: len(found) for key, found in lipschitz_outliers(energy).items()} == {"equal": 0}


def test_the_strongest_twentieth_is_held_against_the_mean_of_its_layer():
    loud = torch.ones(40)
    loud[:2] = 11.0  # the layer's mean is 1.5
    flat = torch.ones(40)
    assert energy_concentration({"a": loud, "b": flat}) == pytest.approx((11 / 1.5 + 1) / 2)


def test_layers_of_zeros_have_no_concentration():
    assert energy_concentration({"a": torch.zeros(40), "few": torch.ones(3)}) is None


# projection_spectrum


def test_the_first_direction_of_a_projection_is_its_largest_singular_value_squared():
    image, text = torch.diag(torch.tensor([3.0, 4.0])), torch.eye(4)
    found = projection_spectrum({"visual.proj": image, "text_projection": text})
    assert found == pytest.approx({"image": 16 / 25, "text": 1 / 4})


def test_a_projection_of_zeros_or_of_an_unknown_name_has_no_spectrum():
    assert projection_spectrum({"visual.proj": torch.zeros(4, 4), "other": torch.eye(4)}) == {}


# change


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
    noise = torch.randn(16, 12, generator=torch.Generator().manual_seed(1))
    assert change_concentration(moved(visual_c_fc_weight=one), tower()) == pytest.approx(1.0)
    found = change_concentration(moved(visual_c_fc_weight=noise), tower())
    assert found is not None
    squares = torch.linalg.svdvals(noise) ** 2
    assert found == pytest.approx((squares[0] / squares.sum()).item(), rel=1e-4)
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
    assert change_length(changed, tower()) == 0
    assert changed_tensors(changed, tower()) == [
        key for key in tower() if key.replace(".", "_") == name
    ]


def test_the_length_of_a_change_is_a_share_of_the_length_before():
    double = {key: 2 * weight for key, weight in tower().items()}
    assert change_length(double, tower()) == pytest.approx(1.0)
    assert change_length(tower(), tower()) == 0
    assert change_length({}, {}) is None
    assert change_length(tower(), {key: 0 * weight for key, weight in tower().items()}) is None


def test_a_huge_change_stays_within_its_range():
    huge = moved(visual_c_fc_weight=torch.full((16, 12), 3e38))
    assert change_concentration(huge, tower()) == pytest.approx(1.0)
