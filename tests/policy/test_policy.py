import itertools
from pathlib import Path
from typing import Any

import pytest
from fakes import stripes_probe
from samples import (
    clean_detector,
    export,
    failing,
    guilty_detector,
    inconclusive,
    judged,
    passing,
    purification,
    rate,
    reference,
    refused,
    reinversion,
    unjudged,
)

from clipguard import errors
from clipguard.audit.coverage import coverage
from clipguard.detect.null_band import read_calibration
from clipguard.errors import UsageError
from clipguard.policy.judge import Policy, judge, load_policy, shipped_policies
from clipguard.record import (
    CalibrationRecord,
    CoverageRecord,
    Decision,
    DetectorRecord,
    ErrorRecord,
    ExportRecord,
    FamilyRecord,
    GateRecord,
    Outcome,
    Rate,
    ReinversionRecord,
)
from clipguard.resources import asset, shipped

DEFAULT = (shipped("policies") / "default.yaml").read_text(encoding="utf-8")


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def changed(tmp_path: Path, *changes: tuple[str, str]) -> Policy:
    """The default policy with some of its text replaced."""
    text = DEFAULT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return load_policy(write(tmp_path, text))


def decide(**changes: Any) -> GateRecord:
    return judge(load_policy("default"), unjudged(**changes))


def with_detector(**changes: Any) -> dict[str, Any]:
    return {"detectors": (clean_detector().model_copy(update=changes),)}


def told_untested(family: str, why: str) -> CoverageRecord:
    """The coverage of an audit that did not test `family`."""
    rows = (FamilyRecord(family=family, tested=False, reason=why),)
    return coverage(clean_detector().model_copy(update={"families": rows}), stripes_probe())


def result_of(gate: GateRecord, key: str) -> Decision:
    return next(check.result for check in gate.checks if check.key == key)


# reading


@pytest.mark.parametrize("name", shipped_policies())
def test_shipped_policies_are_valid_and_named_after_their_file(name: str) -> None:
    assert load_policy(name).name == name


def test_there_are_three_policies() -> None:
    assert shipped_policies() == ["default", "research", "strict"]


