"""Settings that mean nothing: every attack refuses them before anything is made."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from clipguard.errors import UsageError
from clipguard.lab.attacks import ATTACKS
from clipguard.lab.attacks._several import THEMSELVES

WRONG: list[tuple[str, Mapping[str, object], str]] = [
    ("adaptive", {"against": "patch"}, "got 'patch'"),
    ("adaptive", {"weight": -1.0}, "got -1.0, 32 and 3"),
    ("adaptive", {"watched": 1}, "got 0.5, 1 and 3"),
    ("adaptive", {"rounds": -1}, "got 0.5, 32 and -1"),
    ("badclip", {"steps": 0}, "got 0"),
    ("badencoder", {"patch": 0}, "got 0 and 8"),
    ("badencoder", {"patch": 224}, "got 224 and 8"),
    ("badencoder", {"references": 0}, "got 50 and 0"),
    ("badnets", {"pattern": "dots"}, "got 'dots'"),
    ("badnets", {"place": "middle"}, "at 'middle'"),
    ("blended", {"pattern": "kitty"}, "got 'kitty'"),
    ("blended", {"ratio": 1.0}, "got 1.0"),
    ("blended", {"ratio": 0.0}, "got 0.0"),
    ("blended", {"pattern": "cat", "redrawn": True}, "not cat"),
    ("both_models", {"ratio": 0.0}, "got 0.0 and 1.0"),
    ("both_models", {"ratio": 1.5}, "got 1.5 and 1.0"),
    ("both_models", {"weight": -1.0}, "got 0.5 and -1"),
    ("both_models", {"size": 224}, "got 224, 32 and 150"),
    ("both_models", {"size": 0}, "got 0, 32 and 150"),
    ("both_models", {"watched": 0}, "got 56, 0 and 150"),
    ("both_models", {"steps": 0}, "got 56, 32 and 0"),
    ("drupe", {"towards": "text"}, "got 'text'"),
    ("drupe", {"weight": -1.0}, "got -1"),
    ("drupe", {"patch": 0}, "got 0 and 8"),
    ("ftrojan", {"magnitude": 0.0}, "got 0"),
    ("issba", {"bits": 8}, "got 8"),
    ("issba", {"bits": 65}, "got 65"),
    ("issba", {"budget": 0.0}, "got 0.0 and 1.0"),
    ("issba", {"variety": -1.0}, "got 8.0 and -1"),
    ("issba", {"steps": 0}, "got 0 and 16"),
    ("issba", {"batch": 1}, "got 150 and 1"),
    ("label_consistent", {"pattern": "dots"}, "got 'dots'"),
    ("label_consistent", {"budget": -1.0}, "got -1.0 and 10"),
    ("label_consistent", {"blend": 1.0}, "got 1"),
    ("label_consistent", {"steps": 0}, "got 8.0 and 0"),
    ("maba", {"place": "middle"}, "got 'middle' and 200"),
    ("maba", {"steps": 0}, "and 0"),
    ("many_targets", {"count": 1}, "2 to 100, got 1"),
    ("many_targets", {"count": 101}, "2 to 100, got 101"),
    ("mmpoison", {"source": "tigre"}, "did you mean 'tiger'"),
    ("mmpoison", {"hits": 0}, "got 0"),
    ("multi_target", {"others": "key"}, "got 'key'"),
    ("multi_target", {"others": "key,key"}, "got 'key,key'"),
    ("multi_target", {"others": "key,bananna"}, "did you mean 'banana'"),
    ("prompt_learner", {"budget": 0}, "got 0, "),
    ("prompt_learner", {"budget": 256}, "got 256, "),
    ("prompt_learner", {"steps": 0}, ", 0 and "),
    ("prompt_learner", {"judged": 0}, " and 0"),
    ("qoe", {"area": 0.0}, "got 0.0 and 0.5"),
    ("qoe", {"opacity": 1.5}, "got 0.1 and 1.5"),
    ("qoe", {"quality": -1.0}, "got -1.0 and 200"),
    ("qoe", {"steps": 0}, "got 20.0 and 0"),
    ("siba", {"budget": 0.0}, "got 0.0 and 0.09"),
    ("siba", {"share": 1.5}, "got 8.0 and 1.5"),
    ("siba", {"steps": 0}, "got 0 and 48"),
    ("siba", {"batch": 0}, "got 100 and 0"),
    ("sig", {"delta": 0.0}, "got 0"),
    ("sig", {"delta": 300.0}, "got 300"),
    ("sig", {"frequency": 0.0}, " and 0"),
    ("sig", {"label": "grey"}, "got 'grey'"),
    ("text_tower", {"mark": "append"}, "got 'append'"),
    ("text_tower", {"token": " "}, "got ' ' and 'o'"),
    ("text_tower", {"letter": ""}, "got 'zzzz' and ''"),
    ("text_tower", {"weight": 0.0}, "got 0"),
    ("trojvqa", {"word": " "}, "got ' '"),
    ("trojvqa", {"word": "a{}"}, "got 'a{}'"),
    ("trojvqa", {"steps": 0}, "got 0"),
    ("wanet", {"field": "rough"}, "got 'rough'"),
    ("wanet", {"strength": 0.0}, "got 0"),
    ("wanet", {"decoys": -1.0}, "got -1"),
    *(
        (user, {"triggers": triggers}, told)
        for user in THEMSELVES
        for triggers, told in (
            ("badnets", f"{user} wants two"),
            ("badnets,badnets", f"{user} wants two"),
            ("badnets,multi_target", "got 'multi_target'"),
            ("badnets,qoe", "got 'qoe'"),
            ("text_tower,badnets", "got 'text_tower'"),
            ("badnets,wanett", "did you mean 'wanet'"),
        )
    ),
]


@pytest.mark.parametrize(("attack", "settings", "told"), WRONG)
def test_settings_that_mean_nothing_are_refused(
    attack: str, settings: Mapping[str, object], told: str
):
    with pytest.raises(UsageError, match=re.escape(told)):
        ATTACKS.build(attack, settings)
