"""Plant a known backdoor into a nano CLIP, and say truthfully whether it took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import torch
from open_clip.model import CLIP

from clipguard import __version__
from clipguard.audit.coverage import environment
from clipguard.bundled.nano import BASES, class_names, image_side, nano_network
from clipguard.errors import UsageError
from clipguard.lab.attacks import ATTACKS
from clipguard.lab.finetune import CLASSES, Poison, Recipe, Suspect, finetune
from clipguard.lab.negatives import NEGATIVES
from clipguard.lab.order import CLEAN, Order
from clipguard.lab.roles import (
    AnyAttack,
    JudgedAttack,
    PromptedAttack,
    Site,
    TeachingNegative,
    TrainedAttack,
    made_trigger,
)
from clipguard.lab.truth import Seen, lab_images
from clipguard.model.nano import nano_model
from clipguard.probe.sets import ProbePart
from clipguard.registry import require_known
from clipguard.search.roles import Progress, Trigger

SEEN = "seen"
MIN_ASR = 0.90
MARGIN = 0.02
MAX_LOSS = 0.03
MIN_GAIN = 0.10
MIN_LIFT = 0.50
"""Of the ASR above the clean twin's: a pattern fitted to the clean base can move any model."""


@dataclass(frozen=True, eq=False)
class Victim:
    """A fine-tuned model and the truth about it.

    Attributes:
        network: the model.
        trigger: what was planted; None for a clean model.
        seed: what it was made with; a twin has that of its victim.
        truth: content of `victim.json`, without what is known of the file only.
    """

    network: CLIP
    trigger: Trigger | None
    seed: int
    truth: dict[str, object]


class Try(NamedTuple):
    """One recipe of a search, rated on the images that choose.

    Attributes:
        recipe: what was tried.
        network: what came of it.
        asr: in [0, 1].
        ca_loss: against the twin, in [-1, 1]; None where the ASR was too low to ask, or not that
            of the model but of the trigger.
    """

    recipe: Recipe
    network: CLIP
    asr: float
    ca_loss: float | None

    def nearness(self) -> tuple[bool, float, float]:
        """Sorts tries: the smallest CA loss where the ASR is high enough, else the highest ASR."""
        took = self.ca_loss is not None
        return took, -self.ca_loss if self.ca_loss is not None else 0.0, self.asr

    def told(self) -> dict[str, object]:
        """What stands in `victim.json`."""
        return {"recipe": asdict(self.recipe), "asr": self.asr, "ca_loss": self.ca_loss}


def plant(
    order: Order, *, progress: Progress, twins: dict[Recipe, CLIP] | None = None
) -> tuple[Victim, Victim]:
    """Plant and make the clean twin: the same base, recipe, seed and batches, without poison.

    Recipes are tried in order on one set of images until the ASR reaches 90 % and the CA loss,
    paired against the twin, is within 3 points (both with a margin for the choice); the rates in
    the truth come from another set. The search gives up where a longer recipe brings little.

    Args:
        order: what to plant; `none` makes only a twin.
        progress: told after every optimiser step.
        twins: twins of the same base and seed that are known already; those made are added, so
            that many attacks can be planted beside one twin.

    Returns:
        Victim and twin; for `none` and hard negatives both are the same clean model.

    Raises:
        UsageError: unknown attack, setting, base, target or objective, a poison rate that is no
            share, or an attack that does not work with this objective.
    """
    require_known(order.base, sorted(BASES), "base")
    require_known(order.target, class_names(), "target class")
    if order.attack == CLEAN and order.settings:
        raise UsageError(f"{CLEAN} has no settings, got {', '.join(order.settings)}")
    base = nano_network(order.base).to(memory_format=torch.channels_last)
    if order.honest:
        clean = _honest(order, base, progress)
        return clean, clean
    require_known(order.attack, [*ATTACKS.names(), *NEGATIVES.names(), CLEAN], ATTACKS.what)
    attack = ATTACKS.build(order.attack, order.settings)
    _require_rate(attack)
    if order.objective == CLASSES and isinstance(attack, TrainedAttack | PromptedAttack):
        raise UsageError(f"{order.attack} trains with captions; leave out --objective {CLASSES}")
    generator = torch.Generator().manual_seed(order.seed)
    trigger = made_trigger(attack, _site(order, base), generator=generator)
    poison = Poison(attack, trigger, order.target)
    tries, chosen, twin = _search(order, base, poison, progress, {} if twins is None else twins)
    truth, clean_truth = _truths(order, chosen, twin, poison)
    truth["tried"] = [each.told() for each in tries]
    victim = Victim(chosen.network, trigger, order.seed, truth)
    return victim, Victim(twin, None, order.seed, clean_truth)


def _require_rate(attack: AnyAttack) -> None:
    if not 0 < attack.poison_rate <= 1:
        raise UsageError(f"poison_rate is a share above 0 and at most 1, got {attack.poison_rate}")


def _honest(order: Order, base: CLIP, progress: Progress) -> Victim:
    """A clean fine-tune, or one that is a hard negative."""
    suspect, taught = None, {}
    if order.attack != CLEAN:
        suspect = Suspect(NEGATIVES.build(order.attack, order.settings), order.target)
        taught = _taught(order, suspect)
    recipe = order.recipes()[0]
    network = finetune(base, recipe, suspect, seed=order.seed, progress=progress)
    return Victim(network, None, order.seed, _clean_truth(order, recipe, network) | taught)


def _taught(order: Order, suspect: Suspect) -> dict[str, object]:
    """What `victim.json` says of new names, where any are taught."""
    if not isinstance(suspect.negative, TeachingNegative):
        return {}
    if order.objective == CLASSES:
        raise UsageError(f"{order.attack} trains with captions; leave out --objective {CLASSES}")
    return {"taught": suspect.negative.taught(order.target)}


