"""`clipguard policy`: write, check, explain and try policies, without torch."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from clipguard.cli.arguments import WaiverFile

Name = Annotated[str, typer.Argument(metavar="NAME", help="default, strict or research.")]


class Shipped(str, Enum):
    """What to start from."""

    default = "default"
    strict = "strict"
    research = "research"


def add_command(app: typer.Typer) -> None:
    """Add the command group."""
    group = typer.Typer(
        help="Write, check, explain and try policies.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    for command in (init, validate, show, explain):
        group.command()(command)
    group.command("test")(try_out)
    app.add_typer(group, name="policy")


def init(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where to write it; nothing may stand there.")
    ] = Path("clipguard-policy.yaml"),
    start: Annotated[
        Shipped, typer.Option("--from", help="The shipped policy to start from.")
    ] = Shipped.default,
) -> None:
    """Write a policy of your own, with a comment on every key, named after its file."""
    import re
    import shlex

    from clipguard.errors import UsageError
    from clipguard.files import write_atomic
    from clipguard.policy.judge import policy_path, read_policy_text
    from clipguard.text_safety import safe_text

    if file.exists() or file.is_symlink():
        raise UsageError(f"{file} is there already; name another file")
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", file.stem)[:60] or "mine"
    text = read_policy_text(policy_path(start.value))
    write_atomic(file, text.replace(f"\nname: {start.value}", f'\nname: "{name}"', 1))
    shown = safe_text(file, 400)
    typer.echo(
        f"wrote {shown}; next: edit it, then clipguard policy validate {shlex.quote(shown)}",
        err=True,
    )


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Policies in YAML.")],
) -> None:
    """Check policy files. The first one that is not valid ends the command with exit code 2."""
    from clipguard.cli.show import out
    from clipguard.policy.judge import load_policy
    from clipguard.text_safety import safe_text

    for file in files:
        policy = load_policy(file)
        out(f"valid: {safe_text(file, 400)} ({safe_text(policy.name)}, {policy.sha256})")


def show(name: Name) -> None:
    """Print a policy with its comments, ready to be copied and edited."""
    from clipguard.cli.show import out
    from clipguard.policy.judge import load_policy, policy_path, read_policy_text
    from clipguard.text_safety import safe_text

    load_policy(name)
    text = read_policy_text(policy_path(name)).splitlines()
    out("\n".join(safe_text(line, 400) for line in text))


def explain(
    key: Annotated[
        str,
        typer.Argument(metavar="KEY|RULE", help="Such as backdoor.max_gap, or CG201."),
    ],
) -> None:
    """Say what a key of a policy limits, or which keys lead to a rule of the reports."""
    from clipguard.cli.show import out
    from clipguard.policy.explain import explained_key, keys
    from clipguard.registry import require_known
    from clipguard.report.rules import RULE_OF_KEY, RULES

    if key in RULES:
        name, text = RULES[key]
        led = [one for one, rule in RULE_OF_KEY.items() if rule == key]
        known = ", ".join(led) or "no key of a policy: it is about a file, a repair or a waiver"
        out(f"{key} {name}: {text}.\nLines with this rule: {known}")
        return
    require_known(key, [*keys(), *RULES], "key or rule")
    out(explained_key(key))


def try_out(
    records: Annotated[
        list[Path],
        typer.Argument(metavar="AUDIT_JSON...", help="Records, or folders that hold some."),
    ],
    policy: Annotated[
        str, typer.Option(metavar="NAME|FILE", help="The policy to try.")
    ] = "default",
    waivers: WaiverFile = None,
    expect: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="YAML with what each record must come to, by its path: `a/audit.json: fail`.",
        ),
    ] = None,
) -> None:
    """Decide about records again, and print what each comes to beside what it came to before.

    With --expect the exit code is 1 if one comes to something else than it must, or is not there.
    """
    from clipguard.cli.show import out, records_in
    from clipguard.errors import PASS, POLICY_VIOLATED
    from clipguard.policy.judge import judge, load_policy, load_waivers
    from clipguard.policy.trial import Trial, read_expected
    from clipguard.record.schema import read_record

    rules = load_policy(policy)
    given = None if waivers is None else load_waivers(waivers)
    expected = None if expect is None else read_expected(expect)
    found = {}
    for path in (inner for given_path in records for inner in records_in(given_path)):
        record = read_record(path)
        before = record.gate.decision.value if record.gate else "none"
        found[path.as_posix()] = before, judge(rules, record, given).decision.value
    trial = Trial(found, expected)
    out("\n".join(trial.rows()))
    raise typer.Exit(PASS if trial.as_expected else POLICY_VIOLATED)
