"""A fault, a spent budget or a repair that is owed hides no finding and is no pass."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from samples import guilty_detector, judged, purification, unjudged

from clipguard.audit import pipeline
from clipguard.audit import scan as scan_module
from clipguard.audit.options import Options
from clipguard.audit.profiles import profile
from clipguard.audit.watch import Watch
from clipguard.errors import BudgetSpentError, InconclusiveError
from clipguard.policy.judge import load_policy
from clipguard.policy.release import stands_alone
from clipguard.record import AuditRecord
from clipguard.record.schema import read_record
from clipguard.report.formats import RENDERERS

OPTIONS = Options(policy=load_policy("default"))


def quiet(stage: str, done: int, total: int) -> None:
    """No progress."""


def audit(folder: Path, monkeypatch: pytest.MonkeyPatch, *yielded: AuditRecord) -> AuditRecord:
    """An audit whose disk is full after these stages."""

    def broken(*_: object) -> Iterator[AuditRecord]:
        yield from yielded
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scan_module, "stages", broken)
    model = folder / "model.pt"
    model.write_bytes(b"x")
    return scan_module.audit(model, OPTIONS, folder / "out", progress=quiet)


def test_a_fault_after_a_finding_keeps_the_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    record = audit(tmp_path, monkeypatch, unjudged(detectors=(guilty_detector(),)))
    assert (record.gate.exit_code, record.complete) == (1, False)
    assert [error.exit_code for error in record.errors] == [5]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["audit.json"]
    assert read_record(tmp_path / "out" / "audit.json") == record


def test_a_fault_before_anything_was_measured_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(OSError, match="No space"):
        audit(tmp_path, monkeypatch, unjudged(detectors=()))
    assert not (tmp_path / "out" / "audit.json").exists()


def test_a_budget_that_ends_while_the_file_is_read_is_inconclusive(tmp_path: Path):
    model = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(1)}, model)
    options = replace(OPTIONS, budget_s=1e-6)
    record = scan_module.audit(model, options, tmp_path / "out", progress=quiet)
    assert (record.gate.exit_code, record.checkpoint) == (3, None)
    assert [(error.stage, error.exit_code) for error in record.errors] == [("load", 3)]
    assert read_record(tmp_path / "out" / "audit.json") == record
    for name in set(RENDERERS.names()) - {"intoto"}:  # it speaks of a digest, and there is none
        assert "budget" in RENDERERS.build(name).render(record, tmp_path / "out")


@pytest.mark.parametrize(
    ("error", "codes"), [(BudgetSpentError("late"), [3]), (InconclusiveError("no tokens"), [])]
)
def test_only_a_spent_budget_makes_the_search_for_words_an_error(
    error: Exception, codes: list[int], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pipeline, "_words", Mock(side_effect=error))
    suspect: Any = None
    watch = Watch(None, quiet)
    record = pipeline.measure_words(unjudged(), suspect, OPTIONS, profile("standard"), watch)
    assert [one.exit_code for one in record.errors] == codes
    assert str(error) in [gap.why for gap in record.coverage.not_tested]


def test_a_model_whose_policy_wants_a_repair_does_not_stand_alone_without_one():
    owed, made = unjudged(), unjudged(purification=purification())
    for record, alone in ((owed, False), (made, True)):
        gate = judged(record, "research").gate
        assert stands_alone(gate) is alone
