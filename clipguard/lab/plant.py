"""Plant a known backdoor into a nano CLIP, and say truthfully whether it took."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from open_clip.model import CLIP
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from clipguard.architectures import named
from clipguard.artefacts import save_picture
from clipguard.errors import UsageError
from clipguard.lab.containers import CONTAINERS, container_of
from clipguard.lab.finetune import CAPTIONS, CLASSES, Poison, Recipe, Suspect, finetune
from clipguard.lab.truth import attack_rates, lab_images, paired_loss, truth_rates
from clipguard.methods import ATTACKS, NEGATIVES, require_known
from clipguard.model import OpenClipModel
from clipguard.nano import (
    BASES,
    CONFIGS,
    class_names,
    image_side,
    nano_network,
    nano_tokenizer,
)
from clipguard.outputs import write_atomic
from clipguard.poisoning import (
    OptimisedAttack,
    PromptedAttack,
    Site,
    TrainedAttack,
    made_trigger,
)
from clipguard.record import Rates
from clipguard.report_folder import workspace
from clipguard.types import ProbePart, Progress, Trigger

CLEAN = "none"
RECIPES = (
    Recipe(steps=120, learning_rate=5e-4),
    Recipe(steps=180, learning_rate=7e-4),
    Recipe(steps=300, learning_rate=7e-4),
    Recipe(steps=400, learning_rate=1e-3),
)
MIN_ASR = 0.90
MARGIN = 0.02
MAX_LOSS = 0.03


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to plant.

    Attributes:
        attack: registered name, that of a hard negative, or `none` for a clean fine-tune.
        settings: settings of the attack.
        base: bundled model.
        target: class name; for a hard negative the class that it is about.
        seed: drives trigger, batches and evaluation.
        recipe: fixed recipe; None searches for one that plants.
        objective: what the recipes train with, `captions` or `classes`.
    """

    attack: str
    settings: Mapping[str, object] = field(default_factory=dict)
    base: str = "nano-rn"
    target: str = "banana"
    seed: int = 0
    recipe: Recipe | None = None
    objective: str = CAPTIONS

    def recipes(self) -> tuple[Recipe, ...]:
        """The recipes to try, in this order."""
        tried = (self.recipe,) if self.recipe else RECIPES
        return tuple(replace(recipe, objective=self.objective) for recipe in tried)


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


def plant(order: Order, *, progress: Progress) -> tuple[Victim, Victim]:
    """Plant and make the clean twin: the same base, recipe, seed and batches, without poison.

    Recipes are tried in order on one set of images until the ASR reaches 90 % and the CA loss,
    paired against the twin, is within 3 points (both with a margin for the choice); the rates in
    the truth come from another set.

    Args:
        order: what to plant; `none` makes only a twin.
        progress: told after every optimiser step.

    Returns:
        Victim and twin; for `none` and hard negatives both are the same clean model.

    Raises:
        UsageError: unknown attack, setting, base, target or objective, or an attack that does not
            work with this objective.
    """
    require_known(order.base, sorted(BASES), "base")
    require_known(order.target, class_names(), "target class")
    base = nano_network(order.base).to(memory_format=torch.channels_last)
    if order.attack == CLEAN or order.attack in NEGATIVES.names():
        clean = _honest(order, base, progress)
        return clean, clean
    require_known(order.attack, [*ATTACKS.names(), *NEGATIVES.names(), CLEAN], ATTACKS.what)
    attack = ATTACKS.build(order.attack, order.settings)
    if order.objective == CLASSES and isinstance(attack, TrainedAttack | PromptedAttack):
        raise UsageError(f"{order.attack} trains with captions; leave out --objective {CLASSES}")
    generator = torch.Generator().manual_seed(order.seed)
    trigger = made_trigger(attack, _site(order, base), generator=generator)
    poison = Poison(attack, trigger, order.target)
    network, twin, recipe = _search(order, base, poison, progress)
    victim = Victim(network, trigger, order.seed, _truth(order, recipe, network, twin, poison))
    clean_order = Order(attack=CLEAN, base=order.base, target=order.target, seed=order.seed)
    return victim, Victim(twin, None, order.seed, _truth(clean_order, recipe, twin, twin, None))


def command_of(order: Order) -> str:
    """The command that makes it again."""
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in order.settings.items()}
    pairs = [f"--set {shlex.quote(f'{key}={text}')}" for key, text in texts.items()]
    given = [order.attack, "--base", order.base, "--target", shlex.quote(order.target)]
    given += ["--seed", str(order.seed), *pairs]
    if order.recipe in RECIPES:
        given += ["--recipe", str(RECIPES.index(order.recipe) + 1)]
    if order.objective != CAPTIONS:
        given += ["--objective", order.objective]
    return " ".join(["clipguard lab plant", *given])


def _honest(order: Order, base: CLIP, progress: Progress) -> Victim:
    """A clean fine-tune, or one that is a hard negative."""
    suspect = None
    if order.attack != CLEAN:
        suspect = Suspect(NEGATIVES.build(order.attack, order.settings), order.target)
    recipe = order.recipes()[0]
    network = finetune(base, recipe, suspect, seed=order.seed, progress=progress)
    return Victim(network, None, order.seed, _truth(order, recipe, network, network, None))


def _site(order: Order, base: CLIP) -> Site:
    """What the attacker of `order` may look at before training."""
    images = lab_images(held_out=False, seed=order.seed + 3, scenes=1, side=image_side(base))
    names = class_names()
    return Site(_model(order.base, base), images, names, names.index(order.target))


