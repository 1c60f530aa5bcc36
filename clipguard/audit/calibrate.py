"""Make a null band: run the pipeline on known-clean models and keep its statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipguard.audit.before import require_inputs
from clipguard.audit.options import Options
from clipguard.audit.pipeline import key_of, load, run_detector
from clipguard.audit.profiles import profile_alone
from clipguard.audit.watch import Watch
from clipguard.detect.null_band import MIN_MODELS, Calibration, CleanModel
from clipguard.errors import InconclusiveError, UsageError
from clipguard.policy.judge import conclude
from clipguard.record import CalibrationRecord, Outcome
from clipguard.search.roles import Progress
from clipguard.text_safety import safe_text

NONE = CalibrationRecord(kind="none", reason="it is being made")


def measure_clean(path: Path, options: Options, *, progress: Progress) -> tuple[str, CleanModel]:
    """The statistics of one known-clean model.

    Args:
        path: its checkpoint.
        options: those of the scans that the band is for; only the seed may differ.
        progress: told about each stage.

    Returns:
        The key of the band that it belongs to, and the model's row.

    Raises:
        InconclusiveError: the search gave nothing to keep, or was not one to compare with.
        UsageError: the detector calls the model backdoored.
    """
    require_inputs(path, options)
    watch, settings = Watch(options.budget_s, progress), profile_alone(options.profile)
    suspect, shown = load(path, options, settings, watch), safe_text(path.name)
    try:
        found = run_detector(suspect, settings.detector, None, watch).record
    except InconclusiveError as error:
        raise InconclusiveError(f"{shown}: {error}") from error
    if gaps := [f"{row.family}: {row.reason}" for row in found.families if not row.tested]:
        raise InconclusiveError(f"{shown}: no null band can rest on this: {'; '.join(gaps)}")
    [concluded] = conclude(options.policy, [found], NONE)
    if concluded.outcome is Outcome.BACKDOORED:
        raise UsageError(
            f"a null band needs known-clean models, {shown} is found backdoored "
            f"({concluded.reason}); leave it out"
        )
    statistics = {
        row.family: round(row.statistic, 6) for row in found.families if row.statistic is not None
    }
    return key_of(suspect, settings.detector, options, settings), CleanModel(
        name=suspect.record.name, sha256=suspect.record.sha256, statistics=statistics
    )


def require_enough(count: int) -> None:
    """Refuse to start with fewer models than a null band needs.

    Raises:
        UsageError: too few.
    """
    if count < MIN_MODELS:
        raise UsageError(
            f"a null band needs {MIN_MODELS} known-clean models or more, got {count}; "
            "with n models no p-value below 1/(n+1) exists, so 19 are needed for 0.05"
        )


def assemble(rows: Sequence[tuple[str, CleanModel]], command: str) -> Calibration:
    """One null band from all rows.

    Raises:
        UsageError: too few models, one model twice, or models of several families.
    """
    require_enough(len(rows))
    keys = sorted({key for key, _ in rows})
    if len(keys) > 1:
        raise UsageError(f"these models need different null bands: {', '.join(keys)}")
    digests = [model.sha256 for _, model in rows]
    if len(set(digests)) < len(digests):
        raise UsageError("one model was given twice; a null band needs independent models")
    return Calibration(key=keys[0], command=command, models=tuple(model for _, model in rows))