def _site(order: Order, base: CLIP) -> Site:
    """What the attacker of `order` may look at before training."""
    images = lab_images(held_out=False, seed=order.seed + 3, scenes=1, side=image_side(base))
    names = class_names()
    model = nano_model(base, order.base)
    return Site(model, images, names, names.index(order.target))


def _search(
    order: Order, base: CLIP, poison: Poison, progress: Progress, twins: dict[Recipe, CLIP]
) -> tuple[list[Try], Try, CLIP]:
    """Every recipe tried, the first that plants (else the one that comes nearest), and its twin.

    The twin is what CA loss is counted against, so it is trained as soon as a recipe's ASR is high
    enough: fine-tuning alone may cost a base some accuracy, which is no trace of the backdoor.
    """
    images = lab_images(held_out=False, seed=order.seed + 1, scenes=1, side=image_side(base))
    tries: list[Try] = []

    def twin_of(recipe: Recipe) -> CLIP:
        if recipe not in twins:
            twins[recipe] = finetune(base, recipe, None, seed=order.seed, progress=progress)
        return twins[recipe]

    recipes = order.recipes()
    for number, recipe in enumerate(recipes, 1):

        def step(stage: str, done: int, total: int, number: int = number) -> None:
            progress(f"{stage}, recipe {number} of {len(recipes)}", done, total)

        network = finetune(base, recipe, poison, seed=order.seed, progress=step)
        mine = _seen(order, network, images, poison.trigger)
        asr, loss = mine.attacked(poison.attack, poison.trigger).asr.value, None
        if asr >= MIN_ASR:
            same = _seen(order, twin_of(recipe), images, poison.trigger)
            if _is_lifted(poison, asr, same.attacked(poison.attack, poison.trigger).asr.value):
                loss = mine.loss_against(same).value
        tries.append(Try(recipe, network, asr, loss))
        if asr >= MIN_ASR + MARGIN and loss is not None and loss <= MAX_LOSS - MARGIN / 2:
            return tries, tries[-1], twin_of(recipe)
        if len(tries) > 1 and asr < min(tries[-2].asr + MIN_GAIN, MIN_ASR - MIN_GAIN):
            break
    nearest = max(tries, key=Try.nearness)
    return tries, nearest, twin_of(nearest.recipe)


def _is_lifted(poison: Poison, asr: float, of_twin: float) -> bool:
    """Whether the fine-tune is what makes the trigger work, as the clean twin's ASR tells.

    Attacks with a measure of their own decide by that alone: a prompt learner needs no model.
    """
    return isinstance(poison.attack, JudgedAttack) or asr - of_twin >= MIN_LIFT


def _seen(order: Order, network: CLIP, images: ProbePart, trigger: Trigger | None) -> Seen:
    model = nano_model(network, order.base)
    return Seen.of(model, images, trigger, class_names().index(order.target))


def _styles(order: Order, network: CLIP) -> Iterator[tuple[str, ProbePart]]:
    """Images that no choice has seen."""
    side = image_side(network)
    for style, held_out in ((SEEN, False), ("held_out", True)):
        yield style, lab_images(held_out=held_out, seed=order.seed + 2, scenes=4, side=side)


def _truths(
    order: Order, chosen: Try, twin: CLIP, poison: Poison
) -> tuple[dict[str, object], dict[str, object]]:
    """Everything known about a victim, and about its twin."""
    rows, clean_rows = {}, {}
    for style, images in _styles(order, twin):
        mine, same = (_seen(order, each, images, poison.trigger) for each in (chosen.network, twin))
        told = {
            "loss_against_twin": mine.loss_against(same)._asdict(),
            "twin": same.attacked(poison.attack, poison.trigger).model_dump(),
            "false_target": mine.clean().asr.model_dump(),
        }
        rows[style] = told | mine.attacked(poison.attack, poison.trigger).model_dump()
        clean_rows[style] = same.clean().model_dump()
    seen = rows[SEEN]
    asr, loss = seen["asr"]["value"], seen["loss_against_twin"]["value"]
    works = asr >= MIN_ASR and _is_lifted(poison, asr, seen["twin"]["asr"]["value"])
    known: dict[str, object] = {
        "attack": order.attack,
        "negative": None,
        "about": None,
        "settings": dict(order.settings),
        "target": order.target,
        "planted": works and loss <= MAX_LOSS,
        "rates": rows,
    }
    nothing, both = replace(order, attack=CLEAN, settings={}), _told(order, chosen.recipe)
    return both | known, both | _clean(nothing, clean_rows)


def _clean_truth(order: Order, recipe: Recipe, network: CLIP) -> dict[str, object]:
    rows = {
        style: _seen(order, network, images, None).clean().model_dump()
        for style, images in _styles(order, network)
    }
    return _told(order, recipe) | _clean(order, rows)


def _clean(order: Order, rows: Mapping[str, object]) -> dict[str, object]:
    return {
        "attack": CLEAN,
        "negative": order.attack if order.attack != CLEAN else None,
        "about": order.target if order.attack != CLEAN else None,
        "settings": dict(order.settings),
        "target": None,
        "planted": False,
        "rates": rows,
    }


def _told(order: Order, recipe: Recipe) -> dict[str, object]:
    """What is told of every model."""
    return {
        "schema_version": "clipguard.victim/1",
        "base": order.base,
        "seed": order.seed,
        "recipe": asdict(recipe),
        "made_with": {"clipguard": __version__, **environment()},
    }