@pytest.mark.parametrize("name", shipped_policies())
def test_every_key_of_a_shipped_policy_is_explained(name: str) -> None:
    for line in (shipped("policies") / f"{name}.yaml").read_text(encoding="utf-8").splitlines():
        assert not line.strip() or "#" in line or line.endswith(":"), line


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    import hashlib

    path = write(tmp_path, DEFAULT)
    assert load_policy(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_strict_policy_is_nowhere_laxer_than_the_default() -> None:
    strict, default = load_policy("strict"), load_policy("default")
    assert strict.backdoor.max_score <= default.backdoor.max_score
    assert strict.backdoor.clear_score <= default.backdoor.clear_score
    assert strict.coverage.min_measure_images >= default.coverage.min_measure_images
    assert strict.purification.max_asr <= default.purification.max_asr
    assert set(default.coverage.families) <= set(strict.coverage.families)
    assert default.backdoor.max_change_concentration is None
    assert strict.backdoor.max_change_concentration is not None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_score:", "max_scor:", r"line 11: no key of backdoor named 'max_scor', did you mean"),
        (
            "backdoor:",
            "backdor:",
            r"line 8: no policy key named 'backdor', did you mean 'backdoor'",
        ),
        ("0.5 ", "1.5 ", r"line 11: backdoor.max_score: .*less than or equal to 1, got 1.5"),
        ("0.5 ", "true ", r"line 11: backdoor.max_score: .*valid number, got True"),
        ("may_pass: false", "may_pass: no", r"purified_head_may_pass: .*valid boolean, got 'no'"),
        ("0.5 ", ".nan ", r"line 11: backdoor.max_score: .*finite number"),
        ("200 ", "'200' ", r"coverage.min_measure_images: .*valid integer, got '200'"),
        ("version: 1 ", "version: 2 ", r"line 5: version"),
        ("on-fail ", "sometimes ", r"purification.run"),
        ("additive, freq", "aditive, freq", r"line 21: .*'aditive', did you mean 'additive'"),
        ("[patch, additive, frequency, warp]", "[]", r"coverage.families"),
        (
            "ration: null ",
            "ration: 1.5 ",
            r"backdoor.max_change_concentration: .*less than or equal to 1",
        ),
        (
            "ration: null ",
            "ration: 'null' ",
            r"backdoor.max_change_concentration: .*valid number, got 'null'",
        ),
        ("  max_change_concentration: null", "  # ", r"missing key backdoor.max_change_conc"),
        ("  alpha: 0.05 ", "  # alpha: 0.05 ", r"missing key backdoor.alpha"),
        ("  alpha: 0.05 ", "  max_score: 0.05 ", r"line 13: .*duplicate key .max_score"),
        ("name: default", "name: &a default", r"line 6: anchors and aliases"),
        ("name: default", "name: *a", r"line 6: anchors and aliases"),
        ("name: default", "<<: {name: x}\n#", r"keys must be plain names"),
        ("name: default", "name: !!python/name:os.system x\n#", r"line 6: tags"),
        ("version: 1", "%YAML 1.1\n---\nversion: 1", r"line 6: directives"),
        ("version: 1", "%YAML 1.99\n---\nversion: 1", r"mine.yaml: "),
        ("name: default", "name: [", r"line \d+: "),
        ("name: default", "name: \x1b", r"mine.yaml: "),
        ("name: default", "sha256: " + "0" * 64 + "\nname: x", r"no policy key named 'sha256'"),
        ("version: 1", "version: " + "9" * 5000, r"mine.yaml"),
        ("version: 1", "version: 0x" + "f" * 20_000, r"mine.yaml line 5: "),
        ("  alpha: 0.05 ", "  alpha: " + "9:" * 5000 + "9.5 ", r"mine.yaml line \d+: "),
        ("version: 1", "version: 0x" + "f" * 20_000, r"line 5: "),
        ("version: 1", "version: +_", r"mine.yaml: "),
        ("version: 1", "---\n---\nversion: 1", r"line 6: but found another document"),
    ],
)
def test_a_wrong_policy_is_refused_with_line_and_reason(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        changed(tmp_path, (old, new))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "[" * 60_000, "- " * 30_000, "a: " * 3000, "# " + "x" * 70_000, "{? [a] : 1}"],
)
def test_what_is_not_a_policy_is_a_usage_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError):
        load_policy(write(tmp_path, text))


def test_a_policy_that_is_not_text_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="UTF-8"):
        load_policy(tmp_path / "mine.yaml")


def test_a_misspelt_policy_name_gets_a_suggestion() -> None:
    with pytest.raises(UsageError, match="did you mean 'default'"):
        load_policy("defualt")


def test_a_missing_policy_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found none"):
        load_policy(tmp_path / "none.yaml")


def test_an_exponent_without_a_dot_is_a_number(tmp_path: Path) -> None:
    assert load_policy("default").export.max_relative_error == 1e-3


# judging


def test_a_complete_clean_audit_passes() -> None:
    gate = passing().gate
    assert gate is not None
    assert (gate.decision, gate.exit_code) == (Decision.PASS, 0)
    assert gate.reasons == ()


def test_a_backdoored_checkpoint_fails_even_when_it_was_purified() -> None:
    gate = failing().gate
    assert gate is not None
    assert (gate.decision, gate.exit_code) == (Decision.FAIL, errors.POLICY_VIOLATED)
    assert "hot air balloon" in gate.reasons[0]


def test_a_backdoored_outcome_fails_without_calibration() -> None:
    found = guilty_detector().model_copy(update={"score": None, "excess": None, "p_value": None})
    gate = decide(detectors=(found,), calibration=CalibrationRecord(kind="none"))
    assert gate.decision is Decision.FAIL
    assert gate.exit_code == errors.POLICY_VIOLATED