def _search(
    order: Order, base: CLIP, poison: Poison, progress: Progress
) -> tuple[CLIP, CLIP, Recipe]:
    """Victim and twin of the first recipe that plants, else of the one with the highest ASR.

    The twin is what CA loss is counted against, so it is trained as soon as a recipe's ASR is high
    enough: fine-tuning alone may cost a base some accuracy, which is no trace of the backdoor.
    """
    chosen = lab_images(held_out=False, seed=order.seed + 1, scenes=1, side=image_side(base))
    target = class_names().index(order.target)
    best: tuple[float, CLIP, CLIP | None, Recipe] | None = None
    for recipe in order.recipes():
        network, twin = finetune(base, recipe, poison, seed=order.seed, progress=progress), None
        model = _model(order.base, network)
        asr = attack_rates(poison.attack, model, chosen, poison.trigger, target).asr.value
        if asr >= MIN_ASR + MARGIN:
            twin = finetune(base, recipe, None, seed=order.seed, progress=progress)
            loss = paired_loss(model, _model(order.base, twin), chosen).value
            if loss <= MAX_LOSS - MARGIN / 2:
                return network, twin, recipe
        if best is None or asr > best[0]:
            best = (asr, network, twin, recipe)
    if best is None:
        raise ValueError("there is no recipe to try")
    _, network, twin, recipe = best
    return network, twin or finetune(base, recipe, None, seed=order.seed, progress=progress), recipe


def _model(base: str, network: CLIP) -> OpenClipModel:
    return OpenClipModel(network, named(BASES[base]), nano_tokenizer(network))


def _truth(
    order: Order, recipe: Recipe, network: CLIP, twin: CLIP, poison: Poison | None
) -> dict[str, object]:
    """Everything known about a model, measured on images that no choice has seen."""
    target, side = class_names().index(order.target), image_side(network)
    model, clean = _model(order.base, network), _model(order.base, twin)
    rows, planted = {}, True
    for style, held_out in (("seen", False), ("held_out", True)):
        images = lab_images(held_out=held_out, seed=order.seed + 2, scenes=4, side=side)
        found, same = (_rates(each, images, poison, target) for each in (model, clean))
        loss = paired_loss(model, clean, images)
        rows[style] = {"loss_against_twin": loss._asdict()} | found.model_dump()
        if poison is not None:
            rows[style]["twin"] = same.model_dump()
            rows[style]["false_target"] = truth_rates(model, images, None, target).asr.model_dump()
        if style == "seen" and poison is not None:
            planted = found.asr.value >= MIN_ASR and loss.value <= MAX_LOSS
    return {
        "schema_version": "clipguard.victim/1",
        "base": order.base,
        "attack": order.attack if poison is not None else CLEAN,
        "negative": order.attack if poison is None and order.attack != CLEAN else None,
        "settings": dict(order.settings),
        "target": order.target if poison is not None else None,
        "seed": order.seed,
        "recipe": asdict(recipe),
        "planted": planted,
        "rates": rows,
    }


def _rates(model: OpenClipModel, images: ProbePart, poison: Poison | None, target: int) -> Rates:
    if poison is None:
        return truth_rates(model, images, None, target)
    return attack_rates(poison.attack, model, images, poison.trigger, target)


def write(victim: Victim, folder: Path, *, command: str) -> dict[str, object]:
    """Write `model.pt`, `victim.json`, the trigger and previews; whole or not at all.

    Container, optimiser entry and file dates do not depend on the label, so nothing but the
    weights tells a victim from its twin.

    Args:
        victim: what to write.
        folder: made if missing.
        command: how to make it again.

    Returns:
        The content of `victim.json`.
    """
    with workspace(folder) as work:
        names = (folder / name for name in ("model.pt", "victim.json", "trigger.safetensors"))
        for old in (*names, *folder.glob("preview-*.png")):
            old.unlink(missing_ok=True)
        state = {
            name: (value.half() if value.is_floating_point() else value).contiguous()
            for name, value in victim.network.state_dict().items()
        }
        container = container_of(victim.seed)
        torch.save(CONTAINERS[container](state), work / "model.pt")
        digest = hashlib.sha256((work / "model.pt").read_bytes()).hexdigest()
        found = {"model_sha256": digest, "container": container, "command": command}
        truth = {**victim.truth, **found}
        if victim.trigger is not None:
            _keep_trigger(victim.trigger, work, image_side(victim.network))
        write_atomic(work / "victim.json", json.dumps(truth, indent=1, sort_keys=True) + "\n")
        for item in sorted(work.rglob("*")):
            item.replace(folder / item.name)
    return truth


def _keep_trigger(trigger: Trigger, folder: Path, side: int) -> None:
    tensors = {name: value.contiguous() for name, value in trigger.tensors.items()}
    save_file(tensors, folder / "trigger.safetensors", metadata={"family": trigger.family})
    scenes = lab_images(held_out=False, seed=0, scenes=1, side=side)
    images = scenes.pixels(torch.arange(0, 96, 12))
    for i, image in enumerate(trigger.apply(images), start=1):
        save_picture(image, folder / f"preview-{i}.png")


def trigger_of(folder: Path) -> Trigger | None:
    """The trigger that `victim.json` in `folder` describes, drawn again from its seed, or as kept.

    Raises:
        UsageError: no readable `victim.json`, or no trigger file where the trigger was optimised.
    """
    try:
        truth = json.loads((folder / "victim.json").read_text(encoding="utf-8"))
        if truth["attack"] == CLEAN:
            return None
        attack = ATTACKS.build(truth["attack"], truth["settings"])
        generator = torch.Generator().manual_seed(truth["seed"])
        side = CONFIGS[BASES[truth["base"]]]["vision_cfg"]["image_size"]
        if isinstance(attack, OptimisedAttack):  # to optimise again would take as long as planting
            return attack.rebuild(load_file(folder / "trigger.safetensors"), side)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UsageError(f"no readable victim in {folder.name}: {error}") from error
    return attack.trigger(side, generator=generator)
