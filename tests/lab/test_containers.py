"""Every container is one that a scan reads, and says nothing about the label."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipguard.bundled.nano import nano_network
from clipguard.checkpoint.load import load_checkpoint
from clipguard.lab.containers import CONTAINERS, container_of


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_scan_finds_the_same_weights_in_every_container(name: str, tmp_path: Path):
    state = nano_network("nano-rn").state_dict()
    torch.save(CONTAINERS[name](state), tmp_path / "model.pt")
    loaded = load_checkpoint(tmp_path / "model.pt")
    assert loaded.record.architecture == "nano-rn"
    weights = {key: value for key, value in state.items() if value.is_floating_point()}
    assert all(torch.equal(loaded.state[key], value) for key, value in weights.items())


def test_the_seed_draws_the_container_and_every_one_is_drawn():
    drawn = [container_of(seed) for seed in range(40)]
    assert drawn == [container_of(seed) for seed in range(40)]
    assert set(drawn) == set(CONTAINERS)
