"""The way of one checkpoint into a report folder."""

from __future__ import annotations

from pathlib import Path

from clipguard.audit.before import require_inputs
from clipguard.audit.coverage import begun_record
from clipguard.audit.options import Options
from clipguard.audit.pipeline import judged, stages
from clipguard.audit.refused import refused
from clipguard.audit.release import failure
from clipguard.audit.watch import Watch
from clipguard.errors import RefusedError
from clipguard.files import write_atomic
from clipguard.record import AuditRecord
from clipguard.record.schema import dumps
from clipguard.report.folder import (
    clear_report,
    discard,
    publish_report,
    require_ours,
    workspace,
)
from clipguard.search.roles import Progress
from clipguard.stopping import before_the_end


def audit(path: Path, options: Options, out: Path, *, progress: Progress) -> AuditRecord:
    """Audit one checkpoint and fill the report folder, at once and at the end.

    An interrupt leaves one file, `audit.json`, marked `complete: false`; so does a fault after
    something was measured, since an error must not hide a finding. A file that is refused is a
    result, too: its record says why.

    Args:
        path: checkpoint file or folder.
        options: what to do.
        out: report folder, made if missing.
        progress: told about each stage.

    Returns:
        The record that was written as `audit.json`.

    Raises:
        UsageError: no such path, bad architecture, probe data or reference, an option without
            effect, unwritable `out`, or one that holds files of somebody else.
        ClipguardError: too little memory or disk.
        ExportError: the execution provider that is asked for is not there.
    """
    require_inputs(path, options, out)
    watch = Watch(options.budget_s, progress)
    with workspace(out) as work:
        record = begun_record(path, options, watch.created)
        begun = dumps(record)
        require_ours(out)
        clear_report(out, begun)  # no old pass must be left where a new audit was refused

        def leave(error: BaseException) -> AuditRecord:
            known = _cut_short(record, path, options, watch, error)
            clear_report(out, begun)
            write_atomic(out / "audit.json", dumps(known))
            return known

        def leave_at_once() -> None:
            leave(KeyboardInterrupt())
            discard(work)

        try:
            with before_the_end(leave_at_once):
                for latest in stages(path, record, options, work, watch):
                    record = latest  # an interrupt keeps what the last stage found
            record = judged(record, options, watch)
            write_atomic(work / "audit.json", dumps(record))
            publish_report(work, out, begun)
        except (KeyboardInterrupt, Exception) as error:
            is_refusal = isinstance(error, RefusedError)
            if isinstance(error, Exception) and not (record.detectors or is_refusal):
                raise
            record = leave(error)
            if isinstance(error, KeyboardInterrupt):
                raise
    return record


def _cut_short(
    record: AuditRecord, path: Path, options: Options, watch: Watch, error: BaseException
) -> AuditRecord:
    """What was found before an interrupt, a fault or a refusal, without the files that it named."""
    refusal = refused(path, options, str(error)) if isinstance(error, RefusedError) else None
    if refusal is not None:
        record = record.model_copy(update={"refused": refusal})
    elif isinstance(error, Exception):
        stage = "load" if record.checkpoint is None else "audit"
        errors = (*record.errors, failure(stage, error))
        record = record.model_copy(update={"errors": errors})
    if record.export is not None:
        gone = record.export.model_copy(update={"kept": False})
        record = record.model_copy(update={"export": gone})
    return judged(record, options, watch, complete=False)
