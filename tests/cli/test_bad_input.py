"""Exit code and one clear line for everything that can be wrong with what is given."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from processes import PIPED, run_python

import clipguard
from clipguard.checkpoint.configs import read_json
from clipguard.checkpoint.inspection import inspect_file
from clipguard.cli.app import main
from clipguard.detect.null_band import read_null_band
from clipguard.errors import UsageError
from clipguard.model.prompts import read_class_names, read_templates
from clipguard.policy.judge import load_policy
from clipguard.probe.images import load_image
from clipguard.record.schema import read_record
from clipguard.resources import shipped

pytest_plugins = ["nano_models"]

NO_RELEASE = ("--purify", "never", "--export", "none")


class Marker:
    """Creates a file when it is unpickled: the most harmless code there is."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return open, (str(self.path), "w")


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe.yaml")
    return tmp_path / "pipe.yaml"


@pytest.mark.timeout(60)  # of a pipe that nobody writes to
@pytest.mark.parametrize(
    "read",
    [
        read_class_names,
        read_templates,
        read_record,
        read_null_band,
        read_json,
        load_policy,
        inspect_file,
        lambda path: load_image(path, 8),
    ],
)
def test_a_pipe_is_not_waited_for(pipe: Path, read: Callable[[Path], object]):
    with pytest.raises(UsageError, match=r"pipe\.yaml"):
        read(pipe)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["scan", ""], "word 2"),
        (["scan", "model.pt", "-o", ""], "-o is empty"),
        (["export", "model.pt", "--classnames="], "--classnames is empty"),
        (["gate", "audit.json", "--policy", ""], "--policy is empty"),
        (["lab", "plant", "badnets", "-o", ""], "-o is empty"),
    ],
)
def test_an_empty_argument_is_a_usage_error_and_writes_nothing(
    words: list[str], named: str, tmp_path: Path, monkeypatch, refused: Callable[..., str]
):
    monkeypatch.chdir(tmp_path)
    assert named in refused(2, *words)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [["scan"], ["scan", "a.pt", "-o"], ["gate"], ["predict", "a.onnx"], ["policy", "show"]],
)
def test_a_name_of_10_000_characters_is_one_line(words: list[str], refused: Callable[..., str]):
    assert len(refused(2, *words, "x" * 10_000)) < 400
    assert len(refused(2, *words, f"a/{'ä' * 200}.pt")) < 600


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


POLICY = (shipped("policies") / "default.yaml").read_text(encoding="utf-8")


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((32, 32), 90).convert("RGB").save(path)
    return path


MODELS: dict[str, tuple[Callable[[Path, Path], object], int, str]] = {
    "missing": (lambda folder, nano: folder / "missing.pt", 2, "no file or folder at"),
    "empty file": (lambda folder, nano: write(folder / "a.pt", ""), 4, "the file is empty"),
    "text": (lambda folder, nano: write(folder / "a.pt", "not a model\n" * 99), 4, "a text file"),
    "truncated": (
        lambda folder, nano: write(folder / "a.pt", nano.read_bytes()[:-1000]),
        4,
        "truncated",
    ),
    "code in a torch archive": (
        lambda folder, nano: saved(folder / "a.pt", {"a": Marker(folder / "ran")}),
        4,
        "CG101",
    ),
    "code in a bare pickle": (
        lambda folder, nano: write(folder / "a.pt", pickle.dumps(Marker(folder / "ran"))),
        4,
        "CG101",
    ),
    "impossible shape": (
        lambda folder, nano: saved(folder / "a.pt", {"a": torch.zeros(1).expand(10**12)}),
        4,
        "CG105",
    ),
    "not finite": (
        lambda folder, nano: saved(folder / "a.pt", {"a": torch.tensor(float("nan"))}),
        4,
        "CG109",
    ),
    "no architecture fits": (
        lambda folder, nano: saved(folder / "a.pt", {"a": torch.zeros(3)}),
        2,
        "architecture",
    ),
    "folder without weights": (
        lambda folder, nano: write(folder / "model" / "notes.txt", "hello").parent,
        2,
        "one weights file",
    ),
}

