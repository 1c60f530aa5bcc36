"""What a report tells its reader to do now."""

import pytest
from samples import (
    RECORDS,
    against_reference,
    candidate,
    clean_detector,
    dropped,
    export,
    failing,
    guilty_detector,
    held_against,
    judged,
    purification,
    rate,
    reference,
    refused,
    unjudged,
)

from clipguard.policy.judge import judge, load_policy
from clipguard.record import (
    AuditRecord,
    CalibrationRecord,
    Check,
    CoverageRecord,
    Decision,
    ErrorRecord,
    PowerRecord,
    Rate,
)
from clipguard.report.blocks import Facts, Notes, Pictures, Table
from clipguard.report.sections import sections
from clipguard.report.triggers import HARMLESS, triggers_blocks
from clipguard.report.verdict import ADD, advice, verdict_blocks
from clipguard.report.waivers import verified_notes


def test_the_first_thing_to_do_follows_the_decision():
    first = {kind: advice(make())[0].lower() for kind, make in RECORDS.items()}
    released = {kind for kind, text in first.items() if text.startswith("release is possible")}
    kept = {kind for kind, text in first.items() if text.startswith("do not release")}
    assert released == {"pass"}
    assert kept == set(RECORDS) - released
    assert [kind for kind in kept if first[kind].endswith("yet.")] == ["inconclusive"]


def test_a_refused_file_is_asked_for_in_a_form_that_it_does_not_have():
    plain = refused()
    told = {}
    for rule in ("CG101", "CG105", None):
        changed = plain.refused.model_copy(update={"rule": rule})
        told[rule] = advice(plain.model_copy(update={"refused": changed}))[1]
    assert len(set(told.values())) == 3
    assert "plain and dense" in told["CG105"]


def test_a_bad_export_does_not_blame_the_checkpoint():
    assert "exported file" in advice(dropped())[0]
    assert "exported file" not in advice(failing())[0]


def test_a_pass_of_the_repair_alone_keeps_the_checkpoint_back():
    base = load_policy("default")
    allows = base.purification.model_copy(update={"repaired_may_pass": True})
    policy = base.model_copy(update={"purification": allows})
    made = {"purification": purification(), "export": export("purified")}
    record = unjudged(detectors=(guilty_detector(),), **made)
    passed = record.model_copy(update={"gate": judge(policy, record)})
    assert passed.gate.decision is Decision.PASS
    assert "repaired" in advice(passed)[0]
    assert "Do not release the checkpoint" in advice(passed)[1]


def with_changes(**changes: object) -> AuditRecord:
    return judged(unjudged(**changes))


def few_images() -> AuditRecord:
    probe = unjudged().probe.model_copy(update={"measure": 40})
    return with_changes(probe=probe)


def read_wrongly() -> AuditRecord:
    wrong = Rate(value=0.13, low=0.1, high=0.2, n=400)
    return with_changes(probe=unjudged().probe.model_copy(update={"clean_accuracy": wrong}))


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (few_images(), ("--probe-data", "40", "200")),
        (read_wrongly(), ("--probe-data", "--classnames")),
        (with_changes(calibration=CalibrationRecord(kind="none")), ("--reference", "calibrate")),
        (with_changes(complete=False), ("end",)),
        (
            with_changes(
                errors=(ErrorRecord(stage="text", message="x", exit_code=3, out_of_time=True),)
            ),
            ("--budget",),
        ),
        (with_changes(settings={"profile": "fast"}), ("--profile standard",)),
        (
            with_changes(errors=(ErrorRecord(stage="export", message="x", exit_code=5),)),
            ("Errors",),
        ),
        (judged(held_against(role="peer")), ("another --reference",)),
        (judged(held_against(against_reference(extrapolated=True))), ("--canary",)),
    ],
)
def test_who_cannot_tell_is_told_what_to_add(record: AuditRecord, words: tuple[str, ...]):
    assert record.gate.decision is Decision.INCONCLUSIVE
    told = " ".join(advice(record)[1:])
    assert [word for word in words if word not in told] == []


def test_the_advice_is_about_lines_that_a_policy_has():
    known = set()
    for record in (few_images(), failing(), judged(held_against(against_reference()))):
        known |= {check.key for check in record.gate.checks}
    rare = {"audit.errors", "audit.architecture", "audit.folder", "audit.budget"}
    rare |= {"backdoor.canary", "backdoor.max_change_concentration"}
    assert ADD.keys() - known <= rare


