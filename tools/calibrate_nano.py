"""Make the shipped null band: clean fine-tunes of a nano base, scanned by the pipeline itself.

    python tools/calibrate_nano.py --profile standard --work build/calibration

Resumable: every model and every row is kept in the work folder. Seeds start at 1000, which no
victim of the lab or of the benchmarks uses. Recipes cycle through those that victims get,
because a clean twin copies its victim's recipe.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from clipguard.calibrate import assemble, measure_clean
from clipguard.calibration import CleanModel, dump_calibration
from clipguard.lab.order import CLEAN, Order
from clipguard.lab.plant import plant
from clipguard.lab.recipes import NANO
from clipguard.lab.victim_folder import write
from clipguard.options import Options
from clipguard.outputs import write_atomic
from clipguard.policy import load_policy
from clipguard.resources import asset

FIRST_SEED = 1000


def quiet(stage: str, done: int, total: int) -> None:
    pass


def clean_model(base: str, i: int, work: Path) -> Path:
    folder = work / f"{base}-{i:02d}"
    if not (folder / "victim.json").exists():
        order = Order(attack=CLEAN, base=base, seed=FIRST_SEED + i, recipe=NANO[i % len(NANO)])
        write(plant(order, progress=quiet)[0], folder, command="tools/calibrate_nano.py")
    return folder / "model.pt"


def row(model: Path, profile: str, i: int) -> tuple[str, CleanModel]:
    kept = model.parent / f"{profile}.json"
    if kept.exists():
        saved = json.loads(kept.read_text(encoding="utf-8"))
        return saved["key"], CleanModel.model_validate(saved["row"])
    options = Options(policy=load_policy("default"), profile=profile, seed=FIRST_SEED + i)
    key, found = measure_clean(model, options, progress=quiet)
    found = found.model_copy(update={"name": model.parent.name})
    write_atomic(kept, json.dumps({"key": key, "row": found.model_dump()}))
    return key, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", default="nano-rn")
    parser.add_argument("--profile", default="standard")
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--part", default="0/1", help="I/N: only every Nth model, from the Ith")
    args = parser.parse_args()
    first, stride = map(int, args.part.split("/"))
    rows = []
    for i in range(first, args.models, stride):
        key, found = row(clean_model(args.base, i, args.work), args.profile, i)
        print(key, found.name, found.statistics, flush=True)
        rows.append((key, found))
    if stride == 1:
        command = (
            f"python tools/calibrate_nano.py --base {args.base} --profile {args.profile} "
            f"--models {args.models}"
        )
        target = asset("calibration") / f"{args.base}-{args.profile}.json"
        write_atomic(target, dump_calibration(assemble(rows, command)))
        print(f"wrote {target.name}: {len(rows)} models")


if __name__ == "__main__":
    main()
