"""`clipguard lab bench`: options, exit codes, and one real run on hardly planted victims."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import run_python
from zoo_samples import ENTRIES, Runner, honest, in_test_split, make_zoo, zoo_of

from clipguard.cli.app import main
from clipguard.lab.bench.record import Bench

pytest_plugins = ["nano_models"]

DETECT, PURIFY = ("lab", "bench", "detect"), ("lab", "bench", "purify")


def made(out: Path) -> Bench:
    return Bench.model_validate_json((out / "bench.json").read_text())


def test_the_headline_goes_to_stdout_and_the_tables_to_the_folder(
    tmp_path: Path, runner: Runner, capsys: pytest.CaptureFixture[str]
):
    zoo, out = make_zoo(tmp_path / "zoo"), tmp_path / "out"
    chosen = ["--sandbox", "process"]
    assert main([*DETECT, "--zoo", str(zoo), "-o", str(out), "-q", *chosen]) == 0
    shown = capsys.readouterr()
    assert shown.out == (
        "inversion: AUROC 100.0 % (34.2–100.0) over 4 models, "
        "found at 0 false alarms 100.0 % (34.2–100.0)\n"
    )
    assert shown.err == f"table: {out / 'bench.html'}\n"
    assert {path.name for path in out.iterdir()} == {
        *("bench.html", "bench.json", "bench.md", "cells")
    }
    assert made(out).command == (
        "clipguard lab bench detect --zoo zoo --methods inversion --split calibration --seed 0"
        " --device auto -o out --sandbox process"
    )


def test_without_the_extra_one_line_says_what_to_install(tmp_path: Path):
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from clipguard.cli.app import main; sys.exit(main(sys.argv[1:]))"
    )
    given = [*DETECT, "--zoo", tmp_path, "-o", tmp_path / "out"]
    (line,) = run_python("-c", code, *given, code=2).stderr.splitlines()
    assert "pip install 'clipguard[lab]'" in line


def test_a_part_says_what_is_missing(
    tmp_path: Path, runner: Runner, capsys: pytest.CaptureFixture[str]
):
    zoo = make_zoo(tmp_path)
    command = [*PURIFY, "--zoo", str(zoo), "-o", str(tmp_path / "o"), "-q", "--part", "1/3"]
    assert main(command) == 0
    assert capsys.readouterr().out == (
        "Not whole: 2 of 3 cells are not run.\n1 of 3 cells repaired and measured\n"
    )
    assert len(runner.ran) == 1


def test_a_cell_that_broke_is_exit_5(
    tmp_path: Path, runner: Runner, capsys: pytest.CaptureFixture[str]
):
    runner.changes = {f"{1:016x}": {"error": "OSError: no", "decision": "inconclusive"}}
    zoo = make_zoo(tmp_path)
    assert main([*DETECT, "--zoo", str(zoo), "-o", str(tmp_path / "o"), "-q"]) == 5
    assert "Broken cells: 1 of 6" in capsys.readouterr().out


def test_the_calibration_split_is_what_you_get_unless_you_ask(tmp_path: Path, runner: Runner):
    other = in_test_split((honest(9),))
    zoo = make_zoo(tmp_path, (*ENTRIES, *other))
    command = [*DETECT, "--zoo", str(zoo), "-o", str(tmp_path / "o"), "-q"]
    assert main(command) == 0
    assert made(tmp_path / "o").cells == 6
    assert not (zoo / "looks.jsonl").exists()
    assert main([*command, "--split", "all"]) == 0
    assert made(tmp_path / "o").cells == 7
    (line,) = (zoo / "looks.jsonl").read_text().splitlines()
    assert json.loads(line)["cells"] == 7
    assert str(tmp_path) not in line


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--methods", "inversoin"], "did you mean 'inversion'"),
        (["--methods", " , "], "--methods names no method"),
        (["--part", "2/2"], "expected --part I/N"),
        (["--part", "one"], "expected --part I/N"),
        (["--part", "7/8"], "part 7/8 of 6 victims is empty"),
        (["--split", "test"], "no built models in split test"),
        (["--split", "tset"], "--split"),
        (["--zoo", "nowhere"], "cannot read nowhere/zoo.json"),
        (["--device", "tpu"], "no device named"),
        (["-o", "file"], "cannot write to file"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_2(
    tmp_path: Path,
    runner: Runner,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    told: str,
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    make_zoo(tmp_path / "zoo")
    usual = [("--zoo", "zoo"), ("-o", "out")]
    rest = [word for pair in usual if pair[0] not in given for word in pair]
    assert told in refused(2, *DETECT, *rest, "-q", *given)
    assert runner.ran == []


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_a_real_victim_is_scanned_and_purified(tmp_path: Path, victim: Path):
    folder = zoo_of(victim, tmp_path / "zoo", "hammer")
    out = tmp_path / "out"
    assert main([*DETECT, "--zoo", str(folder), "-o", str(out), "-q"]) == 0
    for row in made(out).rows:
        assert row.cell.error is None
        assert row.cell.passes.forward > row.cell.passes.backward > 0
        assert {"load", "architecture", "probe", "detect", "text"} == row.cell.seconds.keys()
    assert main([*PURIFY, "--zoo", str(folder), "-o", str(out), "-q"]) == 0
    (row,) = made(out).rows
    cell = row.cell
    assert cell.kind == "purify"
    assert cell.error is None
    assert cell.rates.keys() == {"seen", "untuned", "held_out", "unseen"}
    assert cell.rates["seen"]["asr_gap"] == pytest.approx(
        cell.rates["seen"]["asr"] - cell.rates["seen"]["asr_twin"]
    )
    assert 0 < cell.labels <= cell.images


@pytest.mark.slow
def test_processes_of_their_own_make_the_same_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    cells = []
    for jobs in ("1", "2"):
        out = tmp_path / jobs
        zoo = make_zoo(tmp_path / "zoo", ENTRIES[2:4])  # without their models
        assert main([*DETECT, "--zoo", str(zoo), "-o", str(out), "-q", "--jobs", jobs]) == 5
        assert "Broken cells: 2 of 2" in capsys.readouterr().out
        cells.append([row.cell.error for row in made(out).rows if row.cell])
    assert cells[0] == cells[1]
    assert "UsageError" in str(cells[0][0])
