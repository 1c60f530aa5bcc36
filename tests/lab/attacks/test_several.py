"""What attacks that use the triggers of others refuse."""

from __future__ import annotations

import pytest

from clipguard.errors import UsageError
from clipguard.lab.attacks import ATTACKS
from clipguard.lab.attacks._several import THEMSELVES, drawing


@pytest.mark.parametrize("user", THEMSELVES)
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("badnets", "wants two or more triggers, got 'badnets'"),
        ("badnets,badnets", "two or more"),
        ("badnets,multi_trigger", "draw their trigger, got 'multi_trigger'"),
        ("badnets,multi_target", "draw their trigger, got 'multi_target'"),
        ("badnets,qoe", "draw their trigger, got 'qoe'"),
        ("badnets,siba", "draw their trigger, got 'siba'"),
        ("text_tower,badnets", "draw their trigger, got 'text_tower'"),
        ("badnets,wanett", "did you mean 'wanet'"),
    ],
)
def test_wrong_triggers_are_refused(user: str, wrong: str, told: str):
    with pytest.raises(UsageError, match=told):
        ATTACKS.build(user, {"triggers": wrong})


def test_the_refusal_names_who_asked():
    with pytest.raises(UsageError, match="multi_target wants two"):
        drawing("multi_target", "sig")
