"""Commands that a record or report proposes: one function writes them, the command line reads them.

Nothing in a command names the machine: of an absolute path only the last part is written.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from clipguard.audit.options import Options
from clipguard.policy.judge import shipped_policies

SEARCH = ("--profile", "--seed", "--arch", "--text-from", "--lora-base", "--device", "--sandbox")
PROBE = ("--probe-data", "--classnames", "--templates")
DECISION = (*SEARCH, *PROBE, "--policy", "--calibration")
AGAINST = ("--reference", "--vocabulary", "--canary")
RELEASE = ("--purify", "--purifier", "--export", "--require-ep", "--budget", "--waivers")
SCAN = (*DECISION, *AGAINST, *RELEASE)
TAKES = {"scan": SCAN, "purify": (*DECISION, "--purifier"), "calibrate": (*SEARCH, *PROBE)}
"""Options that each command takes."""
ALWAYS = ("--profile", "--seed")
SWITCHES = ("--canary",)


def command(verb: str, files: Sequence[Path], options: Options, *more: str) -> str:
    """The command line that does the same again, quoted for a shell.

    Args:
        verb: scan, purify or calibrate.
        files: the models.
        options: what it does; those that have their default are left out.
        more: words to put at the end.
    """
    words = ["clipguard", verb]
    usual = dict(_values(Options(policy=options.policy))) | {"--policy": "default"}
    for flag, value in _values(options):
        if flag in TAKES[verb] and value and (flag in ALWAYS or value != usual[flag]):
            words += _written(flag, value)
    names = [_shown(path) for path in files]
    marks = ["--"] if any(name.startswith("-") for name in names) else []
    return shlex.join([*words, *more, *marks, *names])


def _written(flag: str, value: str) -> list[str]:
    if flag in SWITCHES:
        return [flag]
    return [f"{flag}={value}"] if value.startswith("-") else [flag, value]


def how_to_compare(model: Path, options: Options) -> str:
    """The command that holds this very model against the one that it was made from."""
    against = replace(options, reference=Path("BASE"), canary=True, calibration=None)
    return command("scan", [model], against)


def how_to_calibrate(model: Path, options: Options) -> str:
    """The two commands that make a null band for this very scan, and use it."""
    made = Path("band.json")
    calibrate = command("calibrate", [Path("CLEAN_MODELS")], options, "-o", str(made))
    scan = command("scan", [model], replace(options, calibration=made))
    return f"{calibrate}, then {scan}"


def _values(options: Options) -> Iterator[tuple[str, str]]:
    """Every option and its value as text, empty where it is not given."""
    probe, budget = options.probe, options.budget_s
    yield "--policy", _policy(options.policy.source)
    yield "--profile", options.profile
    yield "--seed", "" if options.seed is None else str(options.seed)
    yield "--purify", options.purify or ""
    yield "--purifier", options.purifier
    yield "--export", options.export
    yield "--require-ep", options.provider or ""
    yield "--budget", "" if budget is None else repr(budget)
    arch = options.arch or ""
    yield "--arch", _shown(Path(arch)) if arch.endswith(".json") else arch
    yield "--device", options.device
    yield "--sandbox", options.sandbox
    yield "--canary", "yes" if options.canary else ""
    for flag, path in (
        ("--text-from", options.text_from),
        ("--lora-base", options.lora_base),
        ("--probe-data", probe.images),
        ("--classnames", probe.class_names),
        ("--templates", probe.templates),
        ("--vocabulary", probe.vocabulary),
        ("--calibration", options.calibration),
        ("--reference", options.reference),
        ("--waivers", options.waivers.source if options.waivers else None),
    ):
        yield flag, "" if path is None else _shown(path)


def _shown(path: Path) -> str:
    return path.name if path.is_absolute() or ".." in path.parts else str(path)


def _policy(source: str) -> str:
    """A shipped name, or a path that cannot be taken for one."""
    if source in shipped_policies():
        return source
    shown = _shown(Path(source))
    return shown if "/" in shown else f"./{shown}"
