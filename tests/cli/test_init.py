"""`clipguard init --github`: a gate that works, into a repository of somebody else."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file

from clipguard.cli.app import main
from clipguard.errors import USAGE
from clipguard.policy.judge import load_policy

ACTION = f"some-one/clipguard@{'a1' * 20}"
WORKFLOW = Path(".github/workflows/clipguard.yml")


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".git").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def init(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command, which must succeed, and returns what it prints."""

    def run(*arguments: str) -> str:
        assert main(["init", *arguments]) == 0
        return capsys.readouterr().out

    return run


def checkpoint(name: str) -> str:
    """Writes a weights file; returns its digest."""
    save_file({"x": torch.zeros(2)}, name)
    return hashlib.sha256(Path(name).read_bytes()).hexdigest()


def audit_step() -> dict[str, str]:
    jobs = YAML(typ="base", pure=True).load(WORKFLOW.read_text("utf-8"))["jobs"]
    [step] = [step for step in jobs["gate"]["steps"] if step.get("id") == "clipguard"]
    return {"uses": step["uses"], **step["with"]}


def written() -> list[str]:
    return sorted(p.as_posix() for p in Path().rglob("*") if p.is_file())


def test_the_paths_that_were_given_stand_in_the_workflow(init: Callable[..., str]):
    digest = checkpoint("base model.safetensors")
    wanted = ("--model", 'my "model".pt', "--reference", "base model.safetensors")
    shown = init("--github", *wanted, "--action", ACTION)
    step = audit_step()
    assert step["uses"] == ACTION
    assert (step["model"], step["reference"]) == ('my "model".pt', "base model.safetensors")
    assert step["reference-sha256"] == digest
    assert "REPLACE" not in WORKFLOW.read_text("utf-8").partition("jobs:")[2]
    assert "digest" not in shown
    assert 'my "model".pt' in shown  # is not there yet


def test_what_is_left_to_fill_in_is_said_and_marked(init: Callable[..., str]):
    todo = [line for line in init("--github").splitlines() if line.startswith("to do: ")]
    assert len(todo) == 7
    assert WORKFLOW.read_text("utf-8").partition("jobs:")[2].count("REPLACE") == 4


def test_a_model_at_the_usual_place_of_a_reference_is_still_the_model(init: Callable[..., str]):
    init("--github", "--model", "models/base.pt", "--reference", "models/model.pt")
    step = audit_step()
    assert (step["model"], step["reference"]) == ("models/base.pt", "models/model.pt")
    assert "REPLACE" not in step["model"] + step["reference"]
    assert WORKFLOW.read_text("utf-8").partition("jobs:")[2].count("REPLACE") == 2


def test_its_policies_are_valid_and_only_the_short_one_lets_a_short_search_pass(
    init: Callable[..., str],
):
    init("--github")
    names = ("release", "pull-request")
    release, pull = (load_policy(Path("policies") / f"{name}.yaml") for name in names)
    assert (release.name, pull.name) == ("release", "pull-request")
    assert (release.coverage.min_profile, pull.coverage.min_profile) == ("standard", "fast")
    shipped = load_policy("default")
    assert release.backdoor == shipped.backdoor == pull.backdoor
    assert release.coverage == shipped.coverage


def test_it_writes_over_nothing(refused: Callable[..., str]):
    Path("policies").mkdir()
    Path("policies/release.yaml").write_text("mine")
    assert "policies/release.yaml exists" in refused(USAGE, "init", "--github")
    assert written() == ["policies/release.yaml"]
    assert Path("policies/release.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--github", "--model", "${{ secrets.TOKEN }}"),
        ("--github", "--reference", "a\nrun: evil"),
        ("--github", "--model", "/home/me/model.pt"),
        ("--github", "--action", "clipguard@v1"),
    ],
)
def test_what_a_workflow_must_not_hold_is_refused_and_nothing_written(
    arguments: tuple[str, ...], refused: Callable[..., str]
):
    refused(USAGE, "init", *arguments)
    assert written() == []


def test_it_asks_for_a_repository(repository: Path, refused: Callable[..., str]):
    (repository / ".git").rmdir()
    assert "git repository" in refused(USAGE, "init", "--github")


@pytest.mark.parametrize(
    "tool", [("actionlint",), ("zizmor", "--offline", "--persona", "auditor", "--quiet")]
)
def test_linters_of_workflows_find_nothing(tool: tuple[str, ...], init: Callable[..., str]):
    known = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    program = shutil.which(tool[0], path=known)
    if program is None:
        pytest.skip(f"{tool[0]} is not installed")
    checkpoint("base.safetensors")
    init("--github", "--reference", "base.safetensors", "--action", ACTION)
    order = [program, *tool[1:], str(WORKFLOW)]
    done = subprocess.run(order, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
