"""Make a shipped null band: scans of the honest models of a zoo's calibration side.

    clipguard lab zoo build build/zoo --preset full
    python tools/calibrate_nano.py --zoo build/zoo --base nano-rn --work build/rows

Honest models are plain clean fine-tunes, clean twins and hard negatives. Those of the test side are
never looked at. Resumable: each row is kept in the work folder. The seed of a scan is drawn from
where the model lies in the zoo, so that the band also holds the luck of the search.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from clipguard.audit.calibrate import assemble, measure_clean
from clipguard.audit.options import Options
from clipguard.detect.null_band import CleanModel, dump_null_band
from clipguard.files import write_atomic
from clipguard.lab.zoo.manifest import Entry, read_zoo
from clipguard.policy.judge import load_policy
from clipguard.resources import asset

FIRST_SEED = 1000
SEEDS = 1000


def quiet(stage: str, done: int, total: int) -> None:
    pass


def name_of(entry: Entry) -> str:
    """Where the model lies, without slashes: one victim's twin is told from another's."""
    return "-".join(Path(entry.path).parts[1:])


def seed_of(entry: Entry) -> int:
    drawn = int(hashlib.sha256(name_of(entry).encode()).hexdigest(), 16)
    return FIRST_SEED + drawn % SEEDS


def honest(zoo: Path, base: str) -> list[Entry]:
    return [
        entry
        for entry in read_zoo(zoo).built()
        if entry.split == "calibration" and entry.base == base and entry.kind != "poisoned"
    ]


def row(zoo: Path, entry: Entry, profile: str, work: Path) -> tuple[str, CleanModel]:
    kept = work / f"{profile}-{name_of(entry)}.json"
    if kept.exists():
        saved = json.loads(kept.read_text(encoding="utf-8"))
        if saved["row"]["sha256"] == entry.sha256:
            return saved["key"], CleanModel.model_validate(saved["row"])
    options = Options(policy=load_policy("default"), profile=profile, seed=seed_of(entry))
    key, found = measure_clean(zoo / entry.path / "model.pt", options, progress=quiet)
    told = f"{entry.negative or 'clean'} {name_of(entry)}"
    found = found.model_copy(update={"name": told})
    work.mkdir(parents=True, exist_ok=True)
    write_atomic(kept, json.dumps({"key": key, "row": found.model_dump()}))
    return key, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--base", default="nano-rn")
    parser.add_argument("--profile", default="standard")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", default="0/1", help="I/N: only every Nth model, from the Ith")
    args = parser.parse_args()
    first, stride = map(int, args.part.split("/"))
    rows = []
    for entry in honest(args.zoo, args.base)[first::stride]:
        key, found = row(args.zoo, entry, args.profile, args.work)
        print(key, found.name, found.statistics, flush=True)
        rows.append((key, found))
    if stride == 1:
        command = (
            f"python tools/calibrate_nano.py --zoo ZOO --base {args.base} "
            f"--profile {args.profile} (zoo {read_zoo(args.zoo).digest[:16]})"
        )
        target = asset("calibration") / f"{args.base}-{args.profile}.json"
        write_atomic(target, dump_null_band(assemble(rows, command)))
        print(f"wrote {target.name}: {len(rows)} models")


if __name__ == "__main__":
    main()
