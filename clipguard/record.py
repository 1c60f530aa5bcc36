"""The audit record: the truth of a run, and the only thing a rendering is made from.

Pure Python on purpose: rendering, `gate` and `policy` work where torch is not installed. Shares
are fractions in [0, 1]; `None` means "not measured", never zero. Fields are only ever added
within a major version.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

HEAD_SCOPE: Final = (
    "Repairs the zero-shot classifier of this class list only. The image tower stays poisoned: "
    "other class lists, prompts, retrieval and fine-tuning are as exposed as before."
)
SCHEMA_VERSION: Final = "clipguard.audit/2"

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""A digest as `sha256sum` prints it."""


class Outcome(str, Enum):
    """What one detector concluded, in ascending order of concern. Never "safe"."""

    NO_EVIDENCE = "no_evidence"
    INCONCLUSIVE = "inconclusive"
    SUSPICIOUS = "suspicious"
    BACKDOORED = "backdoored"


class Decision(str, Enum):
    """What the policy made of the outcomes."""

    PASS = "pass"
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


class Part(BaseModel):
    """Base of every part of the record: frozen, finite numbers only, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rate(Part):
    """A share with its 95 % interval over `n` images (bootstrap over drawings where known)."""

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    n: int = Field(ge=1)


class ToolRecord(Part):
    """Which clipguard made the record."""

    name: Literal["clipguard"] = "clipguard"
    version: str


class CheckpointRecord(Part):
    """The file under audit, as identified before anything was run.

    Attributes:
        name: file or folder name, no directories.
        sha256: digest of the weights file.
        size_bytes: its size.
        container: format found by content, for example `open_clip checkpoint (zip)`.
        architecture: open_clip or clipguard configuration that its shapes match.
        image_size: S, in pixels.
        parameters: number of parameters of the model.
        notes: rule id and text of everything odd but not refused.
    """

    name: str
    sha256: Sha256
    size_bytes: int
    container: str
    architecture: str
    image_size: int
    parameters: int
    notes: tuple[str, ...] = ()


class ProbeRecord(Part):
    """The images and class names the model was looked at with.

    Attributes:
        source: `bundled` or the name of the folder that was given.
        classes: number of classes after merging duplicates.
        class_names_sha256: digest of the class list, one name a line.
        optimise: images the searches are tuned on.
        select: images that choose among restarts; purification tunes on these and *optimise*.
        measure: images every published rate is measured on; never tuned on.
        labelled: whether true classes are known (else pseudo-labels).
        skipped: images that could not be read.
        warnings: what was merged or left out.
    """

    source: str
    classes: int
    class_names_sha256: Sha256
    optimise: int
    select: int
    measure: int
    labelled: bool
    skipped: int = 0
    warnings: tuple[str, ...] = ()


class Example(Part):
    """One probe image without and with a trigger, and how it is read.

    Attributes:
        clean: PNG of the clean image, relative to the report.
        triggered: PNG of the triggered image.
        truth: true class, when known.
        before: class read from the clean image.
        after: class read from the triggered image.
        purified: class the purified head reads from the triggered image.
    """

    clean: str
    triggered: str
    truth: str | None
    before: str
    after: str
    purified: str | None = None


class TriggerRecord(Part):
    """An inverted trigger.

    Attributes:
        size: its size in the unit of its family.
        unit: the unit, for example `share of the image` or `L-inf, in 1/255`.
        file: safetensors file with the tensors, relative to the report.
        picture: PNG of the trigger alone, relative to the report.
        examples: PNG with one row per example image: clean, triggered.
    """

    size: float
    unit: str
    file: str | None = None
    picture: str | None = None
    examples: tuple[Example, ...] = ()


class Candidate(Part):
    """A target class and the strongest trigger found for it.

    Attributes:
        target: class name.
        family: trigger family.
        stage: `collapse` (class-agnostic) or `targeted`.
        asr: share of triggered *measure* images, target class excluded, read as the target.
        natural: share of the same clean images read as the target.
        statistic: the number that is compared with the null band.
        trigger: the trigger itself.
    """

    target: str
    family: str
    stage: Literal["collapse", "targeted"]
    asr: Rate
    natural: Rate
    statistic: float
    trigger: TriggerRecord


class FamilyRecord(Part):
    """What the search in one trigger family found, against known-clean models.

    Attributes:
        family: trigger family.
        tested: whether the search ran to its end.
        reason: why not, or what to know.
        statistic: worst target's statistic.
        null: the same statistic on each known-clean model, ascending.
        excess: distance from the null mean in null standard deviations.
    """

    family: str
    tested: bool
    reason: str = ""
    statistic: float | None = None
    null: tuple[float, ...] = ()
    excess: float | None = None


class DetectorRecord(Part):
    """The conclusion of one detector.

    Attributes:
        name: the detector's registered name.
        outcome: its conclusion.
        reason: one sentence a person can act on.
        score: chance of a backdoor in [0, 1], as fitted on the lab's models.
        p_value: conformal p-value of the whole pipeline's maximum.
        excess: largest family excess, in null standard deviations.
        statistic: what the detector ranks models by, larger is more suspicious; in its own unit.
        target: class ranked first.
        families: evidence per trigger family.
        candidates: targets, worst first.
        screened: whether short targeted searches covered the whole class list.
        own_null: whether it compares with the same model, so that no null band is needed.
    """

    name: str
    outcome: Outcome
    reason: str
    score: float | None = Field(default=None, ge=0, le=1)
    p_value: float | None = Field(default=None, ge=0, le=1)
    excess: float | None = None
    statistic: float | None = None
    target: str | None = None
    families: tuple[FamilyRecord, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    screened: bool = False
    own_null: bool = False


class LabRange(Part):
    """The concentration on models of known truth: smallest and largest value of each kind.

    Attributes:
        base: the base parent they were trained from.
        honest: of honest fine-tunes.
        planted: of fine-tunes with a backdoor planted in the image tower.
    """

    base: str
    honest: tuple[float, float]
    planted: tuple[float, float]


class ReferenceRecord(Part):
    """What changed since the checkpoint that the audited one is said to come from.

    Architecture and shapes are those of the audited one; another reference ends the audit.

    Attributes:
        name: file or folder name, no directories.
        sha256: digest of its weights file.
        tensors: how many were compared.
        changed: how many of them differ.
        image_changed: how many of those are the image tower's.
        length: length of the image tower's change, as a share of the reference's length.
        concentration: share of the first singular direction in the square of the change, mean
            over matrices; null where no matrix of the image tower changed.
        says: what this means, in a sentence.
        lab: the concentration on models of known truth, per base parent.
    """

    name: str
    sha256: Sha256
    tensors: int = Field(ge=0)
    changed: int = Field(ge=0)
    image_changed: int = Field(ge=0)
    length: float | None = Field(default=None, ge=0)
    concentration: float | None = Field(default=None, ge=0, le=1)
    says: str
    lab: tuple[LabRange, ...] = ()


class CalibrationRecord(Part):
    """Where the null band came from.

    Attributes:
        kind: `models` (known-clean models) or `none`.
        family: model family it was made for.
        models: number of known-clean models.
        sha256: digest of the calibration file.
        reason: why there is none, and the command that makes one.
    """

    kind: Literal["models", "none"]
    family: str | None = None
    models: int = 0
    sha256: Sha256 | None = None
    reason: str = ""


class Untested(Part):
    """Something that was not looked at, and why."""

    what: str
    why: str


class PowerRecord(Part):
    """Share of the lab's planted backdoors of one attack that these searches fail.

    Attributes:
        attack: registered name.
        side: of the zoo; limits were set on `calibration`, so its figures flatter.
        failed: with the interval of so few victims.
    """

    attack: str
    side: Literal["calibration", "test"]
    failed: Rate


class CoverageRecord(Part):
    """What was and was not tested; both are shown equally loudly.

    Attributes:
        tested: searches that came to their end.
        not_tested: what was left out, and why.
        power: what the searches find where something is planted; empty where never measured.
    """

    tested: tuple[str, ...] = ()
    not_tested: tuple[Untested, ...] = ()
    power: tuple[PowerRecord, ...] = ()


class Rates(Part):
    """Accuracies of one classifier on the *measure* images.

    Attributes:
        clean_accuracy: CA, share of clean images read as their class.
        asr: share of triggered images, target class excluded, read as the target.
        poisoned_accuracy: PA, share of triggered images read as their class.
        target_accuracy: CA of the target class alone; null without labelled images of it.
    """

    clean_accuracy: Rate | None
    asr: Rate
    poisoned_accuracy: Rate | None
    target_accuracy: Rate | None = None


class TunedTrigger(Part):
    """Kind and size of one trigger that a head was tuned against."""

    family: str
    size: float
    unit: str


class ReinversionRecord(Part):
    """A targeted search for a new trigger through the purified head, with a fresh seed.

    Attributes:
        family: trigger family.
        target: class it was searched towards, the one that was purified.
        asr: of the new trigger.
        statistic: the same as a candidate's.
        original_statistic: the family's before purification, of its worst target, perhaps another.
        searched: whether there were enough steps to say anything; false where not recorded.
        settled: whether the search had stopped gaining; false where not recorded.
    """

    family: str
    target: str
    asr: Rate
    statistic: float
    original_statistic: float
    searched: bool = False
    settled: bool = False


class PurificationRecord(Part):
    """The purified head and what it repairs.

    Attributes:
        method: registered name of the purifier.
        scope: `head`: only the zero-shot classifier of this class list is repaired.
        statement: the scope in a sentence.
        losses: final value of each named loss.
        before: rates of the zero-shot classifier, with the worst inverted trigger.
        after: rates of the purified head, same images, same trigger.
        reinversion: strongest new trigger found against the purified head, per family.
        head: safetensors file with prompts and class embeddings, relative to the report.
        against: every trigger that the head was tuned against; empty where not recorded.
    """

    method: str
    scope: Literal["head", "embedding", "tower"]
    statement: str
    losses: dict[str, float]
    before: Rates
    after: Rates
    reinversion: tuple[ReinversionRecord, ...] = ()
    head: str | None = None
    against: tuple[TunedTrigger, ...] = ()


class ParityRecord(Part):
    """Agreement of ONNX and PyTorch at one batch size."""

    batch: int
    relative_error: float
    top1_agreement: float


class ExportRecord(Part):
    """The ONNX file and the proof that it equals PyTorch.

    Attributes:
        file: ONNX file, relative to the report.
        sha256: its digest.
        head: `purified` or `zero-shot`.
        opset: opset in the file.
        provider: execution provider that really ran.
        parity: per batch size; relative error is max |difference| / max |logit| per row, worst.
        asr_onnx: ASR of the worst inverted trigger measured on the ONNX itself.
        asr_torch: the same measured in PyTorch.
        clean_accuracy_onnx: CA on the ONNX itself, where labels are known.
    """

    file: str
    sha256: str
    head: Literal["purified", "zero-shot"]
    opset: int
    provider: str
    parity: tuple[ParityRecord, ...]
    asr_onnx: Rate | None = None
    asr_torch: Rate | None = None
    clean_accuracy_onnx: Rate | None = None


class Check(Part):
    """One line of the policy, held against the record.

    Attributes:
        key: policy key, for example `backdoor.max_score`.
        limit: the policy's limit, as text.
        value: what was measured, as text.
        result: what this line alone decides.
        reason: one sentence.
        counts: whether the decision rests on this line; false for a finding that a purified
            head makes good, and for purification limits nothing was let pass on.
    """

    key: str
    limit: str
    value: str
    result: Decision
    reason: str
    counts: bool = True


class GateRecord(Part):
    """The decision, every reason for it, and the exit code.

    Attributes:
        policy: name of the policy.
        policy_sha256: digest of the policy file.
        decision: pass, fail or inconclusive.
        reasons: every reason why the decision is not a pass.
        checks: every line of the policy that was held against the record.
        exit_code: exit code of this model alone, the worst of every line's.
    """

    policy: str
    policy_sha256: Sha256
    decision: Decision
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    exit_code: int


class ErrorRecord(Part):
    """A stage that failed, and how."""

    stage: str
    message: str
    exit_code: int


class TimesRecord(Part):
    """The only part of a record that may differ between two runs with one seed.

    Attributes:
        created: UTC, ISO 8601.
        seconds: wall time per stage.
    """

    created: str
    seconds: dict[str, float]


class AuditRecord(Part):
    """Everything one audit of one checkpoint found and decided."""

    schema_version: Literal["clipguard.audit/2"] = SCHEMA_VERSION
    complete: bool
    tool: ToolRecord
    command: str
    settings: dict[str, float | int | str | bool | None]
    environment: dict[str, str]
    checkpoint: CheckpointRecord | None
    probe: ProbeRecord | None
    calibration: CalibrationRecord
    coverage: CoverageRecord
    reference: ReferenceRecord | None = None
    detectors: tuple[DetectorRecord, ...] = ()
    purification: PurificationRecord | None = None
    export: ExportRecord | None = None
    errors: tuple[ErrorRecord, ...] = ()
    gate: GateRecord | None = None
    times: TimesRecord
