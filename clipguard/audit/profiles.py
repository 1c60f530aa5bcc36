"""How hard a scan looks: two profiles, each with its own null band."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product

from clipguard.detect.canary import Canary
from clipguard.detect.differential import Differential
from clipguard.detect.four_rates import Kind
from clipguard.detect.inversion import TriggerInversion
from clipguard.detect.roles import Detector
from clipguard.detect.text_tokens import TextTokens
from clipguard.probe.load import Scenes
from clipguard.purify.repair import RepairSettings
from clipguard.registry import require_known
from clipguard.search.families.additive import Additive
from clipguard.search.families.frequency import Frequency
from clipguard.search.families.moving_patch import MovingPatch
from clipguard.search.families.patch import Patch
from clipguard.search.families.warp import Warp
from clipguard.search.inverters.collapse import Collapse
from clipguard.search.inverters.screen import Screen
from clipguard.search.inverters.targeted import Targeted
from clipguard.search.pair import Effort
from clipguard.search.roles import TriggerFamily
from clipguard.search.starts.place import GRID, Place
from clipguard.search.starts.sinusoid import Sinusoid


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Every setting that a profile fixes.

    Attributes:
        scenes: size of the bundled probe set.
        detector: the search for triggers of a model alone, read against a null band.
        differential: the search on a model and its reference.
        canary: how that search is tried.
        repair: how a purified head is made and checked.
        text: the search for token triggers.
    """

    scenes: Scenes = Scenes()
    detector: Detector
    differential: Differential
    repair: RepairSettings
    canary: Canary = Canary()
    text: TextTokens = TextTokens()


FAMILIES: tuple[TriggerFamily, ...] = (
    Patch(area=0.02),
    Additive(budget=4.0),
    Frequency(budget=12.0),
    Warp(reach=0.03),
)
"""What is searched. Each budget is one at which known-clean models yield little to any class."""

AGAINST: Mapping[str, tuple[TriggerFamily, ...]] = {
    "patch": (
        *(Patch(area=0.01),) * 4,
        *(MovingPatch(area=0.02),) * 2,
        *(MovingPatch(area=0.03),) * 2,
    ),
    "additive": (Additive(budget=8.0), Additive(budget=16.0)) * 2,
    "frequency": (Frequency(budget=20.0), Additive(budget=16.0)) * 2,
    "warp": (Warp(reach=0.03), Warp(reach=0.06)) * 2,
}

_STANDARD = TriggerInversion(
    families=FAMILIES,
    collapse=Collapse(steps=40, restarts=1, batch=16),
    screen=Screen(steps=3, images=4),
    targeted=Targeted(steps=60, batch=16),
    candidates=1,
)
_THOROUGH = TriggerInversion(
    families=FAMILIES,
    collapse=Collapse(steps=100, restarts=3),
    screen=Screen(steps=8, images=16),
    targeted=Targeted(steps=120, restarts=2),
    candidates=4,
)
KINDS: Mapping[str, Kind] = {
    "place": Kind(
        family="patch",
        families=tuple(Place(row=r, column=c) for r, c in product(range(GRID), range(GRID))),
        candidates=12,
        pace=2,
        opaque=True,
    ),
    "patch 2 %": Kind(family="patch", families=(Patch(area=0.02),), opaque=True),
    "patch 10 %": Kind(family="patch", families=(Patch(area=0.10),)),
    "additive 4/255": Kind(family="additive", families=(Additive(budget=4.0),)),
    "additive 16/255": Kind(family="additive", families=(Additive(budget=16.0),)),
    "additive 32/255": Kind(family="additive", families=(Additive(budget=32.0),)),
    "sinusoid": Kind(
        family="frequency",
        families=tuple(
            Sinusoid(periods=periods, angle=angle)
            for periods, angle in product((4.0, 9.0), (0.0, 45.0, 90.0, 135.0))
        ),
        pace=2,
    ),
    "low waves 40/255": Kind(family="frequency", families=(Frequency(budget=40.0),)),
    "warp": Kind(family="warp", families=(Warp(reach=0.06),)),
}
"""Shapes of triggers that were tried against references; `benchmarks/differential.py` has them all.
"""
SEARCHED = ("additive 16/255", "patch 10 %", "sinusoid", "place")
"""Those that are searched, the cheapest first. The others found nothing that these missed, on the
calibration side."""

_AGAINST = Differential(
    kinds=tuple(KINDS[name] for name in SEARCHED),
    first=Effort(steps=6, images=2, step_size=2),
    screen=Effort(steps=6, images=4, step_size=2),
    refine=Effort(steps=40, images=4, settle=True),
)
_AGAINST_THOROUGH = replace(
    _AGAINST,
    keep=5,
    first=Effort(steps=6, images=4, step_size=2),
    screen=Effort(steps=12, images=4, step_size=2),
    refine=Effort(steps=60, images=12, settle=True),
    select=200,
    measure=600,
)

_REPAIR = RepairSettings(against=AGAINST, families=FAMILIES, targeted=_STANDARD.targeted)

PROFILES = {
    "standard": Profile(detector=_STANDARD, differential=_AGAINST, repair=_REPAIR),
    "thorough": Profile(
        scenes=Scenes(optimise=12, select=3, measure=6),
        detector=_THOROUGH,
        differential=_AGAINST_THOROUGH,
        repair=replace(_REPAIR, targeted=_THOROUGH.targeted),
    ),
}


def profile(name: str) -> Profile:
    """The profile `name`.

    Raises:
        UsageError: unknown; the message lists what exists.
    """
    require_known(name, list(PROFILES), "profile")
    return PROFILES[name]
