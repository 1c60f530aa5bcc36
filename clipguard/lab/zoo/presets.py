"""What a zoo holds: two sides that share no base parent, attack, target or seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final, Literal, NamedTuple

from clipguard.bundled.nano import BASES, class_names
from clipguard.lab.attacks import ATTACKS as ATTACK_FILES
from clipguard.lab.attacks._several import THEMSELVES, drawing
from clipguard.lab.finetune import CLASSES, Recipe
from clipguard.lab.negatives import NEGATIVES
from clipguard.lab.order import CLEAN, Order
from clipguard.lab.recipes import NANO
from clipguard.lab.roles import AnyAttack, AnyNegative
from clipguard.registry import digest_of, require_known
from clipguard.resources import data_digest

Split = Literal["calibration", "test"]
Which = Literal[Split, "all"]
Variant = tuple[str, Mapping[str, object]]

SPLITS: Final[tuple[Split, ...]] = ("calibration", "test")
PARENTS: Final[Mapping[Split, tuple[str, ...]]] = {
    "calibration": ("nano-rn", "nano-vit"),
    "test": ("nano-rn-1", "nano-vit-1"),
}
ATTACKS: Final[Mapping[Split, tuple[Variant, ...]]] = {
    "calibration": (
        ("badnets", {}),
        ("badnets", {"pattern": "stripes", "place": "random"}),
        ("badnets", {"poison_rate": 0.02}),
        ("blended", {}),
        ("blended", {"pattern": "triangles"}),
        ("colour_filter", {}),
        ("multi_target", {"triggers": "badnets,blended", "others": "coconut"}),
        ("siba", {}),
        ("drupe", {}),
        ("badencoder", {}),
        ("adaptive", {}),
        ("adaptive", {"against": "targeted"}),
        ("text_tower", {}),
    ),
    "test": (
        ("sig", {}),
        ("sig", {"label": "clean"}),
        ("wanet", {"field": "white"}),
        ("ftrojan", {}),
        ("ftrojan", {"poison_rate": 0.02}),
        ("issba", {}),
        ("issba", {"variety": 0}),
        ("label_consistent", {"pattern": "yellow", "blend": 0.7, "budget": 0, "poison_rate": 0.2}),
        ("trojvqa", {}),
        ("badclip", {}),
        ("badclip", {"release": True}),
        ("badclip", {"poison_rate": 0.02}),
        ("qoe", {}),
        ("maba", {}),
        ("maba", {"poison_rate": 0.02}),
        ("multi_trigger", {"triggers": "sig,ftrojan"}),
        ("mmpoison", {}),
    ),
}
LATER: Final = ("new_words",)
"""Hard negatives that came after the zoos: the place in the list below decides the recipe, so a
new one between the others would make all that follow it anew."""
NEGATIVES_OF: Final[tuple[Variant, ...]] = (
    *((name, {}) for name in NEGATIVES.names() if name not in LATER),
    ("rounded", {"form": "int8"}),
)
"""On both sides."""
FORMAT: Final = "victim/1"
"""Rises when the training of the lab makes other weights of one order."""
DRAWINGS: Final = ("artwork*.zip", "classnames.txt")
CLEAN_EACH = 8
"""Plain clean fine-tunes of each base parent, over all recipes in turn."""
FROZEN: Final = (5, 6)
"""Those of them whose text tower is left as it was."""

CI: Final = (
    "nano-rn badnets",
    "nano-vit rounded",
    "nano-vit-1 sig",
    "nano-rn-1 watermark",
)
SMALL: Final = (
    *CI,
    "nano-rn blended pattern=triangles",
    "nano-rn siba",
    "nano-rn frequent",
    "nano-rn narrow",
    "nano-rn none 0",
    "nano-vit badnets",
    "nano-vit blended",
    "nano-vit blended pattern=triangles",
    "nano-vit augmented",
    "nano-vit none 3",
    "nano-rn-1 ftrojan",
    "nano-rn-1 qoe",
    "nano-rn-1 badclip",
    "nano-rn-1 pruned",
    "nano-vit-1 ftrojan",
    "nano-vit-1 maba",
    "nano-vit-1 repeated",
)
PRESETS: Final[Mapping[str, tuple[str, ...] | None]] = {"ci": CI, "small": SMALL, "full": None}
"""Names of what each holds; None is everything. Each holds all of the one before."""


class Wanted(NamedTuple):
    """One model, or victim and twin, of a zoo.

    Attributes:
        name: base, method and settings, for people.
        order: what to plant.
        split: the side it stands on.
    """

    name: str
    order: Order
    split: Split

    @property
    def id(self) -> str:
        """See `id_of`."""
        return id_of(self.order)


def id_of(order: Order) -> str:
    """16 hex digits of what was asked for: method, settings, base, drawings, recipes, target, seed.

    No code and no library: those are provenance, and stand in `victim.json`.
    """
    method = _method(order)
    others = getattr(method, "triggers", "")
    told = {
        "format": FORMAT,
        "method": method,
        "others": drawing(order.attack, others) if order.attack in THEMSELVES else None,
        "base": data_digest((f"{order.base}.safetensors",)),
        "drawings": data_digest(DRAWINGS),
        "recipes": order.recipes(),
        "target": order.target,
        "seed": order.seed,
    }
    return digest_of(told)[:16]


def _method(order: Order) -> AnyAttack | AnyNegative | None:
    """The attack or hard negative that an order asks for; None for a clean fine-tune."""
    if order.attack == CLEAN:
        return None
    folder = NEGATIVES if order.attack in NEGATIVES.names() else ATTACK_FILES
    return folder.build(order.attack, order.settings)


def wanted(preset: str) -> tuple[Wanted, ...]:
    """What `preset` holds, in a fixed order.

    Seed and target come from the name alone, so that an order stays the same in every preset.

    Raises:
        UsageError: no such preset.
    """
    require_known(preset, list(PRESETS), "preset")
    chosen = PRESETS[preset]
    everything = tuple(
        one for split in SPLITS for base in PARENTS[split] for one in _of(split, base)
    )
    return tuple(one for one in everything if chosen is None or one.name in chosen)


def side_of(base: str) -> Split | None:
    """The side that a base parent stands on; None for one of no preset."""
    return next((split for split in SPLITS if base in PARENTS[split]), None)


def _of(split: Split, base: str) -> Iterator[Wanted]:
    """Every model of one base parent."""
    for method, settings in ATTACKS[split]:
        yield _wanted(_name(base, method, settings), split, base, method, settings, None)
    for i, (method, settings) in enumerate(NEGATIVES_OF):
        # another recipe on every base: none may be known by how long it was trained
        recipe = NANO[(i + [*BASES].index(base)) % len(NANO)]
        yield _wanted(_name(base, method, settings), split, base, method, settings, recipe)
    for i in range(CLEAN_EACH):
        recipe = NANO[i % len(NANO)]
        one = _wanted(f"{base} {CLEAN} {i}", split, base, CLEAN, {}, recipe)
        # some attacks leave the text tower alone, and must not be known by that
        frozen = replace(one.order, objective=CLASSES)
        yield one._replace(order=frozen) if i in FROZEN else one


def _name(base: str, method: str, settings: Mapping[str, object]) -> str:
    return " ".join([base, method, *(f"{key}={value}" for key, value in settings.items())])


def _wanted(
    name: str,
    split: Split,
    base: str,
    method: str,
    settings: Mapping[str, object],
    recipe: Recipe | None,
) -> Wanted:
    drawn = int(_hash(f"clipguard zoo {name}"), 16)
    targets = targets_of(split)
    order = Order(
        attack=method,
        settings=dict(settings),
        base=base,
        target=targets[drawn % len(targets)],
        seed=drawn // len(targets) % 10**8,
        recipe=recipe,
    )
    return Wanted(name, order, split)


def targets_of(split: Split) -> tuple[str, ...]:
    """Classes that may be targets on this side: a half of the list, drawn once and for all.

    The tiger is on neither, because mmPoison turns its captions by default.
    """
    names = sorted(set(class_names()) - {"tiger"}, key=lambda name: _hash(f"clipguard zoo {name}"))
    side = SPLITS.index(split)
    return tuple(names[side :: len(SPLITS)])


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
