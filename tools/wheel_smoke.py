"""Run every command of an installed clipguard once on small input, and check what it says.

    python -m venv empty && empty/bin/pip install "$(echo dist/*.whl)[lab]"
    empty/bin/python tools/wheel_smoke.py [--quick]

The list of commands comes from the app itself, so a new command without a case fails here, and
so does a case whose command is gone. Refuses to run on a checkout or an editable install, which
would hide files that are missing from the wheel. `--quick` leaves out what takes minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip  # noqa: F401 - once, for all cases that are a copy of this process
import torch
import typer.main
from typer.core import TyperGroup

from clipguard import __version__
from clipguard.bundled.nano import load_state
from clipguard.cli.app import build_app
from clipguard.errors import ENVIRONMENT, INCONCLUSIVE, PURIFY_MISSED, USAGE
from clipguard.record import AuditRecord, CalibrationRecord, CoverageRecord, TimesRecord, ToolRecord
from clipguard.record.schema import dumps
from clipguard.resources import PACKAGE, shipped

PLAIN = "import sys; from clipguard.cli.app import main; sys.exit(main(sys.argv[1:]))"
NO_TORCH = f"import sys; sys.modules['torch'] = None; {PLAIN}"
# Searches and trainings of a few steps: what comes out means nothing, that it comes out does.
SHORT = f"""
from dataclasses import replace
from clipguard.audit import profiles
from clipguard.detect.text_tokens import TextTokens
from clipguard.lab import order, plant, recipes
from clipguard.lab.zoo import build as zoo, presets
from clipguard.probe.load import Scenes
from clipguard.purify.methods.cbpt import Cbpt
from clipguard.purify.realign import Realign
from clipguard.registry import name_of
from clipguard.search.inverters.collapse import Collapse
from clipguard.search.inverters.screen import Screen
from clipguard.search.inverters.targeted import Targeted
from clipguard.search.pair import Effort

few = Scenes(optimise=1, select=1, measure=1)
text = TextTokens(tokens=300, screened=8, length=1, choose=2, unseen=4, names=8)
for name, whole in list(profiles.PROFILES.items()):
    detector = replace(
        whole.detector,
        collapse=Collapse(steps=2, batch=4, restarts=1),
        screen=Screen(steps=1, images=1),
        targeted=Targeted(steps=20, batch=2, tolerance=99.0),  # the fewest that count as a search
        candidates=1,
    )
    repair = replace(
        whole.repair,
        realign=Realign(steps=2),
        purifier=Cbpt(steps=4),
        against={{name_of(family): (family,) for family in whole.repair.families}},
        targeted=Targeted(steps=2, batch=4),
    )
    pair = replace(
        whole.differential,
        kinds=whole.differential.kinds[1:2],
        groups=5,
        keep=1,
        screen=Effort(steps=1, images=1),
        refine=Effort(steps=2, images=2),
        controls=2,
    )
    profiles.PROFILES[name] = replace(
        whole, scenes=few, detector=detector, differential=pair, repair=repair, text=text
    )
