"""MARS: backdoor energies on layers whose numbers are worked by hand."""

from __future__ import annotations

import pytest
import torch
from fakes import scan, sealed, stripes_probe
from torch import Tensor, nn

from clipguard.bundled.nano import nano_network
from clipguard.errors import InconclusiveError
from clipguard.lab.comparators.mars import channel_energy, concentration
from clipguard.model.roles import ClipModel
from clipguard.record import DetectorRecord, Outcome


class Weights:
    """A model of which nothing but the weights may be looked at."""

    def __init__(self, tower: nn.Module) -> None:
        self.tower = tower

    def image_tower(self) -> nn.Module:
        return self.tower


def detect(tower: nn.Module, **settings: object) -> DetectorRecord:
    images = stripes_probe()
    for part in ("optimise", "select", "measure"):
        images = sealed(images, part)
    model: ClipModel = Weights(tower)  # type: ignore[assignment]
    return scan("mars", model, probe=images, **settings).record


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


def test_a_channel_amplifies_by_its_kernel_times_what_its_normalisation_makes_of_it():
    state = {
        "conv1.weight": kernels(3.0, 5.0),
        **batch_norm("bn1", [2.0, -1.0], [4.0 - 1e-5, 0.25 - 1e-5]),
    }
    energy = channel_energy(state)["conv1.weight"]
    torch.testing.assert_close(energy, torch.tensor([3.0, 10.0], dtype=torch.float64))


def test_every_convolution_takes_the_normalisation_that_comes_next():
    state = {
        "conv1.weight": kernels(1.0, 1.0),
        **batch_norm("bn1", [2.0, 2.0], [1.0, 1.0]),
        "conv2.weight": kernels(1.0, 1.0),
        **batch_norm("bn2", [3.0, 3.0], [1.0, 1.0]),
        **batch_norm("bn3", [9.0, 9.0], [1.0, 1.0]),
        "conv3.weight": kernels(1.0, 1.0),
    }
    found = {key: round(values[0].item(), 4) for key, values in channel_energy(state).items()}
    names = [f"conv{i}.weight" for i in (1, 2, 3)]
    assert found == dict(zip(names, (2.0, 3.0, 1.0), strict=True))


def test_a_normalisation_of_other_channels_is_not_of_this_convolution():
    state = {
        "conv1.weight": kernels(1.0, 1.0),
        **batch_norm("bn1", [7.0, 7.0, 7.0], [1.0, 1.0, 1.0]),
    }
    assert channel_energy(state)["conv1.weight"].tolist() == [1.0, 1.0]


def test_the_gain_of_a_layer_normalisation_counts_for_the_linear_layer_right_after_it():
    state = {
        "ln_1.weight": torch.tensor([10.0, 1.0]),
        "attn.in_proj_weight": torch.tensor([[3.0, 4.0], [0.0, 1.0]]),
        "attn.out_proj.weight": torch.tensor([[3.0, 4.0], [0.0, 1.0]]),
    }
    energy = channel_energy(state)
    expected = torch.tensor([(30.0**2 + 4**2) ** 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(energy["attn.in_proj_weight"], expected)
    assert energy["attn.out_proj.weight"].tolist() == [5.0, 1.0]


@pytest.mark.parametrize("variance", [0.0, -5.0])
def test_values_of_a_hostile_file_give_finite_energies(variance: float):
    state = {
        "conv1.weight": kernels(3e38, 1.0),
        **batch_norm("bn1", [3e38, 1.0], [variance, variance]),
    }
    assert channel_energy(state)["conv1.weight"].isfinite().all()


def test_the_strongest_twentieth_is_held_against_the_mean_of_its_layer():
    loud = torch.ones(40)
    loud[:2] = 11.0  # the layer's mean is 1.5
    flat = torch.ones(40)
    assert concentration({"a": loud, "b": flat}, 0.05) == pytest.approx((11 / 1.5 + 1) / 2)


def test_layers_of_zeros_have_no_concentration():
    assert concentration({"a": torch.zeros(40), "few": torch.ones(3)}, 0.05) is None


@pytest.mark.parametrize("base", ["nano-rn", "nano-vit"])
def test_weights_give_a_rank_and_no_verdict(base: str):
    tower = nano_network(base).visual
    before = {key: tensor.clone() for key, tensor in tower.state_dict().items()}
    record = detect(tower)
    assert (record.name, record.published) == ("mars", Outcome.INCONCLUSIVE)
    assert 1 < record.statistic < 3
    assert detect(tower, top=1.0).statistic == pytest.approx(1.0)
    assert all(torch.equal(before[key], tensor) for key, tensor in tower.state_dict().items())


def test_a_channel_that_was_made_louder_is_more_suspicious():
    tower = nano_network("nano-rn").visual
    clean = detect(tower).statistic
    with torch.no_grad():
        tower.layer1[0].conv2.weight[0] *= 10
    assert detect(tower).statistic > clean


def test_a_tower_without_layers_is_no_verdict():
    with pytest.raises(InconclusiveError, match="no layer"):
        detect(nn.Identity())