def test_a_record_about_another_file_says_nothing_of_the_one_that_was_given():
    for record in (unjudged(), failing()):
        gate = judge(load_policy("default"), record, files=["12" * 32])
        told = " ".join(advice(record.model_copy(update={"gate": gate})))
        assert ("5f" * 32 in told, "Do not release this checkpoint" in told) == (True, False)
        assert list(verified_notes(record.model_copy(update={"gate": gate}))) == []


def test_time_that_ran_out_is_no_error_to_mend():
    spent = ErrorRecord(stage="detect", message="x", exit_code=3, out_of_time=True)
    record = with_changes(errors=(spent,))
    assert "errors" not in {part.key for part in sections(record)}
    assert "search" in record.gate.reasons[0]


def test_an_old_gate_with_unknown_lines_still_says_what_to_do():
    check = Check(key="x", limit="1", value="2", result=Decision.INCONCLUSIVE, reason="x is 2")
    record = judged(unjudged())
    changes = {"checks": (check,), "decision": Decision.INCONCLUSIVE, "reasons": ("x is 2",)}
    gate = record.gate.model_copy(update={**changes, "exit_code": 3})
    assert len(advice(record.model_copy(update={"gate": gate}))) == 2


def test_the_first_screen_has_date_model_accuracy_classes_and_ground():
    [facts] = [one for one in verdict_blocks(failing()) if isinstance(one, Facts)]
    told = {fact.label: fact.text for fact in facts.rows}
    assert told["Scanned on"] == "2026-01-02 03:04 UTC"
    assert told["sha256 of the file"] == "5f" * 32
    assert told["Clean accuracy"].startswith("95.0 %")
    assert told["Class names"].startswith("100")
    assert told["Held against"].startswith("base.pt")


def column(record: AuditRecord, key: str, name: str) -> list[str]:
    [part] = [part for part in sections(record) if part.key == key]
    table = next(one for one in part.blocks if isinstance(one, Table) and name in one.head)
    return [row[table.head.index(name)].text for row in table.rows]


def test_targets_are_ranked_by_what_triggers_do():
    rows = tuple(candidate(f"class {n}", "patch", asr) for n, asr in enumerate((0.1, 0.9, 0.5)))
    guilty = guilty_detector().model_copy(update={"candidates": rows})
    ranked = column(unjudged(detectors=(guilty,)), "targets", "Target class")
    assert ranked == ["class 1", "class 2", "class 0"]
    [row] = against_reference().candidates
    rows = tuple(
        row.model_copy(
            update={"target": name, "against": row.against.model_copy(update={"gap": gap})}
        )
        for name, gap in (("narrow", 0.1), ("wide", 0.8))
    )
    held = against_reference().model_copy(update={"candidates": rows})
    record = unjudged(detectors=(held,), reference=reference())
    assert column(record, "targets", "Target class") == ["wide", "narrow"]


def test_what_a_pass_is_worth_counts_what_was_found_and_not_what_was_missed():
    rows = (PowerRecord(attack="badnets", side="test", failed=rate(0.25, 12)),)
    record = unjudged(coverage=CoverageRecord(power=rows))
    [cell] = column(record, "power", "Planted backdoors")
    assert "3 of 12" in cell


def test_only_a_report_that_finds_nothing_says_that_clean_models_have_triggers_too():
    def notes(record: AuditRecord) -> list[str]:
        blocks = (one for one in triggers_blocks(record) if isinstance(one, Notes))
        return [row for block in blocks for row in block.rows]

    shown = candidate("teapot", "additive", 0.16, stem="additive-0")
    clean = clean_detector().model_copy(update={"candidates": (shown,)})
    passing = judged(unjudged(detectors=(clean,)))
    guilty = judged(unjudged(detectors=(guilty_detector(),)))
    assert HARMLESS in notes(passing)
    assert notes(guilty)
    assert HARMLESS not in notes(guilty)
    for record, loud in ((passing, False), (guilty, True)):
        shots = [s for b in triggers_blocks(record) if isinstance(b, Pictures) for s in b.rows]
        assert any(fact.loud for shot in shots for fact in shot.facts.rows) is loud