images = plant.lab_images
plant.lab_images = lambda **given: images(**{{**given, "scenes": 1}})
quick = (replace(recipes.NANO[0], steps=1, batch=8),)
order.recipes_of = lambda base: quick
recipes.SHOWN = quick[0]
first = presets.wanted("ci")[0]
wish = replace(first.order, recipe=quick[0])
zoo.wanted = lambda preset: (first._replace(order=wish),)
{PLAIN}
"""


@dataclass(frozen=True)
class Case:
    """One call of a command.

    Attributes:
        command: the command, for example `policy validate`.
        arguments: what follows it; `{policies}` is the folder of the shipped policies. Cases
            run in order in one folder with a small `audit.json` and some models in it, so a later
            one may also read what an earlier one wrote.
        code: exit code it must end with.
        says: words its output, standard output and error together, must contain.
        writes: files that must be there, and not empty, afterwards.
        program: Python code that calls `main`.
        long: whether `--quick` leaves it out, as nothing that is in it needs it.
    """

    command: str
    arguments: tuple[str, ...]
    code: int
    says: str
    writes: tuple[str, ...] = ()
    program: str = PLAIN
    long: bool = False


MODELS = tuple(f"clean-{number}.pt" for number in range(5))
SCANNED = tuple(
    f"scan/{name}"
    for name in (
        "audit.json",
        "report.html",
        "head.safetensors",
        "repaired.safetensors",
        "purified.onnx",
    )
)
PLANTED = ("lab/model.pt", "lab/victim.json", "lab/trigger.safetensors", "twin/model.pt")
ALONE = ("--purify", "never", "--export", "none")
CASES = (
    Case("doctor", ("--json",), 0, '"ok": true'),
    Case("doctor", (), 0, "bundled files"),
    Case(
        "policy validate",
        ("{policies}/default.yaml", "{policies}/strict.yaml"),
        0,
        "valid",
        program=NO_TORCH,
    ),
    Case("policy show", ("default",), 0, "backdoor:", program=NO_TORCH),
    Case("policy init", ("mine.yaml",), 0, "wrote", ("mine.yaml",), NO_TORCH),
    Case("policy explain", ("backdoor.max_gap",), 0, "strict", program=NO_TORCH),
    Case("policy test", ("audit.json",), 0, "inconclusive", program=NO_TORCH),
    Case("config show", ("scan",), 0, "policy = default", program=NO_TORCH),
    Case("schema", (), 0, '"$defs"', program=NO_TORCH),
    Case(
        "gate",
        ("--policy", "strict", "audit.json"),
        INCONCLUSIVE,
        "Cannot tell",
        program=NO_TORCH,
    ),
    Case("init", ("--github",), 0, "wrote", (".github/workflows/clipguard.yml",), NO_TORCH),
    Case("inspect", (MODELS[0],), 0, "scan loads it", program=NO_TORCH),
    Case("report render", ("audit.json",), 0, "wrote report.html", ("report.html",), NO_TORCH),
    Case(
        "report render",
        ("-f", "sarif", "-f", "cyclonedx", "-f", "json=again.json", "audit.json"),
        0,
        "",
        ("again.json", "report.sarif", "report.cdx.json"),
        NO_TORCH,
    ),
    Case("report render", ("-f", "markdown=-", "audit.json"), 0, "Cannot tell", program=NO_TORCH),
    Case("report diff", ("audit.json", "again.json"), 0, "no difference", program=NO_TORCH),
    Case(
        "scan",
        (MODELS[0], "-o", "scan", "--purify", "always", "--purifier", "realign+cbpt"),
        INCONCLUSIVE,
        "Scope of the repair",
        SCANNED,
        SHORT,
    ),
    Case("gate", ("scan/audit.json",), INCONCLUSIVE, "Cannot tell", program=NO_TORCH),
    Case(
        "predict",
        ("scan/purified.onnx", "scan/triggers"),
        0,
        "repaired image tower",
        program=NO_TORCH,
    ),
    Case(
        "purify",
        (MODELS[0], "-o", "purified"),
        PURIFY_MISSED,
        "missed: ",
        ("purified/head.safetensors", "purified/purified.onnx", "purified/report.html"),
        SHORT,
        long=True,
    ),
    Case("export", (MODELS[0],), 0, "model.onnx", ("model.onnx",)),
    Case(
        "export",
        ("scan/repaired.safetensors", "-o", "fused.onnx", "--head", "scan/head.safetensors"),
        0,
        "fused.onnx",
        ("fused.onnx",),
    ),
    Case(
        "calibrate", (*MODELS, "-o", "band.json"), 0, "5 models, ", ("band.json",), SHORT, long=True
    ),
    Case(
        "scan",
        (
            MODELS[1],
            "-o",
            "compared",
            *ALONE,
            "--calibration",
            "band.json",
        ),
        INCONCLUSIVE,
        "known-clean models",
        ("compared/audit.json",),
        SHORT,
        long=True,
    ),
    Case(
        "scan",
        (MODELS[1], "-o", "against", *ALONE, "--reference", MODELS[0]),
        INCONCLUSIVE,
        "The reference",
        ("against/audit.json",),
        SHORT,
        long=True,
    ),
    Case("lab list", (), 0, "hard negatives:"),
    Case("lab base", ("nano-rn",), 0, "base.safetensors", ("base.safetensors",)),
    Case(
        "lab plant",
        ("badnets", "--set", "place=random", "-o", "lab", "--twin", "twin"),
        0,
        "badnets -> banana",
        PLANTED,
        SHORT,
        long=True,
    ),
    Case(
        "lab zoo build", ("zoo", "--jobs", "1"), 0, "2 models", ("zoo/zoo.json",), SHORT, long=True
    ),
    Case("lab zoo ls", ("zoo",), 0, "badnets", long=True),
    Case(
        "lab zoo show",
        ("zoo", "none"),
        USAGE,
        "no model with an id that begins with 'none'",
        long=True,
    ),
    Case("lab zoo verify", ("zoo",), 0, "2 models are those of the manifest", long=True),
    Case(
        "lab bench detect",
        ("--zoo", "zoo", "-o", "found"),
        0,
        "",
        ("found/bench.json", "found/bench.md", "found/bench.html"),
        SHORT,
        long=True,
    ),
    Case(
        "lab bench purify",
        ("--zoo", "zoo", "-o", "repaired"),
        0,
        "",
        ("repaired/bench.json", "repaired/bench.md", "repaired/bench.html"),
        SHORT,
        long=True,
    ),
    Case(
        "demo",
        (),
        ENVIRONMENT,
        "expected the poisoned model to fail and its clean twin to pass",
        ("demo-out/poisoned/report/report.html", "demo-out/clean-twin/report/report.html"),
        SHORT,
        long=True,
    ),
)


def unfinished() -> AuditRecord:
    """A record of an audit that looked at nothing."""
    return AuditRecord(
        complete=False,
        tool=ToolRecord(version=__version__),
        command="clipguard scan model.pt",
        settings={},
        environment={},
        checkpoint=None,
        probe=None,
        calibration=CalibrationRecord(kind="none", reason="a smoke test"),
        coverage=CoverageRecord(),
        times=TimesRecord(created="2026-01-01T00:00:00Z", seconds={}),
    )


def write_models(folder: Path) -> None:
    """The bundled model as checkpoints that differ a little, as `calibrate` needs them."""
    state = load_state("nano-rn")
    for number, name in enumerate(MODELS):
        changed = {**state, "logit_scale": state["logit_scale"] - 0.01 * number}
        entry = {"epoch": 1, "name": "x", "state_dict": changed, "optimizer": {}}
        torch.save(entry, folder / name)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command below `group`, as a person types it."""
    if isinstance(group, TyperGroup):
        for name, command in sorted(group.commands.items()):
            yield from commands(command, (*path, name))
    else:
        yield " ".join(path)


