"""A cell says what a scan of the same model with the same seed says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from zoo_samples import honest, make_zoo, zoo_of

from clipguard.bundled.artwork import load_artwork
from clipguard.checkpoint.inspection import sha256_of
from clipguard.cli.app import main
from clipguard.errors import InconclusiveError
from clipguard.lab import evaluate
from clipguard.lab.bench import job
from clipguard.lab.bench.cells import DetectCell, PurifyCell
from clipguard.lab.bench.record import Bench
from clipguard.lab.comparators.repairs._role import Patient
from clipguard.record import AuditRecord, Decision
from clipguard.record.schema import read_record

pytest_plugins = ["nano_models"]

SEED = "7"


def benched(nano: Path, folder: Path) -> DetectCell:
    """What `lab bench detect` makes of a zoo with this model alone."""
    (folder / "zoo" / "model").mkdir(parents=True)
    shutil.copy(nano, folder / "zoo" / "model" / "model.pt")
    make_zoo(folder / "zoo", (honest(1, path="model", sha256=sha256_of(nano)),))
    command = ["lab", "bench", "detect", "--zoo", str(folder / "zoo"), "-o", str(folder / "out")]
    assert main([*command, "--seed", SEED, "-q"]) == 0
    made = Bench.model_validate_json((folder / "out" / "bench.json").read_text())
    assert isinstance(made.rows[0].cell, DetectCell)
    return made.rows[0].cell


def scanned(nano: Path, folder: Path, *options: str) -> AuditRecord:
    """What `scan` says, which purifies and exports besides."""
    main(["scan", str(nano), "-o", str(folder / "report"), "--seed", SEED, "-q", *options])
    return read_record(folder / "report" / "audit.json")


def require_same(cell: DetectCell, record: AuditRecord) -> None:
    (found,) = (found for found in record.detectors if found.name == cell.method)
    assert cell.decision is record.gate.decision
    said = next(one for one in record.gate.conclusions if one.detector == cell.method)
    # the commands that a reason ends with name what was typed
    told, same = (reason.partition(" clipguard ")[0] for reason in (cell.reason, said.reason))
    assert (cell.outcome, told) == (said.outcome, same)
    for name in ("score", "p_value", "excess", "statistic", "target"):
        assert getattr(cell, name) == getattr(found, name)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize(
    ("level", "options"),
    [(None, ()), (-30.0, ("--purify", "never"))],
)
def test_a_cell_is_a_scan(
    nano: Path,
    null_band: Callable[[float], None],
    tmp_path: Path,
    level: float | None,
    options: tuple[str, ...],
):
    if level is not None:
        null_band(level)
    cell = benched(nano, tmp_path)
    record = scanned(nano, tmp_path, *options)
    require_same(cell, record)
    assert (cell.score is None, cell.decision is Decision.FAIL) == (
        level is None,
        level is not None,
    )


class Deaf:
    """A repair after which no image is read rightly, by the network or by the classes."""

    ID = "deaf/1"

    def __init__(self, by: str) -> None:
        self.by = by

    def repair(self, patient: Patient, **_: object) -> torch.Tensor | None:
        if self.by == "nothing":
            raise InconclusiveError("not for this kind of model")
        if self.by == "classes":
            return -patient.classes()
        dict(patient.network.named_parameters())["visual.attnpool.c_proj.weight"].neg_()
        return None


@pytest.mark.usefixtures("tiny")
def test_what_a_repair_of_the_literature_made_is_held_against_the_true_trigger(
    victim: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    few = SimpleNamespace(names=load_artwork().names[:40])
    monkeypatch.setattr(evaluate, "load_artwork", lambda: few)
    zoo, out = zoo_of(victim, tmp_path / "zoo", "hammer"), tmp_path / "out"
    named = {"finetune": "network", "coop": "classes", "invertune": "nothing"}
    monkeypatch.setattr(job, "literature", lambda method: Deaf(named[method]))
    command = ["lab", "bench", "purify", "--zoo", str(zoo), "-o", str(out), "-q"]
    assert main([*command, "--methods", ",".join(named)]) == 0
    made = Bench.model_validate_json((out / "bench.json").read_text())
    network, classes, nothing = (row.cell for row in made.rows)
    for cell in (network, classes, nothing):
        assert isinstance(cell, PurifyCell)
        assert cell.error is None
    assert network.rates.keys() == {"seen", "untuned", "held_out", "unseen"}
    assert network.rates["seen"]["ca"] < 0.1
    assert network.rates["unseen"]["ca"] < 0.1
    assert classes.rates["seen"]["ca"] < 0.1
    assert classes.rates["unseen"]["ca"] > 0.5  # another list has the ordinary prompts
    assert nothing.rates == {}
    assert "not for this kind of model" in nothing.inapplicable
    assert "2 of 3 cells" in capsys.readouterr().out


@pytest.mark.slow
def test_an_honest_model_passes_by_the_shipped_null_band(nano: Path, tmp_path: Path):
    record = scanned(nano, tmp_path)
    assert record.calibration.kind == "models"
    assert record.gate.decision is Decision.PASS
