"""Throws changed inputs at every reader of outside bytes; they may refuse, never crash or hang.

    python tools/fuzz.py --seconds 60 [--cases N] [--seed S] [--keep FOLDER] [TARGET ...]

With `--guided`, atheris chooses the inputs by the code that they reach, if it is installed (it is
no dependency); it takes one target, and one seed folder of its own in `--keep`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import random
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SLOW = 10.0
"""Seconds after which an input counts as a hang."""
TESTS = Path(__file__).parents[1] / "tests"


@dataclass
class Tally:
    """What came of the inputs for one target."""

    cases: int = 0
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)


def mutated(draw: random.Random, seeds: list[bytes], tokens: tuple[bytes, ...]) -> bytes:
    """One of the seeds with one to four changes."""
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.randint(1, 4)):
        where = draw.randrange(len(data) + 1)
        until = min(len(data), where + draw.choice((1, 1, 2, 4, 8, 64)))
        match draw.randrange(7):
            case 0:
                data[where:until] = bytes(draw.randrange(256) for _ in range(until - where))
            case 1:
                data[where:until] = b""
            case 2:
                data[where:where] = draw.choice(tokens)
            case 3:
                data[where:until] = draw.choice((b"\0", b"\xff", b"\x7f", b"\1")) * (until - where)
            case 4:
                other = draw.choice(seeds)
                begin = draw.randrange(len(other) + 1)
                data[where:until] = other[begin : begin + draw.choice((1, 4, 16, 64))]
            case 5:
                data[where:where] = data[where:until] * draw.choice((1, 2, 50))
            case 6 if where < len(data):
                data[where] ^= 1 << draw.randrange(8)
    return bytes(data)


def check(run: Any, data: bytes, tally: Tally, keep: Path | None, name: str) -> None:
    """Give `data` to one reader, and note what came of it."""
    from clipguard.errors import ClipguardError

    start, problem = time.monotonic(), ""
    try:
        run(data)
    except ClipguardError as error:
        if not str(error).isprintable():
            problem = "its line holds control characters"
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        problem = f"{type(error).__name__}: {error}"[:200]
    seconds = time.monotonic() - start
    tally.cases += 1
    tally.slowest = max(tally.slowest, seconds)
    if seconds > SLOW:
        problem = problem or f"took {seconds:.1f} s"
    if problem:
        digest = hashlib.sha256(data).hexdigest()[:16]
        tally.failures.append(f"{name} {digest}: {problem!r}, input {data[:64].hex()}")
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{name}-{digest}").write_bytes(data)


def fuzz(name: str, target: Any, options: argparse.Namespace, seconds: float) -> Tally:
    """Change inputs until the time or the number of cases is used up."""
    draw, tally = random.Random(f"{options.seed} {name}"), Tally()
    seeds = target.seeds()
    end = time.monotonic() + seconds
    while tally.cases < options.cases and time.monotonic() < end and len(tally.failures) < 20:
        check(target.run, mutated(draw, seeds, target.tokens), tally, options.keep, name)
    return tally


def guided(name: str, target: Any, options: argparse.Namespace) -> None:
    """Let atheris choose the inputs. Ends the process."""
    import atheris

    from clipguard.errors import ClipguardError

    corpus = options.keep / f"corpus-{name}"
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds():
        (corpus / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)

    def one(data: bytes) -> None:
        with contextlib.suppress(ClipguardError):
            target.run(data)

    flags = [f"-max_total_time={options.seconds:.0f}", f"-seed={options.seed}", "-timeout=10"]
    flags += [f"-artifact_prefix={options.keep}/", f"-runs={options.cases}", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one)
    atheris.Fuzz()


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description="fuzz every reader of outside bytes")
    parser.add_argument("targets", nargs="*", help="all, if none is given")
    parser.add_argument("--seconds", type=float, default=60, help="in all")
    parser.add_argument("--cases", type=int, default=2**31 - 1, help="per target, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for inputs that fail")
    parser.add_argument("--guided", action="store_true", help="by atheris; one target, and --keep")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    sys.path[:0] = [str(TESTS), str(TESTS / "checkpoint")]
    if options.guided:
        import atheris

        with atheris.instrument_imports(include=["clipguard"]):
            from fuzz_targets import TARGETS
        (name,) = options.targets
        guided(name, TARGETS[name], options)
    from fuzz_targets import TARGETS

    failed = total = 0
    names = options.targets or [*TARGETS]
    for name in names:
        tally = fuzz(name, TARGETS[name], options, options.seconds / len(names))
        failed, total = failed + len(tally.failures), total + tally.cases
        print(f"{name}: {tally.cases} cases, slowest {tally.slowest:.2f} s", flush=True)
        for failure in tally.failures:
            print(f"  {failure}", flush=True)
    print(f"seed {options.seed}: {total} cases, {failed} failures")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
