"""What a long class list costs a scan, and whether it hides a target.

    python benchmarks/scan_classes.py VICTIM... --classes 100 1000
    python benchmarks/scan_classes.py VICTIM... --classes 10 100 1000 --reference BASE

VICTIM is a folder with `model.pt` and `victim.json`. The first class is its target, then come the
bundled ones, the artwork's further names, and whole words of CLIP's vocabulary in alphabetical
order. Prints a row a scan and writes `benchmarks/results/scan-classes.json`, or
`scan-classes-reference.json`. There is no null band for such a list, so what is compared is the
ranking and the statistic. With `--reference` the passes are those of both models. CPU time is that
of all threads, which other work on the machine changes less than the time on the clock.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import open_clip

from clipguard.audit.coverage import begun_record
from clipguard.audit.options import Options
from clipguard.audit.pipeline import load, measure
from clipguard.audit.profiles import profile
from clipguard.audit.watch import Watch
from clipguard.bundled.artwork import load_artwork
from clipguard.bundled.nano import class_names
from clipguard.files import write_atomic
from clipguard.lab.bench.job import Tower
from clipguard.policy.judge import load_policy
from clipguard.probe.load import ProbeSource

RESULTS = Path(__file__).parent / "results"
LETTERS = 5


def quiet(stage: str, done: int, total: int) -> None:
    pass


def names(count: int, target: str) -> list[str]:
    others = sorted(first for first, *_ in load_artwork().names)
    known = list(dict.fromkeys((target, *class_names(), *others)))
    words = sorted(
        token.removesuffix("</w>")
        for token in open_clip.SimpleTokenizer().encoder
        if token.endswith("</w>")
        and token.isascii()
        and token.removesuffix("</w>").isalpha()
        and len(token) >= LETTERS + len("</w>")
    )
    return list(dict.fromkeys((*known, *words)))[:count]


def scan(victim: Path, count: int, seed: int, reference: Path | None) -> dict[str, object]:
    truth = json.loads((victim / "victim.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "classes.txt"
        listed.write_text("\n".join(names(count, truth["target"])) + "\n", encoding="utf-8")
        options = Options(
            policy=load_policy("default"),
            seed=seed,
            probe=ProbeSource(class_names=listed),
            reference=reference,
        )
        settings, watch = profile(options.profile), Watch(None, quiet)
        tower, begun = Tower(), time.process_time()
        suspect = load(victim / "model.pt", options, settings, watch)
        with tower.watching(suspect.subject.model), watch.stage("detect"):
            record = begun_record(victim, options, watch.created)
            *_, (record, _) = measure(record, suspect, options, settings, watch)
    (found,) = record.detectors
    first = found.candidates[0]
    return {
        "attack": truth["attack"],
        "base": truth["base"],
        "target": truth["target"],
        "classes": len(suspect.subject.probe.class_names),
        "ranked_first": first.target,
        "asr": round(first.asr.value, 4),
        "statistic": round(found.statistic or first.statistic, 3),
        "passes": found.passes,
        "images": tower.forward,
        "gradients": tower.backward,
        "cpu_seconds": round(time.process_time() - begun, 1),
        "seconds": {stage: round(took, 1) for stage, took in watch.seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("victims", nargs="+", type=Path)
    parser.add_argument("--classes", nargs="+", type=int, default=[100, 1000])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reference", type=Path)
    args = parser.parse_args()
    rows = []
    for victim in args.victims:
        for count in args.classes:
            rows.append(scan(victim, count, args.seed, args.reference))
            print(json.dumps(rows[-1]), flush=True)
    file = "scan-classes-reference.json" if args.reference else "scan-classes.json"
    write_atomic(RESULTS / file, json.dumps({"seed": args.seed, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
