"""How hard a scan looks: two profiles, each with its own null band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from clipguard.errors import UsageError
from clipguard.probe import Scenes


@dataclass(frozen=True, kw_only=True)
class RepairSettings:
    """How to purify and how to check it.

    Attributes:
        purifier: registered name of the purifier.
        settings: its settings.
        against: per family that works, family and settings of every fresh inversion to purify
            against. Unlike the detector's, they need not separate clean models: small patches
            spare what the image shows, moving ones cover triggers planted at random places, large
            perturbations cover more of what the true trigger does.
        families: settings of the families for the re-inversion, as in the detector, so that the
            null band applies.
        targeted: settings of the targeted inversions, as in the detector.
    """

    purifier: str = "cbpt"
    settings: Mapping[str, object] = field(default_factory=dict)
    against: Mapping[str, Sequence[tuple[str, Mapping[str, object]]]]
    families: Mapping[str, Mapping[str, object]]
    targeted: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Every setting that a profile fixes.

    Attributes:
        scenes: size of the bundled probe set.
        detector: settings of the inversion detector.
        repair: how a purified head is made and checked.
        text: settings of the detector of token triggers.
    """

    scenes: Scenes = field(default_factory=Scenes)
    detector: Mapping[str, object]
    repair: RepairSettings
    text: Mapping[str, object] = field(default_factory=dict)


FAMILIES: Mapping[str, Mapping[str, object]] = {
    "patch": {"area": 0.02},
    "additive": {"budget": 4.0},
    "frequency": {"budget": 12.0},
    "warp": {"reach": 0.03},
}
"""What is searched. Each budget is one at which known-clean models yield little to any class."""

AGAINST: Mapping[str, Sequence[tuple[str, Mapping[str, object]]]] = {
    "patch": (
        *(("patch", {"area": 0.01}),) * 4,
        *(("moving_patch", {"area": 0.02}),) * 2,
        *(("moving_patch", {"area": 0.03}),) * 2,
    ),
    "additive": (("additive", {"budget": 8.0}), ("additive", {"budget": 16.0})) * 2,
    "frequency": (("frequency", {"budget": 20.0}), ("additive", {"budget": 16.0})) * 2,
    "warp": (("warp", {"reach": 0.03}), ("warp", {"reach": 0.06})) * 2,
}

STANDARD: Mapping[str, object] = {"steps": 60, "batch": 16}
"""Targeted searches of the standard profile, on the model and on a purified head."""

PROFILES = {
    "standard": Profile(
        detector={
            "families": FAMILIES,
            "collapse": {"steps": 40, "restarts": 1, "batch": 16},
            "screen": {"steps": 3, "images": 4},
            "targeted": STANDARD,
            "candidates": 1,
        },
        repair=RepairSettings(against=AGAINST, families=FAMILIES, targeted=STANDARD),
    ),
    "thorough": Profile(
        scenes=Scenes(optimise=12, select=3, measure=6),
        detector={
            "families": FAMILIES,
            "collapse": {"steps": 100, "restarts": 3},
            "screen": {"steps": 8, "images": 16},
            "targeted": {"steps": 120, "restarts": 2},
            "candidates": 4,
        },
        repair=RepairSettings(
            against=AGAINST, families=FAMILIES, targeted={"steps": 120, "restarts": 2}
        ),
    ),
}


def profile(name: str) -> Profile:
    """The profile `name`.

    Raises:
        UsageError: unknown; the message lists what exists.
    """
    if name not in PROFILES:
        raise UsageError(f"no profile named {name!r} (known: {', '.join(PROFILES)})")
    return PROFILES[name]