@pytest.mark.parametrize(
    "changes",
    [
        {"detectors": ()},
        with_detector(outcome=Outcome.INCONCLUSIVE),
        with_detector(outcome=Outcome.SUSPICIOUS),
        with_detector(score=0.99),
        with_detector(score=0.31),
        with_detector(score=None),
        with_detector(p_value=None),
        with_detector(families=()),
        with_detector(families=clean_detector().families[:1]),
        with_detector(families=(FamilyRecord(family="patch", tested=False),)),
        {"settings": {"profile": "hasty"}},
        {"settings": {"profile": 3}},
        {"settings": {}},
        {"probe": None},
        {"checkpoint": None},
        {"complete": False},
        {"calibration": CalibrationRecord(kind="none")},
        {"calibration": CalibrationRecord(kind="models", models=0)},
        {"calibration": CalibrationRecord(kind="models", models=-1)},
        {"calibration": CalibrationRecord(kind="models", models=18)},
        {"coverage": told_untested("patch", "no time")},
        {"export": ExportRecord(**{**export().model_dump(), "parity": ()})},
        {"export": ExportRecord(**{**export().model_dump(), "asr_onnx": None})},
    ],
)
def test_missing_evidence_is_inconclusive(changes: dict[str, Any]) -> None:
    gate = decide(**changes)
    assert (gate.decision, gate.exit_code) == (Decision.INCONCLUSIVE, errors.INCONCLUSIVE)
    assert gate.reasons


def test_too_few_measure_images_are_inconclusive() -> None:
    probe = unjudged().probe
    assert probe is not None
    assert decide(probe=probe.model_copy(update={"measure": 199})).decision is Decision.INCONCLUSIVE
    assert decide(probe=probe.model_copy(update={"measure": 200})).decision is Decision.PASS


def test_a_high_score_that_the_p_value_bears_out_fails() -> None:
    gate = decide(**with_detector(score=0.51, p_value=0.05))
    assert (gate.decision, gate.exit_code) == (Decision.FAIL, errors.POLICY_VIOLATED)


def test_readings_at_their_limit_are_within_it() -> None:
    assert decide(**with_detector(score=0.3, p_value=0.05)).decision is Decision.PASS
    assert decide(**with_detector(score=0.5, p_value=0.05)).decision is Decision.INCONCLUSIVE


def test_a_p_value_alone_decides_nothing() -> None:
    """One known-clean model in twenty has such a one."""
    assert decide(**with_detector(p_value=0.001)).decision is Decision.PASS


def test_a_clear_score_above_the_upper_limit_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"line 12: backdoor.clear_score is 0.6, above max_score"):
        changed(tmp_path, ("clear_score: 0.3 ", "clear_score: 0.6 "))


@pytest.mark.parametrize("rule", ["fail", "inconclusive", "pass"])
@pytest.mark.parametrize(
    "changes", [with_detector(outcome=Outcome.SUSPICIOUS), with_detector(score=0.99)]
)
def test_the_policy_says_what_a_suspicion_decides(
    tmp_path: Path, rule: str, changes: dict[str, Any]
) -> None:
    policy = changed(tmp_path, ("suspicious: inconclusive", f"suspicious: {rule}"))
    assert judge(policy, unjudged(**changes)).decision is Decision(rule)


def test_words_found_in_prompts_fail_and_a_quiet_text_tower_needs_no_null_band() -> None:
    quiet = DetectorRecord(
        name="text_tokens",
        outcome=Outcome.NO_EVIDENCE,
        reason="why",
        own_null=True,
        families=(FamilyRecord(family="text", tested=True, statistic=0.1),),
    )
    heard = quiet.model_copy(update={"outcome": Outcome.BACKDOORED, "target": "bus"})
    policy, images = load_policy("default"), unjudged().detectors
    assert judge(policy, unjudged(detectors=(*images, quiet))).decision is Decision.PASS
    assert judge(policy, unjudged(detectors=(*images, heard))).decision is Decision.FAIL