def complaints(case: Case, folder: Path) -> list[str]:
    """Run `case` in `folder`; what is wrong with its result."""
    policies = shipped("policies")
    arguments = [argument.format(policies=policies) for argument in case.arguments]
    run = forked if case.program == SHORT and hasattr(os, "fork") else started
    code, output = run(case.program, [*case.command.split(), *arguments], folder)
    wrong = []
    if code != case.code:
        wrong.append(f"expected exit code {case.code}, got {code}")
    if case.says not in output:
        wrong.append(f"expected {case.says!r} in its output")
    for name in case.writes:
        path = folder / name
        if not path.is_file() or path.stat().st_size == 0:
            wrong.append(f"expected the file {name}")
    return [*wrong, output] if wrong else []


def started(program: str, arguments: list[str], folder: Path) -> tuple[int, str]:
    """Exit code and output of `program` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def forked(program: str, arguments: list[str], folder: Path) -> tuple[int, str]:
    """As `started`, in a copy of this process, which has imported torch and open_clip already."""
    with tempfile.TemporaryFile() as output:
        process = os.fork()
        if not process:
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
            os.chdir(folder)
            sys.argv = ["-c", *arguments]
            code = 70
            try:
                exec(program, {"__name__": "__main__"})
            except SystemExit as ended:
                code = int(ended.code or 0)
            except BaseException:  # noqa: BLE001 - the copy must not go on as this process
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        output.seek(0)
        return code, output.read().decode("utf-8", "replace")


def main() -> int:
    if not shipped("policies").is_relative_to(PACKAGE):
        print(f"expected an installed wheel, got a checkout at {PACKAGE}; install the wheel")
        return 2
    listed = set(commands(typer.main.get_command(build_app())))
    covered = {case.command for case in CASES}
    chosen = [case for case in CASES if not (case.long and "--quick" in sys.argv)]
    failed = [f"no case for the command {name!r}" for name in sorted(listed - covered)]
    failed += [f"a case for {name!r}, which is no command" for name in sorted(covered - listed)]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, ".git").mkdir()  # `init` asks for a repository
        Path(folder, "audit.json").write_text(dumps(unfinished()), encoding="utf-8")
        write_models(Path(folder))
        for case in chosen:
            start = time.monotonic()
            wrong = complaints(case, Path(folder))
            print(
                f"{'FAIL' if wrong else 'ok':4} {time.monotonic() - start:6.1f} s  {case.command}"
            )
            failed += [f"{case.command}: {text}" for text in wrong]
    print(*failed, sep="\n")
    print(f"{len(chosen)} cases, {len(failed)} complaints")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
