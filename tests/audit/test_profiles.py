"""The profiles: what purification and its check have in common with the detector."""

from typing import Any

import pytest

from clipguard.audit.profiles import PROFILES
from clipguard.registry import name_of


@pytest.mark.parametrize("name", PROFILES)
def test_a_head_is_attacked_as_hard_as_the_model_was_in_every_family(name: str):
    searches: Any = PROFILES[name].detector
    repair = PROFILES[name].repair
    assert repair.targeted == searches.targeted
    assert repair.families == searches.families
    assert repair.against.keys() == set(map(name_of, searches.families))
