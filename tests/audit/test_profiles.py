"""The profiles: what purification and its check have in common with the detector."""

from typing import Any

import pytest
import torch
from fakes import generator

from clipguard.audit.profiles import CLOSE, PROFILES
from clipguard.registry import name_of


@pytest.mark.parametrize("name", PROFILES)
def test_a_head_is_attacked_as_hard_as_the_model_was_in_every_family(name: str):
    searches: Any = PROFILES[name].detector
    repair = PROFILES[name].repair
    assert repair.targeted == searches.targeted
    assert repair.families == searches.families
    assert repair.against.keys() == set(map(name_of, searches.families))


def test_squares_to_repair_against_cover_most_of_a_patch_wherever_it_stands():
    side, patch, corners = 64, 8, set()
    for family in CLOSE.families:
        black = torch.zeros(1, 3, side, side)
        trigger = family.trigger(family.start(side, generator=generator()), 1.0)
        rows = (trigger.apply(black)[0].sum(dim=(0, 2)) > 0).nonzero().flatten()
        corners.add((int(rows[0]), int(rows[-1])))
    for top in range(side - patch + 1):
        shared = [min(last, top + patch - 1) - max(top, first) + 1 for first, last in corners]
        assert max(shared) >= 6
