"""How hard a scan looks: three profiles, each with limits of its own."""

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
from clipguard.errors import UsageError
from clipguard.probe.load import Scenes
from clipguard.purify.inversions import Choice, Sought
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
        alone: whether it may judge a model without a reference.
        differential: the search on a model and its reference. `thorough` has that of `standard`,
            because limits hold only for the search that they were fitted on.
        canary: how that search is tried.
        repair: how a model is repaired, and how that is checked.
        text: the search for token triggers.
    """

    scenes: Scenes = Scenes()
    detector: Detector
    differential: Differential
    repair: RepairSettings
    canary: Canary = Canary()
    text: TextTokens = TextTokens()
    alone: bool = True


FAMILIES: tuple[TriggerFamily, ...] = (
    Patch(area=0.02),
    Additive(budget=4.0),
    Frequency(budget=12.0),
    Warp(reach=0.03),
)
"""What is searched. Each budget is one at which known-clean models yield little to any class."""

SQUARES = Choice(
    families=tuple(Place(row=r, column=c) for r, c in product(range(GRID), range(GRID)))
)

_HALVES = tuple(step / 2 for step in range(2 * GRID - 1))

CLOSE = Choice(families=tuple(Place(row=r, column=c) for r, c in product(_HALVES, _HALVES)))
"""Squares at twice as many rows and columns. Wherever an 8 px patch of a 64 px image stands, one of
them covers at least 6 px of it each way; of `SQUARES` it may be 2 px."""

WAVES = Choice(
    families=tuple(
        Sinusoid(periods=periods, angle=angle)
        for periods, angle in product((4.0, 9.0), (0.0, 45.0, 90.0, 135.0))
    )
)

AGAINST: Mapping[str, tuple[Sought, ...]] = {
    "patch": (replace(CLOSE, keep=3), MovingPatch(area=0.03)),
    "additive": (Additive(budget=8.0), Additive(budget=16.0)),
    "frequency": (replace(WAVES, keep=2), Frequency(budget=20.0), Additive(budget=16.0)),
    "warp": (Warp(reach=0.03), Warp(reach=0.06)),
}

AGAIN: Mapping[str, tuple[Sought, ...]] = {
    "patch": (replace(CLOSE, most=40),),  # half of them, drawn anew for each search
    "additive": (Additive(budget=16.0),),
    "frequency": (WAVES, Frequency(budget=20.0), Additive(budget=16.0)),
    "warp": (Warp(reach=0.06),),
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
_KINDS = (
    Kind(
        name="place",
        family="patch",
        families=SQUARES.families,
        candidates=8,
        pace=2,
        opaque=True,
    ),
    Kind(name="patch 2 %", family="patch", families=(Patch(area=0.02),), opaque=True),
    Kind(name="patch 10 %", family="patch", families=(Patch(area=0.10),)),
    Kind(name="additive 4/255", family="additive", families=(Additive(budget=4.0),)),
    Kind(name="additive 16/255", family="additive", families=(Additive(budget=16.0),)),
    Kind(name="additive 32/255", family="additive", families=(Additive(budget=32.0),)),
    Kind(
        name="sinusoid",
        family="frequency",
        families=WAVES.families,
        pace=2,
    ),
    Kind(name="low waves 40/255", family="frequency", families=(Frequency(budget=40.0),)),
    Kind(name="warp", family="warp", families=(Warp(reach=0.06),)),
)
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _KINDS}
"""Shapes of triggers that were tried against references; `benchmarks/differential.py` has them all.
"""
SEARCHED = ("additive 16/255", "patch 10 %", "sinusoid", "place")
"""Those that are searched, the cheapest first. The others found nothing that these missed, on the
calibration side."""

_AGAINST = Differential(
    kinds=tuple(KINDS[name] for name in SEARCHED),
    first=Effort(steps=5, images=2, step_size=2),
    screen=Effort(steps=6, images=4, step_size=2),
    refine=Effort(steps=40, images=4, settle=True),
)

_FAST = replace(
    _AGAINST,
    kinds=(
        replace(KINDS["additive 16/255"], candidates=2),
        replace(KINDS["patch 10 %"], candidates=2),
        replace(KINDS["place"], candidates=0),  # only for the classes that moved most
    ),
    groups=10,
    keep=2,
    screen=Effort(steps=6, images=2, step_size=2),
    refine=Effort(steps=25, images=4, settle=True),
    controls=4,
    select=32,
    measure=200,
)

_REPAIR = RepairSettings(
    against=AGAINST, again=AGAIN, families=FAMILIES, targeted=_STANDARD.targeted
)

PROFILES = {
    "fast": Profile(detector=_STANDARD, differential=_FAST, repair=_REPAIR, alone=False),
    "standard": Profile(detector=_STANDARD, differential=_AGAINST, repair=_REPAIR),
    "thorough": Profile(
        scenes=Scenes(optimise=12, select=3, measure=6),
        detector=_THOROUGH,
        differential=_AGAINST,
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


def profile_alone(name: str) -> Profile:
    """The profile `name`, to judge a model by itself.

    Raises:
        UsageError: unknown, or one that only compares with a reference.
    """
    found = profile(name)
    if not found.alone:
        usable = ", ".join(key for key, each in PROFILES.items() if each.alone)
        raise UsageError(
            f"the profile {name} only compares with a reference; give another profile ({usable}), "
            "or --reference MODEL, which scan and purify take"
        )
    return found