def test_a_policy_may_ask_for_the_text_tower(tmp_path: Path) -> None:
    policy = changed(tmp_path, ("families: [patch,", "families: [text, patch,"))
    made = judge(policy, unjudged())
    assert made.decision is Decision.INCONCLUSIVE
    assert [check.limit for check in made.checks if check.result is Decision.INCONCLUSIVE] == [
        "text"
    ]


@pytest.mark.parametrize(
    ("outcome", "decision"),
    [(Outcome.INCONCLUSIVE, Decision.INCONCLUSIVE), (Outcome.BACKDOORED, Decision.FAIL)],
)
def test_a_policy_may_do_without_a_null_band_and_the_outcome_still_decides(
    tmp_path: Path, outcome: Outcome, decision: Decision
) -> None:
    policy = changed(tmp_path, ("calibration: models", "calibration: none"))
    bare = with_detector(outcome=outcome, score=None, excess=None, p_value=None)
    gate = judge(policy, unjudged(calibration=CalibrationRecord(kind="none"), **bare))
    assert gate.decision is decision
    against = {check.key for check in gate.checks if check.result is not Decision.PASS}
    assert against == {"backdoor.outcome"}


@pytest.mark.parametrize(
    ("alpha", "models"), [("0.05", 19), ("0.01", 99), ("0.07", 14), ("1e-6", 999_999)]
)
def test_a_p_value_line_that_could_not_fail_does_not_pass(
    tmp_path: Path, alpha: str, models: int
) -> None:
    policy = changed(tmp_path, ("  alpha: 0.05 ", f"  alpha: {alpha} "))

    def gate(count: int) -> GateRecord:
        return judge(policy, unjudged(calibration=CalibrationRecord(kind="models", models=count)))

    assert gate(models).decision is Decision.PASS
    for fewer in (models - 1, 5):
        assert result_of(gate(fewer), "backdoor.alpha") is Decision.INCONCLUSIVE
        assert f"takes a null band of {models} or more" in gate(fewer).reasons[0]


@pytest.mark.parametrize("name", shipped_policies())
def test_every_shipped_null_band_is_large_enough_for_every_shipped_policy(name: str) -> None:
    limits = load_policy(name).backdoor
    bands = [read_calibration(path) for path in asset("calibration").glob("*.json")]
    assert bands
    for band in bands:
        assert 1 / (len(band.calibration.models) + 1) <= limits.alpha


def test_a_family_that_was_not_tested_gives_its_reason_once() -> None:
    rows = (FamilyRecord(family="patch", tested=False, reason="no time"),)
    both = (*rows, *clean_detector().families[1:])
    gate = decide(coverage=told_untested("patch", "no time"), **with_detector(families=both))
    assert gate.reasons == ("patch triggers were not tested: no time",)


def test_the_reason_names_the_calibrate_command_first() -> None:
    gate = inconclusive().gate
    assert gate is not None
    assert "clipguard calibrate" in gate.reasons[0]


def test_parity_that_is_not_met_is_an_export_failure() -> None:
    gate = decide(export=export(relative_error=1e-2))
    assert (gate.decision, gate.exit_code) == (Decision.FAIL, errors.EXPORT)


def test_an_asr_that_differs_on_the_exported_file_is_an_export_failure() -> None:
    gate = decide(export=export().model_copy(update={"asr_onnx": rate(0.03)}))
    assert (gate.decision, gate.exit_code) == (Decision.FAIL, errors.EXPORT)


@pytest.mark.parametrize("code", [2, 5, 6, 7, 130, 143])
def test_an_error_gives_the_run_its_exit_code_and_never_a_pass(code: int) -> None:
    gate = decide(errors=(ErrorRecord(stage="export", message="broke", exit_code=code),))
    assert (gate.decision, gate.exit_code) == (Decision.INCONCLUSIVE, code)


@pytest.mark.parametrize("code", [0, 99, -1])
def test_an_error_with_an_impossible_code_counts_as_a_tool_error(code: int) -> None:
    gate = decide(errors=(ErrorRecord(stage="export", message="broke", exit_code=code),))
    assert gate.exit_code == errors.ENVIRONMENT


