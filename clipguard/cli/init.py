"""`clipguard init`: write the files of a release gate into a repository, without torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from clipguard.errors import UsageError

WORKFLOW = Path(".github/workflows/clipguard.yml")
PATHS = '"models/**"'
NO_ACTION = "your-organisation/clipguard@" + 40 * "0"
NO_MODEL, NO_REFERENCE = "models/model.pt", "models/base.pt"
USUAL = {"model": NO_MODEL, "reference": NO_REFERENCE, "reference-sha256": ""}
"""What the example says; it stays, with its mark, where nothing else was given."""


def add_command(app: typer.Typer) -> None:
    """Add `init`."""
    app.command("init")(init)


def init(
    github: Annotated[
        bool, typer.Option("--github", help="A workflow for GitHub Actions, with its policies.")
    ] = False,
    model: Annotated[
        str, typer.Option(help="The checkpoint to gate, as a path in the repository.")
    ] = NO_MODEL,
    reference: Annotated[
        str, typer.Option(help="The checkpoint that it was made from, as a path in the repository.")
    ] = NO_REFERENCE,
    action: Annotated[
        str, typer.Option(metavar="OWNER/REPO@SHA", help="Where the action is, by its full SHA.")
    ] = NO_ACTION,
) -> None:
    """Write a release gate into the git repository of the current folder.

    It writes `.github/workflows/clipguard.yml` and two policies, never over a file that is there,
    and says what is left to fill in.
    """
    from clipguard.files import write_atomic
    from clipguard.text_safety import safe_text

    if not github:
        raise UsageError("expected init --github, the only gate that init writes")
    if not Path(".git").exists():
        raise UsageError("expected the top of a git repository, found no .git; change into it")
    digest = _digest(Path(reference))
    made = {
        WORKFLOW: _workflow(model, reference, digest, action),
        Path("policies/release.yaml"): _policy("release"),
        Path("policies/pull-request.yaml"): _policy(
            "pull-request", min_profile="fast", families="[patch, additive]"
        ),
    }
    if found := [path.as_posix() for path in made if path.exists() or path.is_symlink()]:
        raise UsageError(f"{found[0]} exists, and init writes over nothing; move it away first")
    for path, text in made.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
        typer.echo(f"wrote {path.as_posix()}")
    for line in _left(model, reference, digest, action):
        typer.echo(f"to do: {safe_text(line, 400)}")


def _workflow(model: str, reference: str, digest: str, action: str) -> str:
    """The example workflow with these values."""
    from clipguard.resources import shipped

    if not re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", action):
        raise UsageError("expected --action OWNER/REPO@SHA with the 40 hex digits of a commit")
    text = (shipped("examples") / "gate-release.yml").read_text(encoding="utf-8")
    given = {"model": model, "reference": reference, "reference-sha256": digest}
    for key, value in given.items():
        # GitHub would compute an expression, and a line end would begin a key of its own.
        if "${{" in value or not value.isprintable() or Path(value).is_absolute():
            raise UsageError(f"expected a plain path inside the repository as --{key}")
        if value != USUAL[key]:
            text = _replaced(rf"^( +{key}:) .*$", rf"\1 {_scalar(value)}", text)
    if action != NO_ACTION:
        text = _replaced(rf"{NO_ACTION} # REPLACE.*$", f"{action} # set by init", text)
    watched = ", ".join(map(json.dumps, _watched(model, reference)))
    return text.replace(PATHS, watched, 1)


def _watched(model: str, reference: str) -> list[str]:
    """What a pull request must touch to be scanned: files, and all of a folder."""
    paths = [Path(path).as_posix() for path in (model, reference)]
    return [path for one in paths for path in (one, f"{one}/**")]


def _scalar(value: str) -> str:
    """A value of YAML; every string of JSON is one."""
    return json.dumps(value, ensure_ascii=False).replace("\\", r"\\")


def _replaced(pattern: str, new: str, text: str) -> str:
    changed, count = re.subn(pattern, new, text, flags=re.MULTILINE)
    if count != 1:
        raise ValueError(f"expected one {pattern} in the example, found {count}")
    return changed


def _policy(name: str, **changes: str) -> str:
    """The default policy under another name and with other values for some keys."""
    from clipguard.policy.judge import policy_path, read_policy_text

    text = read_policy_text(policy_path("default"))
    text = text[text.index("\n\n") + 2 :]  # what the shipped file says of itself
    for key, value in {"name": name, **changes}.items():
        text = _replaced(rf"^( *{key}:) .*?( +#.*)?$", rf"\1 {value}\2", text)
    return f"# Written by clipguard init; docs/policy.md explains every key.\n\n{text}"


def _digest(reference: Path) -> str:
    """The digest of the reference, or nothing where it is not here yet."""
    from clipguard.checkpoint.guarded import guarded_contents

    if not reference.exists():
        return ""
    found = guarded_contents(reference)
    return "" if found.refusal else found.sha256


def _left(model: str, reference: str, digest: str, action: str) -> list[str]:
    """What nobody but the owner of the repository can fill in."""
    todo = []
    if action == NO_ACTION:
        todo.append(f"name the action and the full SHA of a release of it in {WORKFLOW}")
    for option, path in (("model", model), ("reference", reference)):
        if not Path(path).exists():
            todo.append(f"put the {option} at {path}, or name another in {WORKFLOW}")
    if not digest:
        todo.append(f"write the digest of the reference (clipguard inspect) into {WORKFLOW}")
    return [
        *todo,
        "commit these files to the main branch: a pull request is judged by the policy there",
        "read policies/release.yaml, and let only reviewers change policies/ and .github/",
        "make an environment `release` that asks for approval, and protect tags v*",
    ]
