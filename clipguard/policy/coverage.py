"""Gate lines about the audit itself: did it end, did it look at enough. No torch here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from clipguard import errors
from clipguard.policy.document import Policy
from clipguard.policy.line import FAIL, INCONCLUSIVE, PASS, Line, line
from clipguard.record import (
    AuditRecord,
    CheckpointRecord,
    Decision,
    ErrorRecord,
    ReferenceRecord,
    RefusedRecord,
)
from clipguard.record.wording import (
    TOLD,
    model_digest,
    number,
    percent,
    percent_beside,
    tower_digest,
    triggers_of,
)

STAGES = {
    "load": "reading the file",
    "detect": "the search for triggers",
    "text": "the search for words",
    "purify": "the repair",
    "second scan": "the search through the repair",
    "export": "the export",
}
"""Stages as a person calls them."""
PROFILES = ("fast", "standard", "thorough")


def refused_checks(refused: RefusedRecord, record: AuditRecord) -> list[Line]:
    """That a file was refused, and what else went wrong; no other line says more."""
    made = line("audit.refused", "not refused", refused.rule or "refused", FAIL, refused.says)
    return [Line(made.check, errors.REFUSED), *(_error_line(error) for error in record.errors)]


def file_checks(
    files: Collection[str], record: AuditRecord, *, repaired: bool = False
) -> list[Line]:
    """That a record is about a file that lies here; no line where none was given.

    Args:
        files: sha256 digests of the files that were given with the record.
        record: it names the model, and the file that was exported and kept.
        repaired: whether a pass is about the repair alone, and so about the files that carry it.
    """
    if not files:
        return []
    known = tower_digest(record) if repaired else model_digest(record)
    made = record.export.sha256 if record.export and record.export.kept else None
    good = bool({known, made} & set(files))
    reason = (
        "the record is about the file that was given"
        if good
        else "the record is about another file than the one that was given; scan that one"
    )
    shown = "the same" if good else "another"
    return [line("audit.model", "the same file", shown, PASS if good else FAIL, reason)]


def run_checks(record: AuditRecord) -> list[Line]:
    """Whether the audit came to its end, and what went wrong on the way."""
    lines = [_error_line(error) for error in record.errors]
    done, known = record.complete, record.checkpoint is not None
    lines.append(
        line(
            "audit.complete",
            "yes",
            "yes" if done else "no",
            PASS if done else INCONCLUSIVE,
            "every stage ran" if done else "the audit was cut short",
        )
    )
    lines.append(
        line(
            "audit.checkpoint",
            "identified",
            "identified" if known else "not identified",
            PASS if known else INCONCLUSIVE,
            "the file was read and hashed" if known else "no checkpoint was identified",
        )
    )
    return [*lines, *_architecture_lines(record.checkpoint), *_folder_lines(record.checkpoint)]


def _architecture_lines(known: CheckpointRecord | None) -> list[Line]:
    """Whether the model that was searched is the one that will be run; none if shapes tell it."""
    choice = known.architecture_choice if known else None
    if known is None or choice is None or not choice.rivals:
        return []
    assumed = choice.by == "default"
    reason = f"read as {known.architecture}, {TOLD[choice.by]}"
    if assumed:
        reason = (
            f"that it is {known.architecture} is an assumption, since {', '.join(choice.rivals)} "
            "has the same shapes and computes differently; say with --arch which it is"
        )
    doubted = choice.reads_worse and choice.by != "--arch"
    if doubted:
        reason = (
            f"{reason}, but {', '.join(choice.rivals)} with the same shapes reads clearly more "
            "images rightly; say with --arch which it is"
        )
    result = INCONCLUSIVE if assumed or doubted else PASS
    value = "assumed" if assumed else "doubted" if doubted else "known"
    return [line("audit.architecture", "known", value, result, reason)]


def _folder_lines(known: CheckpointRecord | None) -> list[Line]:
    """Whether all models in a folder are the one that was searched; none if there is one only."""
    if known is None or not known.others:
        return []
    key, limit = "audit.folder", "one model"
    other = [one for one in known.others if not one.equal]
    if not other:
        same = "; ".join(f"{one.name} {one.says}" for one in known.others)
        return [line(key, limit, limit, PASS, f"of the other files here, {same}")]
    told = "; ".join(f"{one.name} {one.says}" for one in other)
    reason = (
        f"other libraries may load another file of this folder than the one that was read: {told}; "
        "scan each file by its own path, or keep one in the folder"
    )
    return [line(key, limit, f"{1 + len(other)} models", INCONCLUSIVE, reason)]


def _error_line(error: ErrorRecord) -> Line:
    code = error.exit_code
    if code not in errors.SEVERITY or code == errors.PASS:  # an error never looks like a pass
        code = errors.ENVIRONMENT
    result = FAIL if code in {errors.REFUSED, errors.POLICY_VIOLATED} else INCONCLUSIVE
    if error.out_of_time and result is not FAIL:
        during = STAGES.get(error.stage, f"the stage {error.stage}")
        reason = f"time ran out in {during} ({error.message}); give a larger --budget, or none"
        return Line(line("audit.budget", "enough", "spent", INCONCLUSIVE, reason).check, code)
    reason = f"{error.stage}: {error.message}"
    return Line(line("audit.errors", "none", error.stage, result, reason).check, code)


def reference_checks(policy: Policy, record: AuditRecord) -> list[Line]:
    """The change from a reference, where the policy limits it: a suspicion at most."""
    limit = policy.backdoor.max_change_concentration
    if limit is None:
        return []
    known = record.reference
    result, reason = _change(limit, Decision(policy.backdoor.suspicious), known)
    found = number(known.concentration if known else None)
    return [line("backdoor.max_change_concentration", f"≤ {limit:g}", found, result, reason)]


def _change(
    limit: float, suspicious: Decision, known: ReferenceRecord | None
) -> tuple[Decision, str]:
    """What the change from the reference decides, and why."""
    if known is None:
        reason = "how the weights changed was not looked at: scan with --reference BASE, the "
        return INCONCLUSIVE, f"{reason}checkpoint it comes from, or set the limit to null"
    told = f"reference: {known.says}"
    if not known.changed:
        return INCONCLUSIVE, f"{told}; give the checkpoint it comes from"
    if not known.image_changed:
        return PASS, told
    found = known.concentration
    if found is None:
        return INCONCLUSIVE, told
    if found <= limit:
        return PASS, "the change from the reference is within the limit, which proves nothing"
    alone = "" if suspicious is FAIL else "; this alone is only suspicious"
    reason = (
        f"{percent_beside(found, limit)} of the change from the reference lie in one direction, "
        f"the policy asks for at most {percent(limit)}{alone}"
    )
    return suspicious, reason


def coverage_checks(policy: Policy, record: AuditRecord) -> list[Line]:
    """Whether enough was looked at for a pass to mean anything."""
    wanted = policy.coverage
    return [
        *(_family_line(family, record) for family in wanted.families),
        _images_line(wanted.min_measure_images, record),
        _accuracy_line(wanted.min_clean_accuracy, record),
        _profile_line(wanted.min_profile, record.settings.get("profile")),
        *([] if wanted.min_power is None else [_power_line(wanted.min_power, record)]),
    ]


def _family_line(family: str, record: AuditRecord) -> Line:
    rows = [f for d in record.detectors for f in d.families if f.family == family]
    what = triggers_of(family)
    denied = [u.why for u in record.coverage.not_tested if u.what == what]
    told = [*denied, *(row.reason for row in rows if not row.tested and row.reason)]
    if any(row.tested for row in rows) and not denied:
        result, value, reason = PASS, "tested", f"{what} were searched to the end"
    else:
        result, value = INCONCLUSIVE, "not tested"
        why = "; ".join(dict.fromkeys(told))  # coverage repeats what the detector said
        reason = f"{what} were not tested: {why or 'no search for them'}"
    made = line("coverage.families", family, value, result, reason)
    return replace(made, check=made.check.model_copy(update={"target": family}))


def _images_line(least: int, record: AuditRecord) -> Line:
    counted = [one.measured for one in record.detectors if one.measured is not None]
    found = min([record.probe.measure if record.probe else 0, *counted])
    result = PASS if found >= least else INCONCLUSIVE
    reason = f"the rates rest on {found} images at least, the policy asks for {least}"
    return line("coverage.min_measure_images", f"≥ {least}", str(found), result, reason)


def _accuracy_line(least: float, record: AuditRecord) -> Line:
    key, limit = "coverage.min_clean_accuracy", f"≥ {percent(least)}"
    found = record.probe.clean_accuracy if record.probe else None
    if found is None:
        result = INCONCLUSIVE if least else PASS
        reason = "the true classes of the images are not known; give --probe-data FOLDER"
        return line(key, limit, "not measured", result, reason)
    result = PASS if found.value >= least else INCONCLUSIVE
    reason = (
        f"{percent_beside(found.value, least)} of the clean images are read as their true class"
    )
    told = "" if result is PASS else "; give the class list and images that the model is for"
    return line(key, limit, percent_beside(found.value, least), result, reason + told)


def _power_line(least: float, record: AuditRecord) -> Line:
    """Of models that the limits were set on the figures flatter, so others go first."""
    key, limit, power = "coverage.min_power", f"≥ {percent(least)}", record.coverage.power
    rows = [row.failed for row in power if row.side == "test"] or [row.failed for row in power]
    if not rows:
        reason = "how many planted backdoors such a scan fails was not measured for this model"
        return line(key, limit, "not measured", INCONCLUSIVE, reason)
    planted = sum(row.n for row in rows)
    share = sum(round(row.value * row.n) for row in rows) / planted
    shown = percent_beside(share, least)
    reason = f"such a scan fails {shown} of {planted} models of the lab with a planted backdoor"
    return line(key, limit, shown, PASS if share >= least else INCONCLUSIVE, reason)


def _profile_line(least: str, found: object) -> Line:
    rank = PROFILES.index(found) if isinstance(found, str) and found in PROFILES else -1
    name = PROFILES[rank] if rank >= 0 else "unknown"
    result, reason = PASS, f"the {name} profile is thorough enough"
    if rank < PROFILES.index(least):
        result, reason = INCONCLUSIVE, f"the {name} profile is below {least}"
    return line("coverage.min_profile", f"≥ {least}", name, result, reason)
