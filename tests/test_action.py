"""The GitHub action and the workflows: pinned, least privilege, and deaf to hostile inputs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
CI = ROOT / ".github" / "workflows" / "ci.yml"
EXAMPLE = ROOT / "examples" / "gate-release.yml"
WORKFLOWS = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), EXAMPLE]
ACTION = ROOT / "action.yml"
EVERY = [*WORKFLOWS, ACTION]
MAY_WRITE = {  # every right beyond reading the repository, by workflow and job
    ("gate-release.yml", "code-scanning"): {"contents: read", "security-events: write"},
    ("gate-release.yml", "release"): {"contents: write"},
    ("release.yml", "publish"): {"attestations: write", "id-token: write"},
}
FAKE = """\
#!{python}
import json, os, pathlib, sys
pathlib.Path(os.environ["SEEN"]).write_text(json.dumps(sys.argv[1:]))
folder = pathlib.Path(sys.argv[sys.argv.index("--output-dir") + 1])
for name in os.environ["WRITES"].split():
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(os.environ["CONTENT"])
print("::error::class name")
sys.exit(int(os.environ["CODE"]))
"""
HOSTILE = ('"; id # $(id) `id` ${{ github.token }} *\nexit-code=0', "--policy=other.yaml")


def load(path: Path) -> dict[str, Any]:
    # The base reader keeps `3.10` a text, as GitHub reads it.
    document = YAML(typ="base", pure=True).load(path.read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    if "runs" in document:
        return list(document["runs"]["steps"])
    return [step for job in document["jobs"].values() for step in job["steps"]]


def script(name: str) -> str:
    [step] = [step for step in steps(load(ACTION)) if step.get("name") == name]
    return str(step["run"])


@pytest.mark.parametrize("path", EVERY, ids=lambda p: p.name)
def test_no_script_contains_an_expression(path: Path):
    scripts = [step["run"] for step in steps(load(path)) if "run" in step]
    assert scripts
    assert [text for text in scripts if "${{" in text] == []


@pytest.mark.parametrize("path", EVERY, ids=lambda p: p.name)
def test_every_action_is_pinned_by_its_full_sha_with_the_version_beside_it(path: Path):
    used = [step["uses"] for step in steps(load(path)) if "uses" in step]
    assert used
    assert [name for name in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name)] == []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if " uses: " in line]
    assert len(lines) == len(used)
    assert [line for line in lines if not re.search(r"# (v\d|REPLACE)", line)] == []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_job_has_only_the_rights_it_is_known_to_need(path: Path):
    document = load(path)
    assert document["permissions"] in ("{}", {}, {"contents": "read"})
    for name, job in document["jobs"].items():
        rights = {f"{key}: {value}" for key, value in job.get("permissions", {}).items()}
        assert rights <= MAY_WRITE.get((path.name, name), {"contents: read"})


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_job_ends_by_itself_and_leaves_no_credentials_behind(path: Path):
    document = load(path)
    assert "concurrency" in document
    assert "pull_request_target" not in document["on"]
    for job in document["jobs"].values():
        assert 0 < int(job["timeout-minutes"]) <= 60
    for step in steps(document):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"


def test_the_example_publishes_only_after_the_gate_and_keeps_the_report_always():
    jobs = load(EXAMPLE)["jobs"]
    assert jobs["release"]["needs"] == "gate"
    assert "if" not in jobs["release"]
    [keep] = [s for s in jobs["gate"]["steps"] if "upload-artifact" in s.get("uses", "")]
    assert keep["if"] == "always()"
    assert "inconclusive" not in jobs["code-scanning"]["if"]


def test_the_example_uses_only_inputs_and_outputs_the_action_has():
    action, jobs = load(ACTION), load(EXAMPLE)["jobs"]
    [step] = [s for s in jobs["gate"]["steps"] if s.get("id") == "clipguard"]
    assert step["with"].keys() <= action["inputs"].keys()
    used = set(re.findall(r"steps\.clipguard\.outputs\.([\w-]+)", EXAMPLE.read_text("utf-8")))
    assert used
    assert used <= action["outputs"].keys()


def test_an_input_reaches_scripts_through_the_environment_only():
    action = load(ACTION)
    text = ACTION.read_text(encoding="utf-8")
    for name in action["inputs"]:
        assert f"${{{{ inputs.{name} }}}}" in text, f"input {name} is not used"
    assert "eval" not in text


def fake(folder: Path, name: str, text: str) -> str:
    """A search path on which the program `name` is `text`."""
    tools = folder / "bin"
    tools.mkdir()
    (tools / name).write_text(text, encoding="utf-8")
    (tools / name).chmod(0o755)
    return f"{tools}{os.pathsep}{os.environ['PATH']}"


class Scan:
    """Runs the action's scan step with a fake `clipguard` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen = folder / "seen.json"
        self.path = fake(folder, "clipguard", FAKE.format(python=sys.executable))

    def run(
        self, *, code: int = 0, writes: str = "audit.json", content: str = "x", **inputs: str
    ) -> str:
        """Standard output of the step, which must succeed whatever the scan's exit code."""
        defaults = {"MODEL": "model.pt", "POLICY": "", "PROFILE": "standard"}
        defaults |= {"OUTPUT_DIR": "out", "REQUIRE_EP": "", "EXTRA_ARGS": ""}
        own = {"PATH": self.path, "SEEN": str(self.seen), "WRITES": writes, "CODE": str(code)}
        own["CONTENT"] = content
        own["GITHUB_OUTPUT"] = str(self.folder / "outputs")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script("Scan")],
            env=defaults | own | inputs,
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def outputs(self) -> dict[str, str]:
        """What the runner would read from the output file."""
        rest = (self.folder / "outputs").read_text(encoding="utf-8")
        found = {}
        while rest:
            head, rest = rest.split("\n", 1)
            name, mark = head.split("<<", 1)
            found[name], rest = rest.split(f"\n{mark}\n", 1)
        return found

    def arguments(self) -> list[str]:
        found = json.loads(self.seen.read_text(encoding="utf-8"))
        assert isinstance(found, list)
        return found


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    return Scan(tmp_path)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_inputs_reach_clipguard_as_they_are(scan: Scan, text: str):
    scan.run(MODEL=text, POLICY=text, PROFILE=text, REQUIRE_EP=text)
    seen = scan.arguments()
    assert seen[-2:] == ["--", text]
    for option in ("--policy", "--profile", "--require-ep"):
        assert seen[seen.index(option) + 1] == text


