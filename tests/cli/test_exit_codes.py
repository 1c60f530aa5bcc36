"""Every exit code that a record leads to, the gravest of several, and the README's table."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from many_records import broken, unread, wholly_waived
from samples import (
    dropped,
    export,
    failing,
    guilty_detector,
    inconclusive,
    passing,
    refused,
    unjudged,
)

from clipguard import errors
from clipguard.cli.app import main
from clipguard.record import AuditRecord, ErrorRecord
from clipguard.record.schema import dumps

README = Path(__file__).parents[2] / "README.md"


def found_and_broken(code: int) -> AuditRecord:
    """A finding, and an error of a later stage."""
    error = ErrorRecord(stage="export", message="m", exit_code=code)
    return unjudged(detectors=(guilty_detector(),), errors=(error,))


def misses_parity() -> AuditRecord:
    return unjudged(export=export(relative_error=0.01))


TABLE: tuple[tuple[tuple[Callable[[], AuditRecord], ...], int], ...] = (
    ((passing,), 0),
    ((failing,), 1),
    ((inconclusive,), 3),
    ((lambda: unjudged(complete=False),), 3),
    ((lambda: unjudged(detectors=()),), 3),
    ((refused,), 4),
    ((unread,), 4),
    ((lambda: broken(5),), 5),
    ((lambda: broken(0),), 5),
    ((lambda: broken(999),), 5),
    ((misses_parity,), 6),
    ((dropped,), 6),
    ((lambda: broken(7),), 7),
    ((lambda: broken(130),), 130),
    ((lambda: broken(143),), 143),
    # a finding is never hidden by an error
    ((lambda: found_and_broken(5),), 1),
    ((lambda: found_and_broken(6),), 1),
    ((lambda: found_and_broken(3),), 1),
    ((lambda: found_and_broken(4),), 4),
    # several records: the gravest
    ((passing, inconclusive), 3),
    ((inconclusive, misses_parity), 6),
    ((misses_parity, failing, passing), 1),
    ((failing, refused), 4),
    ((refused, lambda: broken(130)), 130),
    # a waiver of the scan is not believed by a gate that was given none
    ((wholly_waived,), 1),
)


@pytest.mark.parametrize(("makers", "code"), TABLE)
def test_a_gate_ends_with_the_gravest_code(
    makers: tuple[Callable[[], AuditRecord], ...], code: int, tmp_path: Path
):
    records = [tmp_path / f"{number}.json" for number in range(len(makers))]
    for path, make in zip(records, makers, strict=True):
        path.write_text(dumps(make()), encoding="ascii")
    assert main(["gate", *map(str, records)]) == code


@pytest.mark.parametrize(
    "arguments",
    [["gate"], ["gate", "none.json"], ["gate", ""], ["report", "none.json"], ["nothing"]],
)
def test_a_wrong_command_ends_with_2(arguments: list[str], refused: Callable[..., str]):
    assert refused(2, *arguments)


def test_the_readme_lists_every_code_once():
    text = README.read_text(encoding="utf-8").partition("### Exit codes")[2]
    rows = re.findall(r"(?m)^\| ([\d, ]+) \|", text.partition("###")[0])
    listed = [int(code) for row in rows for code in row.split(",")]
    assert sorted(listed) == sorted(errors.SEVERITY)


def test_the_policy_page_gives_the_order():
    text = (README.parent / "docs" / "policy.md").read_text(encoding="utf-8")
    told = re.search(r"in the order ([\d, \n]+)\.", text)
    assert told is not None
    assert [int(code) for code in told[1].split(",")] == list(errors.SEVERITY)
