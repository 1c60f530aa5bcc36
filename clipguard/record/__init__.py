"""The audit record: the truth of a run, and the only thing a rendering is made from.

Pure Python on purpose: rendering, `gate` and `policy` work where torch is not installed. Shares
are fractions in [0, 1]; `None` means "not measured", never zero. Fields are only ever added
within a major version.
"""

from clipguard.record.against import Against, ApartRecord, CanaryRecord
from clipguard.record.audit import (
    ArchitectureRecord,
    AuditRecord,
    CheckpointRecord,
    ErrorRecord,
    OtherModelRecord,
    ProbeRecord,
    RefusedRecord,
    TimesRecord,
    ToldBy,
    ToolRecord,
)
from clipguard.record.base import (
    HEAD_SCOPE,
    SCHEMA_VERSION,
    TOWER_SCOPE,
    Decision,
    Outcome,
    Part,
    Rate,
    Severity,
    Sha256,
)
from clipguard.record.findings import (
    CalibrationRecord,
    Candidate,
    CoverageRecord,
    DetectorRecord,
    Example,
    FamilyRecord,
    LabRange,
    PowerRecord,
    ReferenceRecord,
    TriggerRecord,
    Untested,
)
from clipguard.record.gate import Check, Conclusion, GateRecord, WaiverRecord
from clipguard.record.repairs import (
    ExportRecord,
    ParityRecord,
    PurificationRecord,
    Rates,
    ReinversionRecord,
    TunedTrigger,
)

__all__ = [
    "HEAD_SCOPE",
    "SCHEMA_VERSION",
    "TOWER_SCOPE",
    "Against",
    "ApartRecord",
    "ArchitectureRecord",
    "AuditRecord",
    "CalibrationRecord",
    "CanaryRecord",
    "Candidate",
    "Check",
    "CheckpointRecord",
    "Conclusion",
    "CoverageRecord",
    "Decision",
    "DetectorRecord",
    "ErrorRecord",
    "Example",
    "ExportRecord",
    "FamilyRecord",
    "GateRecord",
    "LabRange",
    "OtherModelRecord",
    "Outcome",
    "ParityRecord",
    "Part",
    "PowerRecord",
    "ProbeRecord",
    "PurificationRecord",
    "Rate",
    "Rates",
    "ReferenceRecord",
    "RefusedRecord",
    "ReinversionRecord",
    "Severity",
    "Sha256",
    "TimesRecord",
    "ToldBy",
    "ToolRecord",
    "TriggerRecord",
    "TunedTrigger",
    "Untested",
    "WaiverRecord",
]
