"""Reading a policy, and what it decides about a record."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from fakes import stripes_probe
from samples import (
    OTHERS,
    candidate,
    clean_detector,
    export,
    failing,
    guilty_detector,
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
from clipguard.detect.null_band import read_null_band
from clipguard.errors import UsageError
from clipguard.policy.judge import Policy, judge, load_policy, shipped_policies
from clipguard.record import (
    CalibrationRecord,
    CoverageRecord,
    Decision,
    DetectorRecord,
    ErrorRecord,
    FamilyRecord,
    GateRecord,
    Outcome,
    Rate,
    ReinversionRecord,
)
from clipguard.resources import asset, shipped

DEFAULT = (shipped("policies") / "default.yaml").read_text(encoding="utf-8")
NO_BAND = CalibrationRecord(kind="none", reason="none fits; make one: clipguard calibrate CLEAN...")


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


def against(gate: GateRecord) -> set[str]:
    """Keys of all lines that do not pass."""
    return {check.key for check in gate.checks if check.result is not Decision.PASS}


def result_of(gate: GateRecord, key: str, about: str = "") -> Decision:
    """Result of the one line with `key` whose reason starts with `about`."""
    (found,) = (c.result for c in gate.checks if c.key == key and c.reason.startswith(about))
    return found


# reading


def test_the_shipped_policies_are_valid_and_named_after_their_file() -> None:
    assert [load_policy(name).name for name in shipped_policies()] == [
        "default",
        "research",
        "strict",
    ]


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
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
        ("max_score:", "max_scor:", r"line 12: no key of backdoor named 'max_scor', did you mean"),
        ("backdoor:", "backdor:", r"line 9: .*'backdor', did you mean 'backdoor'"),
        ("0.5 ", "1.5 ", r"line 12: backdoor.max_score: .*got 1.5"),
        ("0.5 ", "true ", r"line 12: backdoor.max_score: .*got True"),
        ("may_pass: false", "may_pass: no", r"repaired_may_pass: .*got 'no'"),
        ("0.5 ", ".nan ", r"line 12: backdoor.max_score: .*finite number"),
        ("200 ", "'200' ", r"coverage.min_measure_images: .*got '200'"),
        ("version: 2 ", "version: 3 ", r"line 6: version"),
        ("on-fail ", "sometimes ", r"purification.run"),
        ("additive, freq", "aditive, freq", r"line \d+: .*'aditive', did you mean 'additive'"),
        ("[patch, additive, frequency]", "[]", r"coverage.families"),
        ("ration: null ", "ration: 'null' ", r"backdoor.max_change_concentration: .*got 'null'"),
        ("  max_change_concentration: null", "  # ", r"missing policy key backdoor.max_change"),
        ("  alpha: 0.05 ", "  max_score: 0.05 ", r"line 14: .*duplicate key .max_score"),
        ("clear_score: 0.3 ", "clear_score: 0.6 ", r"line 13: backdoor.clear_score .*max_score"),
        ("name: default", "name: &a default", r"line 7: anchors and aliases"),
        ("name: default", "name: *a", r"line 7: anchors and aliases"),
        ("name: default", "<<: {name: x}\n#", r"keys must be plain names"),
        ("name: default", "name: !!python/name:os.system x\n#", r"line 7: tags"),
        ("version: 2", "%YAML 1.1\n---\nversion: 2", r"line 7: directives"),
        ("version: 2", "%YAML 1.99\n---\nversion: 2", r"mine.yaml: "),
        ("name: default", "name: [", r"line \d+: "),
        ("name: default", "name: \x1b", r"mine.yaml: "),
        ("name: default", "sha256: " + "0" * 64 + "\nname: x", r"no policy key named 'sha256'"),
        ("version: 2", "version: " + "9" * 5000, r"mine.yaml line 6: "),
        ("version: 2", "version: 0x" + "f" * 20_000, r"mine.yaml line 6: "),
        ("  alpha: 0.05 ", "  alpha: " + "9:" * 5000 + "9.5 ", r"mine.yaml line \d+: "),
        ("version: 2", "version: +_", r"mine.yaml: "),
        ("version: 2", "---\n---\nversion: 2", r"line 7: but found another document"),
    ],
)
def test_a_wrong_policy_is_refused_with_line_and_reason(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        changed(tmp_path, (old, new))
    assert "\n" not in str(caught.value)


def test_a_policy_of_version_1_is_told_what_to_add_and_what_to_remove(tmp_path: Path) -> None:
    new = ("strong_asr", "min_excess", "max_word_pull")
    text = DEFAULT.replace("version: 2 ", "version: 1 ").replace(
        "families:", "calibration: x\n  f:"
    )
    lines = [row for row in text.splitlines() if not row.strip().startswith(new)]
    with pytest.raises(UsageError) as caught:
        load_policy(write(tmp_path, "\n".join(lines)))
    told = str(caught.value)
    assert all(f"backdoor.{key}" in told for key in new)
    assert "control_asr" not in told, "it has that key already"
    assert "coverage.calibration" in told
    assert "\n" not in told


@pytest.mark.parametrize(
    "text",
    ["", "[]", "3", "[" * 60_000, "- " * 30_000, "a: " * 3000, "# " + "x" * 70_000, "{? [a] : 1}"],
)
def test_what_is_not_a_policy_is_a_usage_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError):
        load_policy(write(tmp_path, text))


def test_a_policy_that_is_not_there_or_not_text_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(b"\xff\xfe\x00")
    for name in (tmp_path / "mine.yaml", tmp_path / "none.yaml"):
        with pytest.raises(UsageError):
            load_policy(name)
    with pytest.raises(UsageError, match="did you mean 'default'"):
        load_policy("defualt")


def test_an_exponent_without_a_dot_is_a_number() -> None:
    assert load_policy("default").export.max_relative_error == 1e-3


# judging


def test_a_complete_clean_audit_passes() -> None:
    gate = passing().gate
    assert gate is not None
    assert (gate.decision, gate.exit_code, gate.reasons) == (Decision.PASS, 0, ())
    assert [one.outcome for one in gate.conclusions] == [Outcome.NO_EVIDENCE]


def test_a_backdoored_checkpoint_fails_even_when_it_was_purified() -> None:
    gate = failing().gate
    assert gate is not None
    assert (gate.decision, gate.exit_code) == (Decision.FAIL, errors.POLICY_VIOLATED)
    assert [one.outcome for one in gate.conclusions] == [Outcome.BACKDOORED]


def test_a_strong_trigger_fails_without_a_null_band_unless_another_class_is_near() -> None:
    bare = {"score": None, "excess": None, "p_value": None}
    found = guilty_detector().model_copy(update=bare)
    assert decide(detectors=(found,), calibration=NO_BAND).decision is Decision.FAIL
    near = candidate("violin", "patch", 0.6)
    weak = found.model_copy(update={"candidates": (*found.candidates, near)})
    alone = found.model_copy(update={"candidates": found.candidates[:2]})  # of one class only
    for unclear in (weak, alone):
        gate = decide(detectors=(unclear,), calibration=NO_BAND)
        assert gate.decision is Decision.INCONCLUSIVE


@pytest.mark.parametrize(
    "changes",
    [
        {"detectors": ()},
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
        {"calibration": NO_BAND},
        {"calibration": CalibrationRecord(kind="models", models=-1)},
        {"calibration": CalibrationRecord(kind="models", models=18)},
        {"coverage": told_untested("patch", "no time")},
        {"export": export().model_copy(update={"parity": ()})},
        {"export": export().model_copy(update={"asr_onnx": None})},
    ],
)
def test_missing_evidence_is_inconclusive(changes: dict[str, Any]) -> None:
    gate = decide(**changes)
    assert (gate.decision, gate.exit_code) == (Decision.INCONCLUSIVE, errors.INCONCLUSIVE)
    assert gate.reasons


@pytest.mark.parametrize(
    ("score", "p_value", "decision"),
    [
        (0.3, 0.05, Decision.PASS),  # readings at their limit are within it
        (0.5, 0.05, Decision.INCONCLUSIVE),
        (0.51, 0.05, Decision.FAIL),
        (0.08, 0.001, Decision.PASS),  # one known-clean model in twenty has such a p-value
    ],
)
def test_a_score_fails_only_together_with_its_p_value(
    score: float, p_value: float, decision: Decision
) -> None:
    assert decide(**with_detector(score=score, p_value=p_value)).decision is decision


def test_a_search_below_every_clean_model_was_hindered() -> None:
    rows = clean_detector().families
    hidden = rows[1].model_copy(update={"excess": -4.0})
    gate = decide(**with_detector(families=(rows[0], hidden, *rows[2:])))
    assert against(gate) == {"backdoor.min_excess"}
    assert gate.decision is Decision.INCONCLUSIVE


@pytest.mark.parametrize(
    ("excess", "settled", "decision"),
    [
        (1.0, False, Decision.INCONCLUSIVE),
        (None, False, Decision.INCONCLUSIVE),
        (0.9, False, Decision.PASS),  # no further than honest searches were at that step
        (9.0, True, Decision.PASS),
    ],
)
def test_a_search_that_is_ahead_must_have_settled(
    excess: float | None, settled: bool, decision: Decision
) -> None:
    found = candidate("teapot", "patch", 0.1).model_copy(
        update={"excess": excess, "settled": settled}
    )
    assert decide(**with_detector(candidates=(found,))).decision is decision


@pytest.mark.parametrize("rule", ["fail", "inconclusive", "pass"])
def test_the_policy_says_what_a_suspicion_decides(tmp_path: Path, rule: str) -> None:
    policy = changed(tmp_path, ("suspicious: inconclusive", f"suspicious: {rule}"))
    gate = judge(policy, unjudged(**with_detector(score=0.99)))
    assert gate.decision is Decision(rule)
    assert gate.conclusions[0].outcome is Outcome.SUSPICIOUS


@pytest.mark.parametrize(
    ("pull", "share", "outcome", "decision"),
    [
        (0.1, 0.0, Outcome.NO_EVIDENCE, Decision.PASS),  # and it needs no null band
        (3.0, 0.89, Outcome.NO_EVIDENCE, Decision.PASS),
        (2.9, 1.0, Outcome.NO_EVIDENCE, Decision.PASS),
        (3.0, 0.9, Outcome.BACKDOORED, Decision.FAIL),
        (None, 0.0, Outcome.INCONCLUSIVE, Decision.INCONCLUSIVE),
    ],
)
def test_a_word_must_draw_prompts_far_and_turn_most_of_them(
    pull: float | None, share: float, outcome: Outcome, decision: Decision
) -> None:
    word = DetectorRecord(name="text_tokens", evidence="e", statistic=pull, word_share=share)
    gate = decide(detectors=(clean_detector(), word))
    assert gate.decision is decision
    assert (gate.conclusions[1].detector, gate.conclusions[1].outcome) == ("text_tokens", outcome)


def test_a_detector_of_the_literature_is_taken_at_its_word() -> None:
    for outcome, decision in (("backdoored", Decision.FAIL), ("no_evidence", Decision.PASS)):
        other = DetectorRecord(name="other", evidence="e", published=Outcome(outcome))
        gate = decide(detectors=(clean_detector(), other))
        assert gate.decision is decision
        assert gate.conclusions[1].outcome is Outcome(outcome)


def test_a_policy_may_ask_for_the_text_tower(tmp_path: Path) -> None:
    policy = changed(tmp_path, ("families: [patch,", "families: [text, patch,"))
    made = judge(policy, unjudged())
    assert made.decision is Decision.INCONCLUSIVE
    assert [check.limit for check in made.checks if check.result is Decision.INCONCLUSIVE] == [
        "text"
    ]


@pytest.mark.parametrize(("alpha", "models"), [("0.05", 19), ("0.07", 14), ("1e-6", 999_999)])
def test_a_p_value_line_that_could_not_fail_does_not_pass(
    tmp_path: Path, alpha: str, models: int
) -> None:
    policy = changed(tmp_path, ("  alpha: 0.05 ", f"  alpha: {alpha} "))

    def gate(count: int) -> GateRecord:
        return judge(policy, unjudged(calibration=CalibrationRecord(kind="models", models=count)))

    assert gate(models).decision is Decision.PASS
    assert result_of(gate(models - 1), "backdoor.alpha") is Decision.INCONCLUSIVE
    assert str(models) in gate(models - 1).reasons[0]


@pytest.mark.parametrize("name", shipped_policies())
def test_every_shipped_null_band_is_large_enough_for_every_shipped_policy(name: str) -> None:
    limits = load_policy(name).backdoor
    bands = [read_null_band(path) for path in asset("calibration").glob("*.json")]
    assert bands
    for band in bands:
        assert 1 / (len(band.calibration.models) + 1) <= limits.alpha


def test_the_reason_without_a_null_band_names_the_command_that_makes_one() -> None:
    gate = decide(calibration=NO_BAND, **with_detector(score=None, p_value=None))
    assert "clipguard calibrate" in gate.reasons[0]


@pytest.mark.parametrize(
    "made", [export(relative_error=1e-2), export().model_copy(update={"asr_onnx": rate(0.03)})]
)
def test_an_exported_file_that_differs_is_an_export_failure(made: Any) -> None:
    gate = decide(export=made)
    assert (gate.decision, gate.exit_code) == (Decision.FAIL, errors.EXPORT)


@pytest.mark.parametrize(("code", "counted"), [(6, 6), (143, 143), (0, 5), (99, 5)])
def test_an_error_gives_the_run_its_exit_code_and_never_a_pass(code: int, counted: int) -> None:
    broke = (ErrorRecord(stage="export", message="broke", exit_code=code),)
    gate = decide(errors=broke)
    assert (gate.decision, gate.exit_code) == (Decision.INCONCLUSIVE, counted)
    hidden = decide(detectors=(guilty_detector(),), errors=broke)
    assert hidden.decision is Decision.FAIL, "an error hides no finding"


def test_a_refused_file_fails_with_its_own_code_and_its_reason_first() -> None:
    gate = refused().gate
    assert gate is not None
    assert (gate.decision, gate.exit_code) == (Decision.FAIL, errors.REFUSED)
    assert [check.key for check in gate.checks] == ["audit.refused"]
    assert len(gate.reasons) == 1


# the change from a reference


CHANGE = "backdoor.max_change_concentration"


def limited(tmp_path: Path, *changes: tuple[str, str], to: str = "0.3") -> Policy:
    """The default policy with a limit for the change from a reference."""
    return changed(tmp_path, (f"{CHANGE[9:]}: null ", f"{CHANGE[9:]}: {to} "), *changes)


def beside(concentration: float | None, **known: Any) -> dict[str, Any]:
    return {"reference": reference(concentration, **known)}


def test_without_a_limit_the_change_decides_nothing_and_has_no_line() -> None:
    gate = decide(**beside(0.999))
    assert gate.decision is Decision.PASS
    assert not [check for check in gate.checks if check.key == CHANGE]


@pytest.mark.parametrize(
    ("concentration", "decision"), [(0.3, Decision.PASS), (0.3001, Decision.INCONCLUSIVE)]
)
def test_a_change_in_few_directions_is_suspicious_above_the_limit(
    tmp_path: Path, concentration: float, decision: Decision
) -> None:
    gate = judge(limited(tmp_path), unjudged(**beside(concentration)))
    assert gate.decision is result_of(gate, CHANGE) is decision


@pytest.mark.parametrize("rule", ["fail", "inconclusive", "pass"])
def test_the_policy_says_what_a_suspicious_change_decides(tmp_path: Path, rule: str) -> None:
    policy = limited(tmp_path, ("suspicious: inconclusive", f"suspicious: {rule}"))
    assert judge(policy, unjudged(**beside(0.5))).decision is Decision(rule)
    found = unjudged(detectors=(guilty_detector(),), **beside(0.2))
    assert judge(policy, found).decision is Decision.FAIL, "a quiet change makes nothing milder"


def test_a_limit_without_a_reference_cannot_tell_and_says_what_to_do(tmp_path: Path) -> None:
    gate = judge(limited(tmp_path), unjudged())
    assert gate.decision is Decision.INCONCLUSIVE
    assert "--reference" in gate.reasons[0]


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
    assert judge(limited(tmp_path), unjudged(**beside(None, **known))).decision is decision


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
    made_good = {check.key for check in gate.checks if not check.counts}
    assert made_good == against(gate) == {"backdoor.max_score", "backdoor.strong_asr"}


NONE_OF_20 = Rate(value=0.0, low=0.0, high=0.16, n=20)
PATCH, ADDITIVE = purification().reinversion[:2]
KEY = "purification.reinversion"


def worse(**changes: Any) -> dict[str, Any]:
    made = purification()
    return {
        "purification": made.model_copy(update={"after": made.after.model_copy(update=changes)})
    }


def searched_again(*rows: ReinversionRecord) -> dict[str, Any]:
    """The families of `rows`, and those that no test here is about."""
    rows = (*rows, *OTHERS)
    return {"purification": purification().model_copy(update={"reinversion": rows})}


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
        searched_again(PATCH),  # another family was searched before
        searched_again(PATCH.model_copy(update={"statistic": 0.15}), ADDITIVE),
        searched_again(PATCH, ADDITIVE, PATCH.model_copy(update={"family": "moving_patch"})),
        {"export": export("zero-shot")},
    ],
)
def test_a_purified_head_that_misses_a_limit_does_not_pass(
    lenient: Policy, changes: dict[str, Any]
) -> None:
    gate = judge(lenient, backdoored(**changes))
    assert (gate.decision, gate.exit_code) == (Decision.FAIL, errors.POLICY_VIOLATED)


def test_what_was_never_read_rightly_is_not_held_against_the_head(lenient: Policy) -> None:
    made = purification()
    before = made.before.model_copy(update={"target_accuracy": NONE_OF_20})
    after = made.after.model_copy(update={"target_accuracy": NONE_OF_20})
    never = made.model_copy(update={"before": before, "after": after})
    assert judge(lenient, backdoored(purification=never)).decision is Decision.PASS


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
    assert result_of(gate, KEY, "patch") is result


@pytest.mark.parametrize("statistics", [(0.16, 0.16), (0.19, 0.9)])
def test_a_new_trigger_as_strong_as_the_old_or_above_every_clean_model_fails(
    lenient: Policy, statistics: tuple[float, float]
) -> None:
    gate = judge(lenient, backdoored(**searched_again(PATCH, reinversion("additive", *statistics))))
    assert result_of(gate, KEY, "additive") is Decision.FAIL


def test_a_new_trigger_is_not_held_against_one_for_another_class(lenient: Policy) -> None:
    detector = guilty_detector()
    other = detector.candidates[1].model_copy(update={"target": "violin"})
    candidates = (detector.candidates[0], other, *detector.candidates[2:])
    record = backdoored(**searched_again(PATCH, reinversion("additive", 0.17, 0.16)))
    detector = detector.model_copy(update={"candidates": candidates})
    gate = judge(lenient, record.model_copy(update={"detectors": (detector,)}))
    assert gate.decision is result_of(gate, KEY, "additive") is Decision.PASS


def test_a_head_tuned_for_one_target_does_not_excuse_a_second(lenient: Policy) -> None:
    record = backdoored()
    detector = record.detectors[0]
    second = detector.candidates[0].model_copy(update={"target": "another class"})
    both = detector.model_copy(update={"candidates": (*detector.candidates, second)})
    gate = judge(lenient, record.model_copy(update={"detectors": (both,)}))
    assert gate.decision is result_of(gate, "purification.every_target") is Decision.FAIL


def test_a_purified_head_does_not_stand_in_for_missing_coverage(lenient: Policy) -> None:
    assert judge(lenient, backdoored(calibration=NO_BAND)).decision is Decision.INCONCLUSIVE


def test_purification_limits_do_not_count_where_nothing_relied_on_them() -> None:
    gate = decide(**worse(asr=rate(0.9)))
    assert result_of(gate, "purification.max_asr") is Decision.FAIL
    assert gate.decision is Decision.PASS


def test_a_policy_that_always_purifies_misses_a_head_that_is_not_there() -> None:
    gate = judge(load_policy("research"), unjudged())
    assert gate.decision is result_of(gate, "purification.run") is Decision.INCONCLUSIVE


def test_judging_twice_says_the_same_and_ignores_an_older_gate() -> None:
    first = failing()
    assert judged(first).gate == first.gate
    assert judge(load_policy("default"), first.model_copy(update={"gate": None})) == first.gate
