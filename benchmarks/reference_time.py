"""How long a scan against a reference takes at real sizes, and how much memory.

    python benchmarks/reference_time.py ViT-B-32
    python benchmarks/reference_time.py ViT-B-32 --device cuda

Makes two models of an open_clip architecture with random weights, runs one level of the screen on
both, and prints passes a second and the peak of memory above what imports take. Scans of the
bundled models say how many passes each profile needs, whatever the size of the model; from both
comes the time of the search. Nothing is said about what the search finds.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

import torch

from clipguard.audit.profiles import KINDS, profile
from clipguard.checkpoint.architectures import architecture_named, network_of
from clipguard.model.open_clip import OpenClipModel, device_of
from clipguard.probe.load import bundled_probe
from clipguard.probe.sets import Subject

RESULTS = Path(__file__).parent / "results"
ROWS = ("against-test-3.json", "against-peer.json")
"""Scans of models of known truth, for their passes."""


def random_model(name: str, seed: int, device: torch.device) -> OpenClipModel:
    import open_clip

    torch.manual_seed(seed)
    architecture = architecture_named(name)
    network = network_of(architecture).eval().requires_grad_(False).to(device)
    return OpenClipModel(network, architecture, open_clip.get_tokenizer(name))


def peak_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def passes_needed() -> dict[str, float]:
    """The most passes that a scan of each profile took."""
    most: dict[str, float] = {}
    for file in (RESULTS / name for name in ROWS):
        for row in json.loads(file.read_text(encoding="utf-8")) if file.exists() else ():
            most[row["profile"]] = max(row["passes"], most.get(row["profile"], 0.0))
    return most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("arch")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    device, settings = device_of(given.device), profile("fast")
    before = peak_gib(device)
    suspect, other = (random_model(given.arch, seed, device) for seed in (0, 1))
    probe = bundled_probe(suspect.image_size, settings.scenes, seed=0)
    pair = settings.differential.pair(Subject(suspect, probe), other)
    known, begun = pair.passes.counted, time.monotonic()
    kind = KINDS["additive 16/255"]
    settings.differential.groups_led(pair, kind, seed=0, tick=lambda: None)
    rate = (pair.passes.counted - known) / (time.monotonic() - begun)
    row = {
        "architecture": given.arch,
        "image_size": suspect.image_size,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "passes_a_second": round(rate, 1),
        "gib_above_imports": round(peak_gib(device) - before, 2),
        "minutes": {name: round(most / rate / 60, 1) for name, most in passes_needed().items()},
    }
    print(json.dumps(row))
    file = RESULTS / "reference-time.json"
    rows = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    file.write_text(json.dumps([*rows, row], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
