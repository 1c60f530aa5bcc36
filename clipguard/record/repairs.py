"""What was repaired and exported, as the record keeps it."""

from __future__ import annotations

from typing import Literal

from clipguard.record.base import Part, Rate, Sha256
from clipguard.record.findings import DetectorRecord


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
    """A targeted search for a new trigger through the repair, with a fresh seed.

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
    """What was repaired, and how far it reaches.

    Attributes:
        method: what was done, in this order, such as `realign+cbpt`.
        scope: `head`: only the zero-shot classifier of this class list is repaired. `tower`: the
            image tower is; its prompts, if there are any, are for this class list.
        statement: the scope in a sentence.
        losses: final value of each named loss.
        before: rates of the zero-shot classifier, with the worst inverted trigger.
        after: rates of what was repaired, same images, same trigger.
        reinversion: strongest new trigger found against what was repaired, per family.
        head: safetensors file with prompts and class embeddings, relative to the report.
        against: every trigger that was tuned against; empty where not recorded.
        repaired: safetensors file of the checkpoint with the repaired tower, relative to the
            report; null where the tower is unchanged.
        repaired_sha256: its digest.
        halfway: whether the repair of the tower started half-way to the reference.
        rescan: what the search against the reference found on the repaired tower, with other
            draws; null where there was none. Its candidates name no files.
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
    repaired: str | None = None
    repaired_sha256: Sha256 | None = None
    halfway: bool = False
    rescan: DetectorRecord | None = None


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
        tower: `repaired`, or `original` where it is that of the checkpoint.
        opset: opset in the file.
        provider: execution provider that really ran.
        parity: per batch size; relative error is max |difference| / max |logit| per row, worst.
        asr_onnx: ASR of the worst inverted trigger measured on the ONNX itself.
        asr_torch: the same measured in PyTorch.
        clean_accuracy_onnx: CA on the ONNX itself, where labels are known.
        kept: whether the file is there; one that misses the policy's limits is not kept.
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
    kept: bool = True
    tower: Literal["original", "repaired"] = "original"
