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
EXAMPLE = ROOT / "examples" / "gate-release.yml"
WORKFLOWS = [*sorted((ROOT / ".github" / "workflows").glob("*.yml")), EXAMPLE]
ACTION = ROOT / "action.yml"
EVERY = [*WORKFLOWS, ACTION]
MAY_WRITE = {  # every right beyond reading the repository, by workflow and job
    ("gate-release.yml", "code-scanning"): {"contents: read", "security-events: write"},
    ("gate-release.yml", "release"): {
        "attestations: write",
        "contents: write",
        "id-token: write",
    },
    ("release.yml", "publish"): {"attestations: write", "id-token: write"},
}
FAKE = """\
#!{python}
import json, os, pathlib, sys
if sys.argv[1] == "inspect":
    print(json.dumps({{"sha256": "ab12", "name": sys.argv[-1]}}))
    sys.exit(0)
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
    return YAML(typ="base", pure=True).load(path.read_text(encoding="utf-8"))


def steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    if "runs" in document:
        return list(document["runs"]["steps"])
    return [step for job in document["jobs"].values() for step in job["steps"]]


def run_step(name: str, env: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a step of the action in `folder` as a runner does, with nothing but `env`."""
    [step] = [step for step in steps(load(ACTION)) if step.get("name") == name]
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", str(step["run"])],
        env=env,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("path", EVERY, ids=lambda p: p.name)
def test_no_script_contains_an_expression_and_every_action_is_pinned_by_its_full_sha(path: Path):
    scripts = [step["run"] for step in steps(load(path)) if "run" in step]
    used = [step["uses"] for step in steps(load(path)) if "uses" in step]
    assert scripts
    assert [text for text in scripts if "${{" in text] == []
    assert used
    assert [name for name in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", name)] == []
    lines = re.findall(r" uses: .*# (?:v\d|REPLACE)", path.read_text(encoding="utf-8"))
    assert len(lines) == len(used), "the version belongs beside the SHA"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.name)
def test_a_job_has_few_rights_ends_by_itself_and_leaves_no_credentials_behind(path: Path):
    document = load(path)
    assert document["permissions"] in ("{}", {}, {"contents": "read"})
    assert "concurrency" in document
    assert "pull_request_target" not in document["on"]
    for name, job in document["jobs"].items():
        rights = {f"{key}: {value}" for key, value in job.get("permissions", {}).items()}
        assert rights <= MAY_WRITE.get((path.name, name), {"contents: read"})
        assert 0 < int(job["timeout-minutes"]) <= 240
    for step in steps(document):
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false"


def test_the_example_publishes_only_after_the_gate_and_keeps_the_report_always():
    jobs = load(EXAMPLE)["jobs"]
    assert jobs["release"]["needs"] == "gate"
    # a condition with one of these would run after a job that failed
    assert not re.search(r"always|failure|cancelled", jobs["release"]["if"])
    attested = [name for name, job in jobs.items() if "actions/attest@" in str(job["steps"])]
    assert attested == ["release"]
    assert "inconclusive" not in jobs["code-scanning"]["if"]
    [*_, scan, _, keep, enforce] = steps(load(ACTION))
    assert (scan["name"], enforce["name"]) == ("Scan", "Enforce the decision")
    assert "upload-artifact" in keep["uses"]
    assert keep["if"].startswith("always()")
    assert enforce["if"] == "always()"


def test_a_pull_request_cannot_bring_its_own_policy():
    [gate] = [job for name, job in load(EXAMPLE)["jobs"].items() if name == "gate"]
    [trusted] = [s["with"] for s in gate["steps"] if s.get("with", {}).get("path") == "trusted"]
    assert trusted["ref"].startswith("${{ github.event.pull_request.base.sha ||")
    [scan] = [s["with"] for s in gate["steps"] if s.get("id") == "clipguard"]
    assert scan["policy"].startswith("trusted/")


def test_the_example_uses_only_inputs_and_outputs_the_action_has():
    action, jobs = load(ACTION), load(EXAMPLE)["jobs"]
    [step] = [s for s in jobs["gate"]["steps"] if s.get("id") == "clipguard"]
    assert step["with"].keys() <= action["inputs"].keys()
    used = set(re.findall(r"steps\.clipguard\.outputs\.([\w-]+)", EXAMPLE.read_text("utf-8")))
    assert used
    assert used <= action["outputs"].keys()


def test_every_input_is_used_and_no_script_evaluates_one():
    text = ACTION.read_text(encoding="utf-8")
    assert load(ACTION)["inputs"].keys() == set(re.findall(r"\{\{ inputs\.([\w-]+) \}\}", text))
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
        defaults |= {"REFERENCE": "", "REFERENCE_SHA256": "", "PROBE_DATA": "", "CLASSNAMES": ""}
        defaults |= {"OUTPUT_DIR": "out", "REQUIRE_EP": "", "EXTRA_ARGS": ""}
        own = {"PATH": self.path, "SEEN": str(self.seen), "WRITES": writes, "CODE": str(code)}
        own |= {"CONTENT": content, "GITHUB_OUTPUT": str(self.folder / "outputs")}
        done = run_step("Scan", defaults | own | inputs, self.folder)
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


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    return Scan(tmp_path)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_inputs_reach_clipguard_as_they_are(scan: Scan, text: str):
    more = '--seed=3\n\n--classnames=my $(id) "names".txt'  # is split by line and nothing else
    options = {"POLICY": "--policy", "PROFILE": "--profile", "REQUIRE_EP": "--require-ep"}
    options |= {"REFERENCE": "--reference", "PROBE_DATA": "--probe-data"}
    options |= {"CLASSNAMES": "--classnames"}
    scan.run(MODEL=text, EXTRA_ARGS=more, **dict.fromkeys(options, text))
    seen = json.loads(scan.seen.read_text(encoding="utf-8"))
    assert seen[-4:] == ["--seed=3", '--classnames=my $(id) "names".txt', "--", text]
    for option in options.values():
        assert seen[seen.index(option) + 1] == text