def test_extra_arguments_are_split_by_line_and_nothing_else(scan: Scan):
    scan.run(EXTRA_ARGS='--seed=3\n\n--classnames=my $(id) "names".txt')
    assert scan.arguments()[-4:-2] == ["--seed=3", '--classnames=my $(id) "names".txt']


def test_an_output_folder_cannot_add_an_output(scan: Scan):
    scan.run(code=1, OUTPUT_DIR="out\ndecision=pass\ndecision<<X\npass\nX")
    assert scan.outputs()["decision"] == "fail"
    assert scan.outputs()["report-json"].startswith("out\ndecision=pass")
    marks = re.findall(r"^[\w-]+<<(\w{32})$", (scan.folder / "outputs").read_text("utf-8"), re.M)
    assert len(set(marks)) == len(scan.outputs()), "a mark that can be guessed can be closed early"


@pytest.mark.parametrize(
    ("code", "decision"),
    [(0, "pass"), (1, "fail"), (3, "inconclusive"), (4, "none")],
)
def test_the_exit_code_is_kept_and_named(scan: Scan, code: int, decision: str):
    scan.run(code=code)
    assert scan.outputs()["exit-code"] == str(code)
    assert scan.outputs()["decision"] == decision


@pytest.mark.parametrize(
    ("code", "recorded", "decision"),
    [
        (6, "fail", "fail"),
        (7, "inconclusive", "inconclusive"),
        (6, "pass\nonnx=evil", "none"),
        (2, "fail", "none"),
    ],
)
def test_other_codes_take_their_decision_from_the_record(
    scan: Scan, code: int, recorded: str, decision: str
):
    scan.run(code=code, content=json.dumps({"gate": {"decision": recorded}}))
    assert scan.outputs()["exit-code"] == str(code)
    assert scan.outputs()["decision"] == decision