OPTIONS: dict[str, tuple[Callable[[Path], list[object]], str]] = {
    "unknown architecture": (lambda folder: ["--arch", "nano-rm"], "did you mean nano-rn"),
    "architecture that does not fit": (lambda folder: ["--arch", "RN50"], "do not fit RN50"),
    "missing probe folder": (
        lambda folder: ["--probe-data", folder / "none"],
        "no file or folder at",
    ),
    "no images": (
        lambda folder: ["--probe-data", write(folder / "probe" / "cat" / "a.txt", "x").parents[1]],
        "no images in",
    ),
    "no readable image": (
        lambda folder: [
            *("--probe-data", write(folder / "p" / "cat" / "a.png", "x").parents[1]),
            *("--classnames", write(folder / "names.txt", "cat\ndog\n")),
        ],
        "could be read",
    ),
    "one class": (
        lambda folder: ["--probe-data", picture(folder / "p" / "cat" / "a.png").parents[1]],
        "only images of one class, 'cat'",
    ),
    "empty class list": (
        lambda folder: ["--classnames", write(folder / "names.txt", "\n \n")],
        "no class names",
    ),
    "class list that is missing": (
        lambda folder: ["--classnames", folder / "names.txt"],
        "no file or folder at",
    ),
    "class list with control characters": (
        lambda folder: ["--classnames", write(folder / "names.txt", "cat\nd\x1b[2Jog\n")],
        "names.txt, line 2",
    ),
    "template without a place for the name": (
        lambda folder: ["--templates", write(folder / "templates.txt", "a photo\n")],
        "expected exactly one {}",
    ),
    "output is a file": (lambda folder: ["-o", write(folder / "file", "x")], "cannot write to"),
    "output inside a file": (
        lambda folder: ["-o", write(folder / "file", "x") / "inside"],
        "cannot write to",
    ),
    "policy name with a typo": (
        lambda folder: ["--policy", "defualt"],
        "did you mean 'default'",
    ),
    "policy file that is missing": (
        lambda folder: ["--policy", folder / "none.yaml"],
        "expected a policy file",
    ),
    "policy key with a typo": (
        lambda folder: [
            *("--policy", write(folder / "mine.yaml", POLICY.replace("max_score", "max_scrore")))
        ],
        "did you mean 'max_score'",
    ),
    "unknown profile": (lambda folder: ["--profile", "hasty"], "--profile"),
    "unknown option": (lambda folder: ["--porbe-data", "x"], "--porbe-data"),
    "budget of nothing": (lambda folder: ["--budget", "0"], "--budget"),
    "unknown format": (lambda folder: ["-f", "sarfi"], "did you mean 'sarif'"),
    "format without a path": (lambda folder: ["-f", "sarif="], "expected sarif=PATH"),
    "one file for two formats": (
        lambda folder: ["-f", f"sarif={folder / 'x'}", "-f", f"text={folder / 'x'}"],
        "-f names x twice",
    ),
    "no such GPU": (lambda folder: ["--device", "cuda:99"], "usable GPUs; use cpu"),
    "unknown device": (lambda folder: ["--device", "tpu"], "no device named 'tpu'"),
    "calibration beside a reference": (
        lambda folder: ["--calibration", folder, "--reference", folder],
        "--calibration has no effect",
    ),
    "purifier that never runs": (
        lambda folder: ["--purify", "never", "--purifier", "realign"],
        "--purifier has no effect",
    ),
    "provider without an export": (
        lambda folder: ["--export", "none", "--require-ep", "cpu"],
        "--require-ep has no effect",
    ),
    "missing calibration": (
        lambda folder: ["--calibration", folder / "band.json"],
        "no file or folder at",
    ),
    "calibration that is none": (
        lambda folder: ["--calibration", write(folder / "band.json", '{"models": []}')],
        "no calibration file",
    ),
}


REFUSAL = ["audit.json", "report.html"]


def audit(nano: Path, folder: Path, *options: object) -> tuple[int, dict[str, Any]]:
    """Exit code and record of a scan into `folder`/out."""
    code = main(["scan", str(nano), "-o", str(folder / "out"), *map(str, options)])
    return code, json.loads((folder / "out" / "audit.json").read_text())