@pytest.mark.parametrize("pinned", ["AB12", "cd34", "$(id)", "--help"])
def test_a_reference_that_was_exchanged_is_not_scanned_against(scan: Scan, pinned: str):
    scan.run(REFERENCE="$(id) base.pt", REFERENCE_SHA256=pinned)
    right = pinned == "AB12"
    assert scan.seen.exists() is right
    assert scan.outputs()["exit-code"] == ("0" if right else "2")


def test_an_output_folder_cannot_add_an_output(scan: Scan):
    scan.run(code=1, OUTPUT_DIR="out\ndecision=pass\ndecision<<X\npass\nX")
    assert scan.outputs()["decision"] == "fail"
    assert scan.outputs()["report-json"].startswith("out\ndecision=pass")
    marks = re.findall(r"^[\w-]+<<(\w{32})$", (scan.folder / "outputs").read_text("utf-8"), re.M)
    assert len(set(marks)) == len(scan.outputs()), "a mark that can be guessed can be closed early"


@pytest.mark.parametrize(
    ("code", "recorded", "wanted"),
    [
        (0, "", ("0", "pass")),
        (1, "", ("1", "fail")),
        (3, "", ("3", "inconclusive")),
        (130, "", ("130", "none")),
        (6, "fail", ("6", "fail")),  # other codes take their decision from the record
        (6, "pass", ("6", "none")),
        (6, "pass\nonnx=evil", ("6", "none")),
        (2, "fail", ("2", "none")),
        (0, None, ("5", "none")),  # a verdict without a report is an error
    ],
)
def test_the_exit_code_is_kept_and_named(
    scan: Scan, code: int, recorded: str | None, wanted: tuple[str, str]
):
    content = json.dumps({"gate": {"decision": recorded}})
    written = "" if recorded is None else "audit.json audit.sarif purified.onnx"
    scan.run(code=code, writes=written, content=content)
    found = scan.outputs()
    assert (found["exit-code"], found["decision"]) == wanted
    told = written and code != 2  # the order itself was wrong, so nothing was scanned
    files = ("out/audit.sarif", "out/purified.onnx", "") if told else ("", "", "")
    assert (found["sarif"], found["onnx"], found["report-html"]) == files


def test_a_report_of_an_earlier_scan_is_never_taken_for_this_one(scan: Scan):
    for _ in range(2):
        scan.run(code=0)
    found = scan.outputs()
    assert (found["exit-code"], found["decision"], found["report-json"]) == ("2", "none", "")


def test_the_runner_takes_no_commands_from_what_a_scan_prints(scan: Scan):
    lines = scan.run().splitlines()
    stop, resume = lines[0], lines[-1]
    assert stop.startswith("::stop-commands::")
    assert resume == f"::{stop.removeprefix('::stop-commands::')}::"
    assert "::error::class name" in lines[1:-1]


@pytest.mark.parametrize(("code", "ends"), [("0", 0), ("3", 3), ("", 5)])
def test_the_job_ends_with_the_saved_code_and_without_one_never_passes(
    tmp_path: Path, code: str, ends: int
):
    assert steps(load(ACTION))[-1]["name"] == "Enforce the decision"
    assert run_step("Enforce the decision", {"CODE": code}, tmp_path).returncode == ends


ECHO = "#!/bin/sh\nprintf '%s\\n' \"$@\"\n"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("", ["--", "$(id) here"]),  # the source of the action
        ("1.2.0rc1", ["--", "clipguard==1.2.0rc1"]),
        ("1.0 --index-url=x", None),
        ("1.0; id", None),
        ("@ file:///x", None),
        ("$(id)", None),
    ],
)
def test_a_version_that_is_not_one_installs_nothing(
    tmp_path: Path, version: str, expected: list[str] | None
):
    env = {"PATH": fake(tmp_path, "python", ECHO), "VERSION": version, "CPU_ONLY": "false"}
    done = run_step("Install clipguard", env | {"GITHUB_ACTION_PATH": "$(id) here"}, tmp_path)
    assert done.returncode == (2 if expected is None else 0)
    assert ("install" in done.stdout.splitlines()) is (expected is not None)
    assert expected in (None, done.stdout.splitlines()[-2:])


def test_on_a_machine_without_a_gpu_torch_comes_without_the_cuda_libraries(tmp_path: Path):
    env = {"PATH": fake(tmp_path, "python", ECHO), "VERSION": "1.0", "GITHUB_ACTION_PATH": "."}
    told = run_step("Install clipguard", env | {"CPU_ONLY": "true"}, tmp_path).stdout.splitlines()
    assert told.index("https://download.pytorch.org/whl/cpu") < told.index("torch")
    assert told[-1] == "clipguard==1.0"


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
    env = {"PATH": fake(tmp_path, "clipguard", ECHO), "REPORT": report, "CODE": "4"}
    run_step("Job summary", env | {"GITHUB_STEP_SUMMARY": "summary"}, tmp_path)
    assert (tmp_path / "summary").read_text(encoding="utf-8").splitlines() == expected
