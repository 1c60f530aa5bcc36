"""Whether the search against a reference finds what a canary plants, on bundled models.

    python benchmarks/canary.py nano-rn nano-vit

Plants a patch into a copy of each model, searches the copy against the model itself with the
profile `standard`, and prints what a scan with `--canary` would record.
"""

from __future__ import annotations

import argparse
import time

from clipguard.audit.profiles import profile
from clipguard.bundled.nano import BASES, nano_network
from clipguard.model.nano import nano_model
from clipguard.probe.load import bundled_probe
from clipguard.probe.sets import Subject


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bases", nargs="+", choices=sorted(BASES))
    parser.add_argument("--seed", type=int, default=3)
    given = parser.parse_args()
    settings = profile("standard")
    for base in given.bases:
        begun, network = time.monotonic(), nano_network(base).eval().requires_grad_(False)
        model = nano_model(network, base)
        subject = Subject(model, bundled_probe(model.image_size, settings.scenes, seed=given.seed))
        found = settings.canary.sing(
            subject, model, settings.differential, seed=given.seed, progress=lambda *_: None
        )
        print(base, found.model_dump_json(), f"{time.monotonic() - begun:.0f} s", flush=True)


if __name__ == "__main__":
    main()
