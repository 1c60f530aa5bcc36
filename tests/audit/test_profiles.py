"""The profiles: what purification and its check have in common with the detector."""

from typing import Any

import pytest

from clipguard.audit.profiles import PROFILES


@pytest.mark.parametrize("name", PROFILES)
def test_a_head_is_attacked_as_hard_as_the_model_was(name: str):
    chosen = PROFILES[name]
    assert chosen.repair.targeted == chosen.detector["targeted"]
    assert chosen.repair.families == chosen.detector["families"]


@pytest.mark.parametrize("name", PROFILES)
def test_every_family_that_is_searched_can_be_purified_and_searched_again(name: str):
    chosen = PROFILES[name]
    families: Any = chosen.detector["families"]
    assert chosen.repair.against.keys() == chosen.repair.families.keys() == families.keys()