def test_a_refused_file_fails_with_its_own_code_and_its_reason_first() -> None:
    gate = refused().gate
    assert gate is not None
    assert (gate.decision, gate.exit_code) == (Decision.FAIL, errors.REFUSED)
    assert gate.reasons[0].startswith("load: ")


def test_an_error_does_not_hide_a_finding() -> None:
    gate = decide(
        detectors=(guilty_detector(),),
        errors=(ErrorRecord(stage="export", message="broke", exit_code=6),),
    )
    assert gate.exit_code == errors.POLICY_VIOLATED


def test_the_exit_code_is_zero_only_on_a_pass() -> None:
    detectors = ((), (clean_detector(),), (guilty_detector(),))
    purified = (None, purification())
    exported = (None, export(), export("purified"), export(relative_error=1.0))
    failed = ((), (ErrorRecord(stage="x", message="y", exit_code=0),))
    for policy in map(load_policy, shipped_policies()):
        for d, p, e, f in itertools.product(detectors, purified, exported, failed):
            gate = judge(policy, unjudged(detectors=d, purification=p, export=e, errors=f))
            assert (gate.exit_code == 0) == (gate.decision is Decision.PASS)
            assert (gate.exit_code == errors.POLICY_VIOLATED) <= (gate.decision is Decision.FAIL)


# the change from a reference


CHANGE = "backdoor.max_change_concentration"


def limited(tmp_path: Path, *changes: tuple[str, str], to: str = "0.3") -> Policy:
    """The default policy with a limit for the change from a reference."""
    return changed(tmp_path, (f"{CHANGE[9:]}: null ", f"{CHANGE[9:]}: {to} "), *changes)


def beside(concentration: float | None, **known: Any) -> dict[str, Any]:
    return {"reference": reference(concentration, **known)}


@pytest.mark.parametrize("changes", [{}, beside(0.999), beside(None)])
def test_without_a_limit_the_weights_decide_nothing_and_have_no_line(
    changes: dict[str, Any],
) -> None:
    gate = decide(**changes)
    assert gate.decision is Decision.PASS
    assert not [check for check in gate.checks if check.key == CHANGE]


@pytest.mark.parametrize(
    ("concentration", "decision"),
    [
        (0.0, Decision.PASS),
        (0.3, Decision.PASS),
        (0.3001, Decision.INCONCLUSIVE),
        (1.0, Decision.INCONCLUSIVE),
    ],
)
def test_a_change_in_few_directions_is_suspicious_above_the_limit(
    tmp_path: Path, concentration: float, decision: Decision
) -> None:
    gate = judge(limited(tmp_path), unjudged(**beside(concentration)))
    assert gate.decision is result_of(gate, CHANGE) is decision


@pytest.mark.parametrize("rule", ["fail", "inconclusive", "pass"])
def test_the_policy_says_what_a_suspicious_change_decides(tmp_path: Path, rule: str) -> None:
    policy = limited(tmp_path, ("suspicious: inconclusive", f"suspicious: {rule}"))
    gate = judge(policy, unjudged(**beside(0.5)))
    assert gate.decision is Decision(rule)
    assert judge(policy, unjudged(**beside(0.2))).decision is Decision.PASS


def test_the_reason_shows_share_and_limit_and_says_that_it_is_a_suspicion(tmp_path: Path) -> None:
    gate = judge(limited(tmp_path), unjudged(**beside(0.3004)))
    told = (
        "30.04 % of the change from the reference lie in one direction, the policy asks for at "
        "most 30.0 %; this alone is only suspicious"
    )
    assert gate.reasons == (told,)


def test_a_limit_without_a_reference_cannot_tell_and_says_what_to_do(tmp_path: Path) -> None:
    gate = judge(limited(tmp_path), unjudged())
    assert gate.decision is Decision.INCONCLUSIVE
    assert "scan with --reference BASE" in gate.reasons[0]


