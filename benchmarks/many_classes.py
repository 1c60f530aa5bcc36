"""What it costs to tune prompts for many classes, and what is lost by tuning some at a time.

    python benchmarks/many_classes.py VICTIM [--tower repaired.safetensors] [--json FILE]

First table: seconds of one step for 1000 classes with the text tower of a ViT-B-32 (random weights;
speed does not depend on them) in three ways: the plain loop (all classes, prompts of 77 tokens;
timed on a share of the classes and scaled), all classes with prompts cut at their last token, and
`classes` of them as `cbpt` does. Image features are cached in all three.

Second table: VICTIM, a folder of `clipguard lab plant -o VICTIM` on nano-rn, with the names of all
849 drawings as class list. Prompts alone are tuned against the true trigger, which is the most that
they can do, all classes at once and some at a time. `--tower` names a model whose tower is
repaired already, in place of the victim's own. Rated on fresh scenes of every drawing. Seed 0.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import open_clip
import torch
from purify_case import model_at
from torch import Tensor

from clipguard.bundled.artwork import Artwork, compose, load_artwork
from clipguard.checkpoint.architectures import architecture_named
from clipguard.lab.victim_folder import trigger_of
from clipguard.model.open_clip import OpenClipModel
from clipguard.model.pixels import pixels_to_bytes
from clipguard.model.prompts import imagenet_class_names
from clipguard.probe.load import TEMPLATE
from clipguard.probe.rates import embed, rates
from clipguard.probe.sets import ProbePart, ProbeSet, Subject, joined
from clipguard.purify.contexts import Contexts
from clipguard.purify.methods.cbpt import Cbpt

ARCH = "ViT-B-32"
SHARE = 20
"""Classes that the plain loop is timed on."""
LONG = "very " * 69 + "long"
"""A name that fills a prompt, so that every other one beside it is filled up."""
STEPS, MARGIN = 100, 4.0
"""Those of the prompts of `realign+cbpt` when the tables of docs/benchmarks.md were made."""
RATES = ("CA", "ASR", "PA")
SIDE = 64


def seconds(model: OpenClipModel, names: list[str], at_once: int) -> float:
    """Seconds of a forward and a backward pass of the class embeddings, the better of two."""
    contexts, draws, found = Contexts(model, names, at_once), torch.Generator(), []
    contexts.turn(0, draws)  # the first turn embeds every class
    for _ in range(2):
        begun = time.monotonic()
        torch.autograd.grad(contexts.turn(0, draws).sum(), contexts.values)
        found.append(time.monotonic() - begun)
    return min(found)


def speed() -> dict[str, float]:
    """Seconds of a step, by way."""
    torch.manual_seed(0)
    network = open_clip.create_model(ARCH).eval()
    model = OpenClipModel(network, architecture_named(ARCH), open_clip.get_tokenizer(ARCH))
    names = [*imagenet_class_names()[0], "one", "two"]
    few = [LONG, *names[: SHARE - 1]]
    return {
        "all, 77 tokens": seconds(model, few, SHARE) * len(names) / SHARE,
        "all, cut": seconds(model, names, len(names)),
        f"{Cbpt().classes} at once, cut": seconds(model, names, Cbpt().classes),
    }


def part(artwork: Artwork, styles: Tensor, draws: torch.Generator) -> ProbePart:
    """A scene of every drawing, in one style each."""
    every = torch.arange(len(artwork.names))
    images = pixels_to_bytes(compose(artwork.sprites[styles, every], side=SIDE, generator=draws))
    return ProbePart(images, every, styles * len(every) + every)


def quality(victim: Path, tower: Path | None) -> dict[str, dict[str, float]]:
    """Rates and seconds before and after, by the classes that are tuned at once."""
    artwork, draws = load_artwork(), torch.Generator().manual_seed(0)
    names = tuple(names[0] for names in artwork.names)
    order = torch.rand(len(names), len(artwork.styles), generator=draws).argsort(dim=1)
    shown = [part(artwork, order[:, column], draws) for column in (0, 1, 0, 1)]
    fresh = joined([part(artwork, order[:, column], draws) for column in (0, 1, 2)])
    probe = ProbeSet(joined(shown[:2]), joined(shown[2:]), fresh, names, (TEMPLATE,), "drawings")
    truth, trigger = json.loads((victim / "victim.json").read_text()), trigger_of(victim)
    if trigger is None:
        raise SystemExit(f"{victim.name} is clean")
    model = model_at(tower or victim / "model.pt")
    subject, target = Subject(model, probe), names.index(truth["target"])
    looked = embed(subject.model, fresh), embed(subject.model, fresh, trigger.apply)

    def rated(classes: Tensor, begun: float) -> dict[str, float]:
        found = rates(looked, classes, fresh, target, generator=torch.Generator())
        known = found.clean_accuracy, found.asr, found.poisoned_accuracy
        row = {key: one.value for key, one in zip(RATES, known, strict=True) if one is not None}
        return row | {"seconds": time.monotonic() - begun}

    rows = {"not repaired": rated(subject.classes, time.monotonic())}
    for at_once in (len(names), Cbpt().classes, Cbpt().classes // 2):
        begun, cbpt = time.monotonic(), Cbpt(steps=STEPS, margin=MARGIN, classes=at_once)
        draws = torch.Generator().manual_seed(0)
        head = cbpt.purify(subject, [trigger], target, generator=draws, progress=lambda *_: None)
        rows[f"{at_once} at once"] = rated(head.classes, begun)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("victim", type=Path)
    parser.add_argument("--tower", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = {"speed": speed(), "quality": quality(given.victim, given.tower)}
    print("| way | seconds of a step |\n|---|---|")
    for way, spent in found["speed"].items():
        print(f"| {way} | {spent:.1f} |")
    print(f"\n| classes | {' | '.join(RATES)} | seconds |\n|---|---|---|---|---|")
    for way, row in found["quality"].items():
        shares = " | ".join(f"{row[key]:.1%}" for key in RATES)
        print(f"| {way} | {shares} | {row['seconds']:.0f} |")
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
