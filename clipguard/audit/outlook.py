"""Whether a scan could pass at all, before it: the policy decides about one that found nothing.

So nothing here says what a policy asks for; it is asked itself.
"""

from __future__ import annotations

from pathlib import Path

from clipguard.audit.command import how_to_calibrate, how_to_compare
from clipguard.audit.coverage import coverage, coverage_with_text
from clipguard.audit.options import Options
from clipguard.audit.pipeline import NO_BAND, Suspect, judged, key_of
from clipguard.audit.profiles import Profile
from clipguard.audit.watch import Watch
from clipguard.detect.inversion import TriggerInversion
from clipguard.detect.lineage import CLOSE
from clipguard.detect.null_band import choose_band, scan_key
from clipguard.detect.power import power_of
from clipguard.detect.score import curve_of
from clipguard.record import (
    Against,
    ApartRecord,
    AuditRecord,
    CanaryRecord,
    Candidate,
    Check,
    Decision,
    DetectorRecord,
    FamilyRecord,
    Rate,
    TriggerRecord,
)
from clipguard.record.wording import TEXT
from clipguard.registry import name_of

FOUND_NOTHING = "nothing was found"
LATER = ("purification.", "export.", "audit.architecture")
"""Lines of the policy about what only a scan can tell: what follows its decision, and which of
several architectures reads the images better."""


def unremarkable(
    record: AuditRecord, suspect: Suspect, options: Options, settings: Profile, watch: Watch
) -> AuditRecord:
    """The record of a scan that finds nothing at all, with the policy's decision about it.

    Args:
        record: with what was loaded.
        suspect: the same.
        options: of the scan.
        settings: its profile.
        watch: its times.
    """
    made = (_pair if suspect.reference else _alone)(record, suspect, options, settings)
    words = DetectorRecord(
        name="text_tokens",
        evidence=FOUND_NOTHING,
        statistic=0.0,
        families=(FamilyRecord(family=TEXT, tested=True),),
        word_share=0.0,
    )
    seen = coverage_with_text(made.coverage, "")
    made = made.model_copy(update={"detectors": (*made.detectors, words), "coverage": seen})
    return judged(made, options, watch)


def missing(record: AuditRecord) -> tuple[Check, ...]:
    """What stands between a scan that finds nothing and a pass; nothing if it would pass.

    Args:
        record: made by `unremarkable`.
    """
    checks = record.gate.checks if record.gate else ()
    return tuple(
        check
        for check in checks
        if check.counts and check.result is not Decision.PASS and not check.key.startswith(LATER)
    )


def ground(record: AuditRecord) -> str:
    """What a pass would rest on: base, peer, band or self, the words of the policy."""
    if record.reference is not None:
        return record.reference.role or "peer"
    return "band" if record.calibration.kind == "models" else "self"


def _alone(
    record: AuditRecord, suspect: Suspect, options: Options, settings: Profile
) -> AuditRecord:
    key, name = key_of(suspect, settings.detector, options, settings), Path(suspect.record.name)
    advice = (how_to_compare(name, options), how_to_calibrate(name, options))
    band, told = choose_band(key, options.calibration, advice)
    detector = settings.detector
    searched = detector.families if isinstance(detector, TriggerInversion) else ()
    families = tuple(FamilyRecord(family=name_of(one), tested=True) for one in searched)
    known = {"score": 0.0, "p_value": 1.0, "excess": 0.0} if band else {}
    found = DetectorRecord(
        name="inversion", evidence=FOUND_NOTHING, families=families, screened=True, **known
    )
    seen = coverage(found, suspect.subject.probe, power_of(key))
    update = {"detectors": (found,), "coverage": seen, "calibration": told}
    return record.model_copy(update=update)


def _pair(
    record: AuditRecord, suspect: Suspect, options: Options, settings: Profile
) -> AuditRecord:
    detector, probe, known = settings.differential, suspect.subject.probe, record.reference
    if known is None or record.probe is None:
        raise ValueError("there is no reference to hold the suspect against")
    close = known.tensors > 0 and known.length is not None and known.length <= CLOSE
    role = "base" if close else "peer"
    key = scan_key(suspect.family, options.profile, detector, settings.scenes, probe)
    curve, measured = curve_of(detector, role), min(detector.measure, record.probe.measure)
    none = Rate(value=0.0, low=0.0, high=0.0, n=max(1, measured))
    candidates = tuple(
        Candidate(
            target=probe.class_names[0],
            family=kind.family,
            stage="targeted",
            asr=none,
            natural=none,
            statistic=0.0,
            settled=True,
            trigger=TriggerRecord(size=0.0, unit=""),
            against=Against(
                kind=kind.name,
                transfer=none,
                reference=none,
                back=none,
                gap=0.0,
                alike=1.0,
                right=1.0,
                control=0.0,
                opaque=kind.opaque,
            ),
        )
        for kind in detector.kinds
    )
    found = DetectorRecord(
        name="differential",
        evidence=FOUND_NOTHING,
        score=0.0 if curve else None,
        statistic=0.0,
        families=tuple(
            FamilyRecord(family=name, tested=True)
            for name in sorted({kind.family for kind in detector.kinds})
        ),
        candidates=candidates,
        screened=all(kind.candidates for kind in detector.kinds),
        measured=measured,
        extrapolated=curve is None or suspect.family not in curve.families,
        canary=_sung(none) if options.canary else None,
        apart=(ApartRecord(target=probe.class_names[0], apart=0.0, alike=1.0, right=1.0),),
    )
    update = {
        "reference": known.model_copy(update={"role": role}),
        "calibration": NO_BAND,
        "detectors": (found,),
        "coverage": coverage(found, probe, power_of(key)),
    }
    return record.model_copy(update=update)


def _sung(none: Rate) -> CanaryRecord:
    """A canary that was found."""
    every = none.model_copy(update={"value": 1.0, "low": 1.0, "high": 1.0})
    return CanaryRecord(target=FOUND_NOTHING, asr=every, natural=none, found=FOUND_NOTHING, gap=1.0)
