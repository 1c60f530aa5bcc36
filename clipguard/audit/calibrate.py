"""Make a null band: run the pipeline on known-clean models and keep its statistics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipguard.audit.options import Options
from clipguard.audit.pipeline import Run
from clipguard.audit.watch import Watch
from clipguard.detect.null_band import MIN_MODELS, Calibration, CleanModel
from clipguard.errors import InconclusiveError, UsageError
from clipguard.record import Outcome
from clipguard.search.roles import Progress
from clipguard.text_safety import safe_text


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
    run = Run(options, Watch(options.budget_s, progress))
    model, probe = run.look(path)
    finding = run.search(model, probe, None)
    checkpoint, shown = run.record.checkpoint, safe_text(path.name)
    if finding is None or checkpoint is None:
        why = run.record.errors[-1].message if run.record.errors else "nothing was measured"
        raise InconclusiveError(f"{shown}: {why}")
    if finding.gaps:
        raise InconclusiveError(f"{shown}: no null band can rest on this search: {finding.gaps}")
    if finding.record.outcome is Outcome.BACKDOORED:
        raise UsageError(
            f"a null band needs known-clean models, {shown} is found backdoored "
            f"({finding.record.reason}); leave it out"
        )
    statistics = {
        row.family: round(row.statistic, 6)
        for row in finding.record.families
        if row.statistic is not None
    }
    return run.key(probe), CleanModel(
        name=checkpoint.name, sha256=checkpoint.sha256, statistics=statistics
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