@pytest.mark.parametrize(
    ("known", "decision"),
    [
        ({"changed": 0, "image_changed": 0}, Decision.INCONCLUSIVE),
        ({"changed": 9, "image_changed": 0}, Decision.PASS),
        ({"changed": 9, "image_changed": 4}, Decision.INCONCLUSIVE),
    ],
)
def test_a_change_that_cannot_be_read_passes_only_where_the_image_tower_was_left_alone(
    tmp_path: Path, known: dict[str, int], decision: Decision
) -> None:
    gate = judge(limited(tmp_path), unjudged(**beside(None, **known, says="told so")))
    assert gate.decision is decision
    (check,) = (check for check in gate.checks if check.key == CHANGE)
    assert check.reason.startswith("reference: told so")


def test_the_weights_never_make_a_decision_milder(tmp_path: Path) -> None:
    order = (Decision.PASS, Decision.INCONCLUSIVE, Decision.FAIL)
    detectors = ((), (clean_detector(),), (guilty_detector(),))
    seen = (None, *(reference(share) for share in (None, 0.0, 0.2, 0.9)))
    for rule in ("fail", "inconclusive", "pass"):
        rest = (("suspicious: inconclusive", f"suspicious: {rule}"),)
        bare, limit = changed(tmp_path, *rest), limited(tmp_path, *rest)
        for found, known in itertools.product(detectors, seen):
            record = unjudged(detectors=found, reference=known)
            without = judge(bare, record.model_copy(update={"reference": None})).decision
            assert judge(bare, record).decision is without
            assert order.index(judge(limit, record).decision) >= order.index(without)


def test_a_purified_head_does_not_make_a_suspicious_change_good(tmp_path: Path) -> None:
    lenient = limited(tmp_path, ("may_pass: false", "may_pass: true"))
    assert judge(lenient, backdoored(**beside(0.2))).decision is Decision.PASS
    gate = judge(lenient, backdoored(**beside(0.5)))
    assert gate.decision is result_of(gate, CHANGE) is Decision.INCONCLUSIVE


# purification


@pytest.fixture
def lenient(tmp_path: Path) -> Policy:
    return changed(tmp_path, ("may_pass: false", "may_pass: true"))


def backdoored(**changes: Any) -> Any:
    given = {"purification": purification(), "export": export("purified"), **changes}
    return unjudged(detectors=(guilty_detector(),), **given)


def test_a_purified_head_passes_where_the_policy_allows_it(lenient: Policy) -> None:
    gate = judge(lenient, backdoored())
    assert (gate.decision, gate.exit_code) == (Decision.PASS, 0)
    assert "image tower stays poisoned" in gate.reasons[0]
    assert any("made good by the purified head" in reason for reason in gate.reasons)


def test_a_finding_that_was_made_good_is_still_shown_as_a_fail(lenient: Policy) -> None:
    gate = judge(lenient, backdoored())
    line = next(check for check in gate.checks if check.key == "backdoor.outcome")
    assert (line.result, line.counts) == (Decision.FAIL, False)


NONE_OF_20 = Rate(value=0.0, low=0.0, high=0.16, n=20)


def worse(**changes: Any) -> dict[str, Any]:
    made = purification()
    return {
        "purification": made.model_copy(update={"after": made.after.model_copy(update=changes)})
    }


