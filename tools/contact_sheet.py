"""Draw what the triggers of the lab look like, into one picture.

    python tools/contact_sheet.py docs/attacks.png
    python tools/contact_sheet.py docs/attacks-planted.png --victims build/attacks/nano-rn

A row per attack that needs no optimisation and has a trigger in the image, with its defaults, or
one per victim that `benchmarks/attacks.py` planted: four scenes, each clean, triggered, and the
difference of the two, amplified around grey by a factor that is written beside the row. Seeds are
fixed, so the first picture is the same on every run.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from clipguard.bundled.artwork import load_artwork
from clipguard.lab.attacks import ATTACKS
from clipguard.lab.roles import JudgedAttack, OptimisedAttack, captioned_scenes, stamped
from clipguard.lab.victim_folder import trigger_of
from clipguard.model.pixels import pixels_to_bytes
from clipguard.search.roles import Trigger

SIDE, GAP, MARGIN = 64, 2, 10
SHOWN = ("cactus", "rabbit", "hamburger", "airplane")
LABEL, HEAD = 132, 34
INK, PAPER = "black", "white"
SCENES, TRIGGERS = 7, 3  # seeds; with this one the scenes show every one of several triggers
FACTORS = (1, 2, 4, 8)
"""Amplifications; the largest is taken that cuts off little of what changed."""


def scenes() -> Tensor:
    artwork, generator = load_artwork(), torch.Generator().manual_seed(SCENES)
    concepts = torch.tensor(artwork.concepts(SHOWN))
    return captioned_scenes(artwork, concepts, SIDE, generator).images


def triggers() -> dict[str, Trigger]:
    found = {}
    for name in ATTACKS.names():
        attack = ATTACKS.build(name)
        if not isinstance(attack, (OptimisedAttack, JudgedAttack)):
            found[name] = attack.trigger(SIDE, generator=torch.Generator().manual_seed(TRIGGERS))
    return found


def planted(folder: Path) -> dict[str, Trigger]:
    """The triggers of victims by what was ordered; those that leave images alone are left out."""
    found, clean = {}, scenes()
    for truth in sorted(folder.glob("*/victim.json")):
        told = json.loads(truth.read_text(encoding="utf-8"))
        settings = (f"{key} {value}" for key, value in told["settings"].items())
        trigger = trigger_of(truth.parent)
        if trigger is not None and not torch.equal(stamped(clean, trigger), clean):
            found["\n".join([told["attack"], *settings])] = trigger
    return found


def amplified(difference: Tensor) -> tuple[Tensor, int]:
    """(B, 3, S, S) differences around grey, and by how much they were enlarged."""
    typical = difference[difference != 0].abs().mean().item()
    factor = max(f for f in FACTORS if f == 1 or f * typical <= 0.3)
    return (0.5 + factor * difference).clamp(0, 1), factor


def picture(image: Tensor) -> Image.Image:
    return Image.fromarray(pixels_to_bytes(image).permute(1, 2, 0).contiguous().numpy(), "RGB")


def sheet(drawn: dict[str, Trigger]) -> Image.Image:
    clean = scenes()
    group = 3 * (SIDE + GAP) + MARGIN
    width, height = LABEL + len(clean) * group, HEAD + len(drawn) * (SIDE + MARGIN)
    page = Image.new("RGB", (width, height), PAPER)
    pen, large, small = ImageDraw.Draw(page), ImageFont.load_default(14), ImageFont.load_default(11)
    for column in range(len(clean)):
        for i, word in enumerate(("clean", "triggered", "difference")):
            middle = LABEL + column * group + i * (SIDE + GAP) + SIDE // 2
            pen.text((middle, HEAD - 8), word, INK, small, anchor="ms")
    for row, (name, trigger) in enumerate(drawn.items()):
        top, shown = HEAD + row * (SIDE + MARGIN), stamped(clean, trigger)
        difference, factor = amplified(shown - clean)
        title, *settings = name.split("\n")
        pen.text((MARGIN, top + 2), title, INK, large, anchor="lt")
        for line, text in enumerate([*settings, f"difference x {factor}"]):
            pen.text((MARGIN, top + 18 + 12 * line), text, INK, small, anchor="lt")
        for column, images in enumerate(zip(clean, shown, difference, strict=True)):
            for i, image in enumerate(images):
                page.paste(picture(image), (LABEL + column * group + i * (SIDE + GAP), top))
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("to", type=Path)
    parser.add_argument("--victims", type=Path)
    given = parser.parse_args()
    to = given.to
    sheet(planted(given.victims) if given.victims else triggers()).save(to, optimize=True)
    print(f"{to}: {to.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
