"""No number of a policy is dead: moving any one of them alone changes some decision."""

from __future__ import annotations

import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML
from samples import (
    against_reference,
    clean_detector,
    export,
    guilty_detector,
    held_against,
    purification,
    rate,
    reference,
    unjudged,
    wide,
)

from clipguard.errors import UsageError
from clipguard.policy.document import PolicyDocument
from clipguard.policy.judge import judge, load_policy
from clipguard.record import (
    ApartRecord,
    AuditRecord,
    CalibrationRecord,
    Candidate,
    CoverageRecord,
    Decision,
    DetectorRecord,
    PowerRecord,
)
from clipguard.resources import shipped

TRIED = (-1000.0, -1.0, 0.0, 1e-9, 0.01, 0.1, 0.3, 0.4, 0.6, 0.95, 1, 1.0, 10.0, 1000, 10_000)
"""Values that every number is moved to, as far as its bounds and its type let it."""


def is_number(annotation: Any) -> bool:
    """Whether a field may hold a number, alone or beside something else."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return any(map(is_number, get_args(annotation)))
    if origin is Annotated:
        return is_number(get_args(annotation)[0])
    return annotation in (int, float)


def numbers(section: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where the numbers of a policy stand."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from numbers(kind, (*path, name))
        elif is_number(kind):
            yield (*path, name)


def looked(**changes: Any) -> AuditRecord:
    """A clean record with another main detector, whose null band reaches any alpha."""
    detector = clean_detector().model_copy(update=changes)
    band = CalibrationRecord(kind="models", models=10**10)
    return unjudged(detectors=(detector,), calibration=band)


def candidates(**changes: Any) -> tuple[Candidate, ...]:
    return tuple(row.model_copy(update=changes) for row in clean_detector().candidates)


def heard(pull: float, share: float, on_reference: float | None = None) -> AuditRecord:
    word = DetectorRecord(
        name="text_tokens",
        evidence="e",
        statistic=pull,
        word_share=share,
        word_on_reference=on_reference,
    )
    return unjudged(detectors=(clean_detector(), word))


def exported(error: float, agreement: float) -> AuditRecord:
    made = export(relative_error=error)
    parity = made.parity[0].model_copy(update={"top1_agreement": agreement})
    return unjudged(export=made.model_copy(update={"parity": (parity,)}))


def differs(asr: float) -> AuditRecord:
    made = export()
    assert made.asr_onnx is not None
    other = made.asr_onnx.model_copy(update={"value": asr})
    return unjudged(export=made.model_copy(update={"asr_onnx": other}))


def repaired(clean_accuracy: float) -> AuditRecord:
    made = purification()
    after = made.after.model_copy(update={"clean_accuracy": rate(clean_accuracy)})
    return unjudged(
        detectors=(guilty_detector(),), purification=made.model_copy(update={"after": after})
    )


STRONG = guilty_detector().model_copy(update={"score": None, "p_value": None})
FEW = clean_detector().families[0].model_copy(update={"excess": -2.0})
RECORDS = (
    looked(score=0.2),
    looked(score=0.45, p_value=0.02),
    looked(score=0.8, p_value=0.02),
    looked(families=(FEW, *clean_detector().families[1:])),
    looked(candidates=candidates(settled=False, excess=0.5)),
    unjudged(detectors=(STRONG,), calibration=CalibrationRecord(kind="none")),
    heard(pull=2.0, share=1.0),
    heard(pull=9.0, share=0.5),
    heard(pull=9.0, share=1.0, on_reference=8.5),
    held_against(),
    held_against(against_reference(gap=0.5)),
    held_against(against_reference(score=0.9, alike=0.8)),
    held_against(against_reference(candidates=wide(0.5))),
    held_against(
        against_reference(apart=(ApartRecord(target="cookie", apart=0.5, alike=0.9, right=1.0),))
    ),
    unjudged(reference=reference(0.2)),
    unjudged(
        coverage=CoverageRecord(
            power=(PowerRecord(attack="badnets", side="test", failed=rate(0.5)),)
        )
    ),
    unjudged(),
    repaired(clean_accuracy=0.92),
    repaired(clean_accuracy=0.85),
    exported(error=1e-6, agreement=1.0),
    exported(error=1e-6, agreement=0.7),
    differs(asr=0.2),
)


def decisions(path: tuple[str, ...], folder: Path) -> list[set[Decision]]:
    """What each record comes to under every policy that differs in the number at `path` only."""
    text = (shipped("policies") / "default.yaml").read_text(encoding="utf-8")
    text = text.replace("repaired_may_pass: false", "repaired_may_pass: true")
    seen: list[set[Decision]] = [set() for _ in RECORDS]
    for value in TRIED:
        document = YAML(typ="safe").load(text)
        part = document
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = value
        file = folder / "moved.yaml"
        YAML().dump(document, file)
        try:
            policy = load_policy(file)
        except UsageError:  # beyond the bounds of this number
            continue
        for found, record in zip(seen, RECORDS, strict=True):
            found.add(judge(policy, record).decision)
    return seen


def test_the_walk_finds_numbers_in_every_section_and_nothing_else() -> None:
    found = set(numbers(PolicyDocument))
    assert {("backdoor", "max_change_concentration"), ("coverage", "min_measure_images")} <= found
    assert {section for section, *_ in found} == {"backdoor", "coverage", "purification", "export"}
    assert ("purification", "repaired_may_pass") not in found


@pytest.mark.parametrize("path", numbers(PolicyDocument), ids=".".join)
def test_moving_one_number_alone_changes_a_decision(path: tuple[str, ...], tmp_path: Path) -> None:
    changed = [found for found in decisions(path, tmp_path) if len(found) > 1]
    assert changed, f"{'.'.join(path)} decides nothing"