def left_in(folder: Path) -> list[str]:
    """Every file in `folder`, hidden ones too."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.mark.parametrize("kind", MODELS)
def test_a_bad_model_is_one_line_an_exit_code_and_no_file(
    kind: str, nano: Path, tmp_path: Path, refused: Callable[..., str]
):
    make, code, says = MODELS[kind]
    assert says in refused(code, "scan", make(tmp_path, nano), "-o", tmp_path / "out", "-q")
    assert left_in(tmp_path / "out") == (REFUSAL if code == 4 else [])
    assert not (tmp_path / "ran").exists()


def test_the_marker_would_have_been_seen(tmp_path: Path):
    pickle.loads(pickle.dumps(Marker(tmp_path / "ran"))).close()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_bad_option_is_one_line_exit_code_2_and_no_file(
    kind: str, nano: Path, tmp_path: Path, refused: Callable[..., str]
):
    make, says = OPTIONS[kind]
    given = make(tmp_path)
    out = [] if "-o" in given else ["-o", tmp_path / "out"]
    assert says in refused(2, "scan", nano, *out, "-q", *given)
    assert left_in(tmp_path / "out") == []
    assert not (tmp_path / "file").is_dir()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["scan", "modle.pt"], "did you mean model.pt"),
        (["scan", "model.pt", "--reference", "baze.pt"], "--reference: no file or folder at baze"),
        (["scan", "model.pt", "--probe-data", "prob", "--dry-run"], "did you mean probe"),
        (["scan", "model.pt", "other/model.pt"], "no file or folder at other/model.pt; check"),
        (["purify", "model.pt", "--calibration", "band.jsn"], "--calibration: "),
        (["export", "model.pt", "--text-from", "nothing"], "--text-from: "),
        (["calibrate", "model.pt", "b.pt", "-o", "band.json"], "no file or folder at b.pt"),
    ],
)
def test_a_mistyped_path_names_its_option_and_what_lies_near_before_torch_is_imported(
    words: list[str], says: str, tmp_path: Path, monkeypatch, refused: Callable[..., str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.pt").touch()
    (tmp_path / "probe").mkdir()
    for name in ("clipguard.audit.options", "clipguard.audit.scan", "clipguard.audit.calibrate"):
        monkeypatch.setitem(sys.modules, name, None)
    assert says in refused(2, *words)
    assert left_in(tmp_path) == ["model.pt"]


@pytest.mark.parametrize("option", ["", "--probe-data", "--classnames", "--calibration"])
def test_a_mistyped_path_leaves_an_earlier_report_alone(
    option: str, nano: Path, tmp_path: Path, refused: Callable[..., str]
):
    earlier = [write(tmp_path / name, "earlier") for name in ("audit.json", "model.onnx")]
    given = [nano, option, tmp_path / "nosuch"] if option else [tmp_path / "nosuch"]
    assert "nosuch" in refused(2, "scan", *given, "-o", tmp_path, "-q")
    assert [path.read_text() for path in earlier] == ["earlier"] * 2


def test_a_scan_replaces_no_file_of_another_tool(
    nano: Path, tmp_path: Path, refused: Callable[..., str]
):
    foreign = write(tmp_path / "report.html", "<title>pytest</title>")
    assert "report.html" in refused(2, "scan", nano, "-o", tmp_path, "-q")
    assert foreign.read_text() == "<title>pytest</title>"
    assert left_in(tmp_path) == ["report.html"]


@pytest.mark.parametrize("command", ["purify", "export", "calibrate"])
def test_every_command_that_loads_a_model_refuses_it_alike(
    command: str, nano: Path, tmp_path: Path, refused: Callable[..., str]
):
    make, code, says = MODELS["code in a torch archive"]
    quiet = [] if command == "export" else ["-q"]
    models = [make(tmp_path, nano)] * (5 if command == "calibrate" else 1)  # fewer are refused
    assert says in refused(code, command, *models, "-o", tmp_path / "out", *quiet)
    kept = [f"out/{name}" for name in REFUSAL] if command == "purify" else []
    assert left_in(tmp_path) == ["a.pt", *kept]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["lab", "plant", "badnet"], "did you mean 'badnets'"),
        (["lab", "plant", "badnets", "--target", "banan"], "did you mean 'banana'"),
        (["lab", "plant", "badnets", "--base", "nano-rm"], "did you mean 'nano-rn'"),
        (["lab", "plant", "badnets", "--set", "plaec=random"], "did you mean 'place'"),
        (["lab", "plant", "badnets", "--set", "place=left"], "corner, corners, random"),
        (["lab", "plant", "badnets", "--set", "place"], "KEY=VALUE"),
        (["lab", "plant", "none", "--twin", "t"], "has no twin"),
        (["lab", "plant", "none", "--set", "foo=1"], "none has no settings, got foo"),
        (["demo", "--attack", "badnet"], "did you mean 'badnets'"),
        (["demo", "--target", "banan"], "did you mean 'banana'"),
    ],
)
def test_a_bad_order_for_the_lab_is_told_before_anything_is_trained(
    arguments: list[str], says: str, tmp_path: Path, refused: Callable[..., str]
):
    assert says in refused(2, *arguments, "-o", tmp_path / "out", "-q")
    assert left_in(tmp_path) == []


@pytest.mark.usefixtures("tiny")
def test_of_several_models_the_worst_code_wins_and_each_has_its_own_folder(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text, out = write(tmp_path / "notes.pt", "text"), tmp_path / "out"
    assert main(["scan", str(text), str(nano), "-o", str(out), "-q", *NO_RELEASE]) == 4
    shown = capsys.readouterr()
    assert re.fullmatch("error: notes.pt: .*\n", shown.err)
    assert "nano.pt (exit code 3" in shown.out
    assert left_in(out / "notes.pt") == REFUSAL
    assert {"audit.json", "report.html"} <= set(left_in(out / "nano.pt"))


def test_the_reports_of_several_models_on_the_screen_are_one_document(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    models = [str(write(tmp_path / f"{name}.pt", "text")) for name in "ab"]
    assert main(["scan", *models, "-o", str(tmp_path / "out"), "-q", "-f", "json=-"]) == 4
    records = json.loads(capsys.readouterr().out)
    assert [record["refused"]["file"] for record in records] == ["a.pt", "b.pt"]


def test_a_scan_whose_output_nobody_reads_keeps_its_code_and_its_files(tmp_path: Path):
    model, out = write(tmp_path / "notes.pt", "text"), tmp_path / "out"
    done = run_python("-c", PIPED, f"scan|{model}|-o|{out}|-f|text=-|-f|html", code=0)
    assert done.stdout.startswith("4 ")
    assert {"audit.json", "report.html"} <= set(left_in(out))


def test_one_file_for_the_reports_of_several_models_is_refused(
    nano: Path, tmp_path: Path, refused: Callable[..., str]
):
    command = ["scan", nano, nano, "-o", tmp_path / "out", "-f", f"html={tmp_path / 'one.html'}"]
    assert "one document for each model" in refused(2, *command)
    assert left_in(tmp_path) == []


@pytest.mark.usefixtures("tiny")
def test_a_corrupt_image_a_class_that_is_there_twice_and_a_wrong_folder_are_told(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    classes = ("cat", "dog", "key", "bell", "fish", "cup")
    for name, i in itertools.product(classes, range(12)):
        picture(tmp_path / "probe" / name / f"{i}.png")
    write(tmp_path / "probe" / "cat" / "broken.png", b"\x89PNG\r\n\x1a\nnothing")
    names = write(tmp_path / "names.txt", "\n".join([*classes, "cat"]))
    given = ("--probe-data", tmp_path / "probe", "--classnames", names)
    code, record = audit(nano, tmp_path, *NO_RELEASE, *given)
    probe = record["probe"]
    assert (code, probe["skipped"], probe["classes"]) == (3, 1, 6)
    assert probe["optimise"] + probe["select"] + probe["measure"] == 72
    # Nobody can read noise, as if the folder were a wrong one: the policy's floor says so.
    assert probe["clean_accuracy"]["value"] < 0.3
    results = {check["key"]: check["result"] for check in record["gate"]["checks"]}
    assert results["coverage.min_clean_accuracy"] == "inconclusive"
    page, shown = (tmp_path / "out" / "report.html").read_text("utf-8"), capsys.readouterr().out
    for warning in ("merged 1 duplicate class names", "skipped 1 images"):
        assert warning in " ".join(probe["warnings"])
        assert warning in page
        assert warning in shown


@pytest.mark.usefixtures("tiny")
def test_too_few_images_are_inconclusive_and_say_what_was_not_tested(
    nano: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name, i in itertools.product(("cat", "dog"), range(6)):
        picture(tmp_path / "probe" / name / f"{i}.png")
    code, record = audit(nano, tmp_path, *NO_RELEASE, "--probe-data", tmp_path / "probe")
    untested = record["coverage"]["not_tested"][0]
    assert (code, record["complete"], record["detectors"]) == (3, True, [])
    assert untested["what"] == "every trigger family"
    assert "at least 20" in untested["why"]
    assert "at least 20" in capsys.readouterr().out


@pytest.mark.usefixtures("tiny")
def test_a_spent_budget_is_inconclusive_and_says_what_was_not_tested(
    nano: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    ticks = itertools.count(time.monotonic(), 20)  # who reads the file has a clock of its own
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr("clipguard.audit.watch.time", clock)
    code, record = audit(nano, tmp_path, "--budget", "100")
    assert (code, record["errors"][0]["exit_code"]) == (3, 3)
    assert record["gate"]["decision"] == "inconclusive"
    assert "budget of 100 s" in record["coverage"]["not_tested"][0]["why"]
    assert "ran out" in capsys.readouterr().out
    assert left_in(tmp_path / "out") == ["audit.json", "report.html"]


def test_a_provider_that_is_not_there_is_an_export_failure(
    nano: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    refused(6, "export", nano, "-o", tmp_path / "model.onnx", "--require-ep", "cuda")
    refused(6, "scan", nano, "-o", tmp_path / "out", "--require-ep", "cuda", "-q")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(("what", "bytes_free"), [("free_memory", 10**6), ("free_disk", 10**7)])
def test_too_little_memory_or_disk_is_told_before_the_file_is_read(
    what: str,
    bytes_free: int,
    nano: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    refused: Callable[..., str],
):
    monkeypatch.setattr(f"clipguard.audit.before.{what}", lambda *_: bytes_free)
    assert "too little" in refused(5, "scan", nano, "-o", tmp_path / "out", "-q")
    assert left_in(tmp_path) == []


def test_an_export_and_a_calibration_replace_no_file_of_somebody_else(
    nano: Path, tmp_path: Path, refused: Callable[..., str]
):
    mine = write(tmp_path / "model.onnx", "mine")
    assert "did not export it" in refused(2, "export", nano, "-o", mine)
    assert "is no calibration file" in refused(2, "calibrate", *[nano] * 5, "-o", mine)
    assert mine.read_text() == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="has no signals to send to a process")
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_an_interrupted_scan_leaves_one_file_that_says_so(
    number: int, code: int, word: str, nano: Path, tmp_path: Path
):
    out = tmp_path / "out"
    write(out / "report.html", "<title>clipguard</title>")
    command = [sys.executable, "-m", "clipguard", "scan", str(nano), "-o", str(out)]
    running = subprocess.Popen(
        [*command, "--profile", "thorough"],
        env={**os.environ, "PYTHONPATH": str(Path(clipguard.__file__).parents[1])},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A shell's background job ignores interrupts, and so would all that it starts.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    next(line for line in running.stderr if line.startswith("detect"))
    time.sleep(0.5)
    running.send_signal(number)
    shown, told = running.communicate(timeout=60)
    assert (running.returncode, shown, told.splitlines()[-1]) == (code, "", word)
    assert "Traceback" not in told
    assert left_in(out) == ["audit.json"]
    record = json.loads((out / "audit.json").read_text())
    assert (record["complete"], record["checkpoint"]["name"]) == (False, "nano.pt")
    assert record["gate"]["decision"] == "inconclusive"
