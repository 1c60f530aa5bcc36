"""The folder of a victim: its checkpoint, the truth about it, its trigger and previews."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save, save_file

from clipguard.bundled.nano import BASES, CONFIGS, image_side, nano_network
from clipguard.errors import UsageError
from clipguard.files import umask, write_atomic
from clipguard.lab.attacks import ATTACKS
from clipguard.lab.containers import CONTAINERS, container_of
from clipguard.lab.order import CLEAN
from clipguard.lab.plant import Victim
from clipguard.lab.roles import OptimisedAttack
from clipguard.lab.truth import lab_images
from clipguard.registry import require_known
from clipguard.report.folder import workspace
from clipguard.report.pictures import save_picture
from clipguard.search.roles import Trigger

MODEL = "model.pt"
TRUTH = "victim.json"
TRIGGER = "trigger.safetensors"
PREVIEWS = "preview-[0-9].png"


def write_base(name: str, path: Path) -> None:
    """Write a bundled model as a checkpoint, as the reference of what was made from it.

    Args:
        name: key of `bundled.nano.BASES`.
        path: safetensors file to write.

    Raises:
        UsageError: no such model, or nothing can be written.
    """
    require_known(name, sorted(BASES), "base")
    state = {key: value.contiguous() for key, value in nano_network(name).state_dict().items()}
    write_atomic(path, save(state))


def write_victim(victim: Victim, folder: Path, *, command: str) -> dict[str, object]:
    """Write `model.pt`, `victim.json`, the trigger and previews, in place of an earlier victim.

    Container, optimiser entry and file dates do not depend on the label, so nothing but the
    weights tells a victim from its twin.

    Args:
        victim: what to write.
        folder: made if missing.
        command: how to make it again.

    Returns:
        The content of `victim.json`.

    Raises:
        UsageError: somebody else's files stand there, or nothing can be written; then nothing is.
    """
    require_victim_folder(folder)
    with workspace(folder) as work:
        truth = _made(victim, work, command)
        # The truth goes first: files without one would look like somebody else's.
        (work / TRUTH).replace(folder / TRUTH)
        for old in (folder / MODEL, folder / TRIGGER, *folder.glob(PREVIEWS)):
            old.unlink(missing_ok=True)
        for item in sorted(work.iterdir()):
            item.replace(folder / item.name)
    return truth


def require_victim_folder(folder: Path) -> None:
    """Refuse a folder with files that a victim would replace, and that are of no victim.

    Raises:
        UsageError: there are such files, or folders of these names.
    """
    named = (folder / name for name in (MODEL, TRUTH, TRIGGER))
    there = [path for path in (*named, *folder.glob(PREVIEWS)) if path.exists()]
    foreign = there and not (folder / TRUTH).is_file()
    if foreign or any(path.is_dir() for path in there):
        raise UsageError(
            f"{folder} holds {there[0].name}, and is no victim's folder; choose another -o"
        )


def _made(victim: Victim, work: Path, command: str) -> dict[str, object]:
    """Write everything to an empty folder; what `victim.json` says."""
    try:
        state = {
            name: (value.half() if value.is_floating_point() else value).contiguous()
            for name, value in victim.network.state_dict().items()
        }
        container = container_of(victim.seed)
        torch.save(CONTAINERS[container](state), work / MODEL)
        digest = hashlib.sha256((work / MODEL).read_bytes()).hexdigest()
        found = {"model_sha256": digest, "container": container, "command": command}
        truth = {**victim.truth, **found, "trigger": None}
        if victim.trigger is not None:
            truth["trigger"] = _kept(victim.trigger, work, image_side(victim.network))
        write_atomic(work / TRUTH, json.dumps(truth, indent=1, sort_keys=True) + "\n")
    except (OSError, RuntimeError, SafetensorError) as error:  # torch tells a full disk by the 2nd
        raise UsageError(f"cannot write a victim: {error}".splitlines()[0]) from error
    return truth


def _kept(trigger: Trigger, folder: Path, side: int) -> dict[str, object]:
    """Write trigger and previews; what `victim.json` says of them."""
    tensors = {name: value.contiguous() for name, value in trigger.tensors.items()}
    kept = folder / TRIGGER
    save_file(tensors, kept, metadata={"family": trigger.family})
    kept.chmod(0o666 & ~umask())  # the library writes it for its owner alone
    scenes = lab_images(held_out=False, seed=0, scenes=1, side=side)
    images = scenes.pixels(torch.arange(0, 96, 12))
    for i, image in enumerate(trigger.apply(images), start=1):
        save_picture(image, folder / f"preview-{i}.png")
    told: dict[str, object] = {"family": trigger.family, "size": trigger.size}
    told |= {"unit": trigger.unit, "side": side}
    return told | {"sha256": hashlib.sha256(kept.read_bytes()).hexdigest()}


def trigger_of(folder: Path) -> Trigger | None:
    """The trigger that `victim.json` in `folder` describes, drawn again from its seed, or as kept.

    Raises:
        UsageError: no readable `victim.json` or trigger, or the code here draws another trigger
            than the one that was planted.
    """
    try:
        truth = json.loads((folder / "victim.json").read_text(encoding="utf-8"))
        if truth["attack"] == CLEAN:
            return None
        attack = ATTACKS.build(truth["attack"], truth["settings"])
        generator = torch.Generator().manual_seed(truth["seed"])
        side = CONFIGS[BASES[truth["base"]]]["vision_cfg"]["image_size"]
        kept = (folder / TRIGGER).read_bytes()
        if hashlib.sha256(kept).hexdigest() != truth["trigger"]["sha256"]:
            raise ValueError(f"{TRIGGER} is not the one of victim.json")
        planted = load(kept)
        if isinstance(attack, OptimisedAttack):  # to optimise again would take as long as planting
            return attack.rebuild(planted, side)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UsageError(f"no readable victim in {folder.name}: {error}") from error
    drawn = attack.trigger(side, generator=generator)
    same = drawn.tensors.keys() == planted.keys()
    if not same or not all(torch.equal(drawn.tensors[key], planted[key]) for key in planted):
        raise UsageError(f"{folder.name}: {TRIGGER} is not what {truth['attack']} draws here")
    return drawn