def test_outputs_name_the_files_that_were_written(scan: Scan):
    scan.run(code=1, writes="audit.json audit.sarif purified.onnx")
    found = scan.outputs()
    assert found["sarif"] == "out/audit.sarif"
    assert found["onnx"] == "out/purified.onnx"
    assert found["report-html"] == ""


def test_a_verdict_without_a_report_is_an_error(scan: Scan):
    scan.run(code=0, writes="")
    assert scan.outputs()["exit-code"] == "5"
    assert scan.outputs()["decision"] == "none"


def test_a_report_of_an_earlier_scan_is_never_taken_for_this_one(scan: Scan):
    scan.run(code=0)
    scan.run(code=0)
    assert scan.outputs()["exit-code"] == "2"
    assert scan.outputs()["decision"] == "none"
    assert scan.outputs()["report-json"] == ""


def test_the_runner_takes_no_commands_from_what_a_scan_prints(scan: Scan):
    lines = scan.run().splitlines()
    stop, resume = lines[0], lines[-1]
    assert stop.startswith("::stop-commands::")
    assert resume == f"::{stop.removeprefix('::stop-commands::')}::"
    assert "::error::class name" in lines[1:-1]


@pytest.mark.parametrize(("code", "ends"), [("0", 0), ("3", 3), ("", 5)])
def test_the_job_ends_with_the_saved_code_and_without_one_never_passes(code: str, ends: int):
    assert steps(load(ACTION))[-1]["name"] == "Enforce the decision"
    done = subprocess.run(
        ["bash", "-c", script("Enforce the decision")], env={"CODE": code}, check=False
    )
    assert done.returncode == ends


@pytest.mark.parametrize("version", ["1.0 --index-url=x", "$(id)"])
def test_a_version_that_is_not_one_installs_nothing(tmp_path: Path, version: str):
    path = fake(tmp_path, "python", "#!/bin/sh\ntouch installed\n")
    done = subprocess.run(
        ["bash", "-c", script("Install clipguard")],
        env={"PATH": path, "VERSION": version, "GITHUB_ACTION_PATH": "."},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 2
    assert not (tmp_path / "installed").exists()


@pytest.mark.parametrize(
    ("version", "expected"), [("", "$(id) here"), ("1.2.0rc1", "clipguard==1.2.0rc1")]
)
def test_the_source_of_the_action_is_installed_unless_a_version_is_asked_for(
    tmp_path: Path, version: str, expected: str
):
    path = fake(tmp_path, "python", "#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    done = subprocess.run(
        ["bash", "-c", script("Install clipguard")],
        env={"PATH": path, "VERSION": version, "GITHUB_ACTION_PATH": "$(id) here"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-2:] == ["--", expected]


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        ("$(id)/audit.json", ["report", "--format", "markdown=-", "--", "$(id)/audit.json"]),
        ("", ["clipguard made no report (exit code 4)."]),
    ],
)
def test_the_job_summary_is_the_report_or_says_there_is_none(
    tmp_path: Path, report: str, expected: list[str]
):
    path = fake(tmp_path, "clipguard", "#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    summary = tmp_path / "summary"
    subprocess.run(
        ["bash", "-c", script("Job summary")],
        env={"PATH": path, "REPORT": report, "CODE": "4", "GITHUB_STEP_SUMMARY": str(summary)},
        check=True,
    )
    assert summary.read_text(encoding="utf-8").splitlines() == expected
