"""The profiles: what purification and its check have in common with the detector."""

import pytest

from clipguard.audit.profiles import PROFILES
from clipguard.registry import name_of


@pytest.mark.parametrize("name", PROFILES)
def test_a_head_is_attacked_as_hard_as_the_model_was(name: str):
    chosen = PROFILES[name]
    assert chosen.repair.targeted == chosen.detector.targeted
    assert chosen.repair.families == chosen.detector.families


@pytest.mark.parametrize("name", PROFILES)
def test_every_family_that_is_searched_can_be_purified_and_searched_again(name: str):
    chosen = PROFILES[name]
    assert chosen.repair.against.keys() == set(map(name_of, chosen.detector.families))