@pytest.mark.parametrize(
    "changes",
    [
        worse(asr=rate(0.04)),  # 5.9 % at the upper end
        worse(clean_accuracy=rate(0.9)),
        worse(poisoned_accuracy=rate(0.7)),
        worse(clean_accuracy=None),
        worse(poisoned_accuracy=None),
        worse(target_accuracy=None),
        worse(target_accuracy=NONE_OF_20),
        {"purification": None},
        {"purification": purification().model_copy(update={"reinversion": ()})},
        {
            "purification": purification().model_copy(
                update={
                    "reinversion": (
                        purification().reinversion[0].model_copy(update={"statistic": 0.15}),
                        *purification().reinversion[1:],
                    )
                }
            )
        },
        {
            "purification": purification().model_copy(
                update={
                    "reinversion": (
                        *purification().reinversion,  # and one without known-clean models
                        purification().reinversion[0].model_copy(update={"family": "moving_patch"}),
                    )
                }
            )
        },
        {"export": export("zero-shot")},
    ],
)
def test_a_purified_head_that_misses_a_limit_does_not_pass(
    lenient: Policy, changes: dict[str, Any]
) -> None:
    gate = judge(lenient, backdoored(**changes))
    assert (gate.decision, gate.exit_code) == (Decision.FAIL, errors.POLICY_VIOLATED)


def line_of(gate: GateRecord, key: str, about: str = "") -> tuple[Decision, str]:
    """Result and reason of the one line with `key` whose reason starts with `about`."""
    (found,) = (c for c in gate.checks if c.key == key and c.reason.startswith(about))
    return found.result, found.reason


def test_a_head_that_reads_no_image_of_the_target_rightly_fails(lenient: Policy) -> None:
    gate = judge(lenient, backdoored(**worse(target_accuracy=NONE_OF_20)))
    told = "the purified head reads none of the 20 clean images of 'hot air balloon' rightly"
    assert line_of(gate, "purification.target_class") == (Decision.FAIL, told)


def test_what_was_never_read_rightly_is_not_held_against_the_head(lenient: Policy) -> None:
    made = purification()
    before = made.before.model_copy(update={"target_accuracy": NONE_OF_20})
    after = made.after.model_copy(update={"target_accuracy": NONE_OF_20})
    never = made.model_copy(update={"before": before, "after": after})
    result, _ = line_of(judge(lenient, backdoored(purification=never)), "purification.target_class")
    assert result is Decision.PASS


@pytest.mark.parametrize("part", ["before", "after"])
def test_images_of_the_target_that_were_not_counted_cannot_tell(lenient: Policy, part: str) -> None:
    made = purification()
    rates = getattr(made, part).model_copy(update={"target_accuracy": None})
    gate = judge(lenient, backdoored(purification=made.model_copy(update={part: rates})))
    result, reason = line_of(gate, "purification.target_class")
    assert (result, "labelled images" in reason) == (Decision.INCONCLUSIVE, True)


def test_the_line_of_the_target_class_names_both_rates() -> None:
    gate = judge(load_policy("default"), backdoored())
    told = "clean accuracy of 'hot air balloon' goes from 95.0 % to 65.0 %"
    assert line_of(gate, "purification.target_class") == (Decision.PASS, told)


def searched_again(*rows: ReinversionRecord) -> dict[str, Any]:
    """The families of `rows`, and those that no test here is about."""
    rows = (*rows, *OTHERS)
    return {"purification": purification().model_copy(update={"reinversion": rows})}


PATCH, ADDITIVE, *OTHERS = purification().reinversion
KEY = "purification.reinversion"


@pytest.mark.parametrize(("kept", "missing"), [(PATCH, "additive"), (ADDITIVE, "patch")])
def test_every_family_that_was_searched_before_must_be_searched_again(
    lenient: Policy, kept: ReinversionRecord, missing: str
) -> None:
    gate = judge(lenient, backdoored(**searched_again(kept)))
    told = f"{missing}: no new trigger was searched through the purified head"
    assert line_of(gate, KEY, missing) == (Decision.INCONCLUSIVE, told)
    assert line_of(gate, KEY, kept.family)[0] is Decision.PASS
    assert gate.decision is Decision.FAIL


