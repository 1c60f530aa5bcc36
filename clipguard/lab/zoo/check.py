"""Whether a zoo is what its manifest says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipguard.checkpoint.inspection import sha256_of
from clipguard.errors import UsageError
from clipguard.lab.order import CLEAN
from clipguard.lab.victim_folder import TRIGGER
from clipguard.lab.zoo.manifest import FILE, Entry, Zoo, read_truth, read_zoo
from clipguard.lab.zoo.presets import PRESETS, side_of, wanted
from clipguard.text_safety import safe_text


def zoo_digest(entries: Sequence[Entry]) -> str:
    """Digest of which models a zoo holds, and of everything that the manifest says of them."""
    lines = sorted(json.dumps(entry.to_json(), sort_keys=True) for entry in entries)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def verify_zoo(folder: Path) -> list[str]:
    """What is wrong with a zoo: empty when every model is there and is the one of the manifest.

    Raises:
        UsageError: no readable manifest.
    """
    zoo = read_zoo(folder)
    wrong = [
        f"{entry.id}: {told}"
        for entry in zoo.entries
        if (told := "not built yet" if entry.sha256 is None else wrong_with_victim(folder, entry))
    ]
    if zoo.digest != zoo_digest(zoo.entries):
        wrong.append(f"{FILE}: its digest is not that of its entries")
    if not zoo.entries:
        wrong.append(f"{FILE}: no entries")
    return wrong + _shared(zoo)


def wrong_with_victim(folder: Path, entry: Entry) -> str:
    """Why a built model is not what the manifest says; empty if it is."""
    model = folder / entry.path / "model.pt"
    if not model.is_file():
        return "model.pt is missing"
    if sha256_of(model) != entry.sha256:
        return "model.pt is not the one of the manifest"
    try:
        truth, digest = read_truth(folder, entry.path)
    except UsageError as error:
        return str(error)
    # Manifests from before `truth_sha256` hold none.
    if entry.truth_sha256 not in (None, digest) or truth.get("model_sha256") != entry.sha256:
        return "victim.json is not the one of the manifest"
    if other := _contradicted(entry, truth):
        return f"{other} is not that of victim.json"
    if entry.kind == "poisoned":
        kept = folder / entry.path / TRIGGER
        if not kept.is_file():
            return f"{TRIGGER} is missing"
        told = truth.get("trigger")
        if not isinstance(told, dict) or sha256_of(kept) != told.get("sha256"):
            return f"{TRIGGER} is not the one of victim.json"
        if not (folder / entry.path / "preview-1.png").is_file():
            return "its previews are missing"
    return ""


def _contradicted(entry: Entry, truth: Mapping[str, Any]) -> str:
    """What the manifest and `victim.json` tell differently; empty if nothing."""
    told = {name: getattr(entry, name) for name in ("attack", "negative", "about", "settings")}
    told |= {name: getattr(entry, name) for name in ("base", "target", "seed", "planted")}
    for name, value in told.items():
        if truth.get(name) != value:
            return name
    try:
        seen = truth["rates"]["seen"]
        if entry.attack == CLEAN:
            found: list[object] = [None, None]
        else:
            found = [seen["asr"]["value"], seen["loss_against_twin"]["value"]]
    except (KeyError, TypeError):
        return "its rates"
    return "" if found == [entry.asr, entry.ca_loss] else "its rates"


def notes(folder: Path) -> list[str]:
    """What is worth knowing of a zoo and not wrong: who made it, and what nobody refers to.

    Raises:
        UsageError: no readable manifest.
    """
    zoo, told = read_zoo(folder), []
    present = {one.id for one in wanted(zoo.preset)} if zoo.preset in PRESETS else set()
    other = [entry for entry in zoo.entries if entry.twin or entry.path.endswith("/victim")]
    if gone := sum(entry.id not in present for entry in other):
        told.append(
            f"{gone} of {len(other)} orders are of other methods, settings or presets than those "
            "here; build makes them again under another id"
        )
    known = {Path(entry.path).parent.name for entry in zoo.entries}
    if stale := [item for item in (folder / "victims").glob("*") if item.name not in known]:
        told.append(f"{len(stale)} folders in victims/ are of no entry; delete them to save space")
    return told


def _shared(zoo: Zoo) -> list[str]:
    """What stands on both sides, and must not."""
    wrong = [
        f"{entry.id}: {safe_text(entry.base)} is a base of the other side"
        for entry in zoo.entries
        if side_of(entry.base) not in (None, entry.split)
    ]
    for what in ("base", "attack", "target", "seed"):
        sides = [
            {getattr(entry, what) for entry in zoo.entries if entry.split == split}
            for split in ("calibration", "test")
        ]
        both = sides[0] & sides[1] - {CLEAN, None}
        wrong += [f"{what} {safe_text(value)} stands on both sides" for value in sorted(both)]
    return wrong