def test_a_family_that_was_not_tested_before_needs_no_new_search(lenient: Policy) -> None:
    detector = guilty_detector()
    patch, additive, *others = detector.families
    halved = (patch, additive.model_copy(update={"tested": False}), *others)
    detector = detector.model_copy(update={"families": halved})
    gate = judge(lenient, unjudged(detectors=(detector,), **searched_again(PATCH)))
    assert [check.result for check in gate.checks if check.key == KEY] == [Decision.PASS] * 3


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({}, Decision.PASS),
        ({"searched": False}, Decision.INCONCLUSIVE),
        ({"settled": False}, Decision.INCONCLUSIVE),
        ({"settled": False, "statistic": 0.08}, Decision.PASS),  # behind the clean models' mean
        ({"searched": False, "statistic": 0.15}, Decision.FAIL),  # what was found was found
        ({"settled": False, "statistic": 0.15}, Decision.FAIL),
    ],
)
def test_a_new_search_counts_only_where_it_says_something(
    lenient: Policy, changes: dict[str, Any], result: Decision
) -> None:
    changed_search = PATCH.model_copy(update=changes)
    gate = judge(lenient, backdoored(**searched_again(changed_search, ADDITIVE)))
    assert line_of(gate, KEY, "patch")[0] is result


def test_a_new_trigger_that_is_as_strong_as_the_one_it_replaces_fails(lenient: Policy) -> None:
    gate = judge(lenient, backdoored(**searched_again(PATCH, reinversion("additive", 0.16, 0.16))))
    told = (
        "additive: a trigger towards 'hot air balloon' works no less well than before purification"
    )
    assert line_of(gate, KEY, "additive") == (Decision.FAIL, told)


def test_a_new_trigger_is_not_held_against_one_for_another_class(lenient: Policy) -> None:
    detector = guilty_detector()
    other = detector.candidates[1].model_copy(update={"target": "violin"})
    candidates = (detector.candidates[0], other, *detector.candidates[2:])
    record = backdoored(**searched_again(PATCH, reinversion("additive", 0.17, 0.16)))
    detector = detector.model_copy(update={"candidates": candidates})
    gate = judge(lenient, record.model_copy(update={"detectors": (detector,)}))
    assert line_of(gate, KEY, "additive")[0] is Decision.PASS
    assert gate.decision is Decision.PASS


def test_a_new_trigger_above_every_clean_model_fails(lenient: Policy) -> None:
    gate = judge(lenient, backdoored(**searched_again(PATCH, reinversion("additive", 0.19, 0.9))))
    told = "additive: the strongest new trigger is above what known-clean models show"
    assert line_of(gate, KEY, "additive") == (Decision.FAIL, told)


def test_a_head_tuned_for_one_target_does_not_excuse_a_second(lenient: Policy) -> None:
    record = backdoored()
    detector = record.detectors[0]
    (band,) = (row for row in detector.families if row.family == detector.candidates[0].family)
    second = detector.candidates[0].model_copy(
        update={"target": "another class", "statistic": max(band.null) + 0.1}
    )
    both = detector.model_copy(update={"candidates": (*detector.candidates, second)})
    gate = judge(lenient, record.model_copy(update={"detectors": (both,)}))
    assert result_of(gate, "purification.every_target") is Decision.FAIL
    assert gate.decision is Decision.FAIL


def test_a_purified_head_does_not_stand_in_for_missing_coverage(lenient: Policy) -> None:
    gate = judge(lenient, backdoored(calibration=CalibrationRecord(kind="none")))
    assert gate.decision is Decision.INCONCLUSIVE


def test_purification_limits_do_not_count_where_nothing_relied_on_them() -> None:
    record = unjudged(**worse(asr=rate(0.9)))
    gate = judge(load_policy("default"), record)
    assert result_of(gate, "purification.max_asr") is Decision.FAIL
    assert gate.decision is Decision.PASS


def test_a_policy_that_always_purifies_misses_a_head_that_is_not_there() -> None:
    gate = judge(load_policy("research"), unjudged())
    assert result_of(gate, "purification.run") is Decision.INCONCLUSIVE
    assert gate.decision is Decision.INCONCLUSIVE


def test_judging_twice_says_the_same_and_ignores_an_older_gate() -> None:
    first = failing()
    assert judged(first).gate == first.gate
    assert judge(load_policy("default"), first.model_copy(update={"gate": None})) == first.gate
