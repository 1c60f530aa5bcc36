"""The audit record as a whole."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field

from clipguard.record.base import SCHEMA_VERSION, Part, Rate, Sha256
from clipguard.record.findings import (
    CalibrationRecord,
    CoverageRecord,
    DetectorRecord,
    ReferenceRecord,
)
from clipguard.record.gate import GateRecord
from clipguard.record.repairs import (
    ExportRecord,
    PurificationRecord,
)


class ToolRecord(Part):
    """Which clipguard made the record."""

    name: Literal["clipguard"] = "clipguard"
    version: str


MAX_IMAGES = 2_000
ToldBy = Literal["--arch", "config", "name", "layout", "shapes", "reference", "images", "default"]


class ArchitectureRecord(Part):
    """How the architecture was told, and by how much it reads images better than its rivals.

    Attributes:
        by: `--arch`, a `config` beside the weights, a `name` inside the file, the `layout` (a
            TorchScript archive, as OpenAI's), the `shapes`, the `reference`, the `images` that it
            reads clearly better than a rival, or open_clip's `default`, which is an assumption.
        rivals: architectures with the same shapes, which compute differently.
        images: labelled images that all were tried on, 0 if they were not.
        only_chosen: images of these that this architecture reads rightly and the best rival not.
        only_rival: images that the best rival reads rightly and this architecture not.
    """

    by: ToldBy
    rivals: tuple[str, ...] = ()
    images: int = Field(0, ge=0, le=MAX_IMAGES)
    only_chosen: int = Field(0, ge=0, le=MAX_IMAGES)
    only_rival: int = Field(0, ge=0, le=MAX_IMAGES)

    @property
    def is_clear(self) -> bool:
        """Whether one of the two reads more images rightly than chance explains, at 0.01.

        Source:
            McNemar's exact test, Psychometrika 1947.
        """
        total, fewer = self.only_chosen + self.only_rival, min(self.only_chosen, self.only_rival)
        tail = sum(math.comb(total, k) for k in range(fewer + 1))
        return bool(2 * tail * 100 < 2**total)

    @property
    def reads_worse(self) -> bool:
        """Whether the best rival is clearly the better reader."""
        return self.only_rival > self.only_chosen and self.is_clear


class OtherModelRecord(Part):
    """Another model in the folder of the one under audit, which a library may load in its place.

    Attributes:
        name: of its file, or of the index of its files.
        equal: whether it has the same weights, up to rounding to half precision.
        says: that it has, or the first difference, or why they cannot be compared.
    """

    name: str
    equal: bool
    says: str


class CheckpointRecord(Part):
    """The file under audit, as identified before anything was run.

    Attributes:
        name: file or folder name, no directories.
        sha256: digest of the weights file; of several that of the sorted lines `NAME SHA256`, each
            with a line end, and of a LoRA adapter that of the two lines `adapter` and `base`.
        size_bytes: its size, or that of all.
        container: format found by content, for example `open_clip checkpoint (zip)`.
        architecture: open_clip or clipguard configuration that its shapes match.
        image_size: S, in pixels.
        parameters: number of parameters of the model.
        notes: rule id and text of everything odd but not refused.
        architecture_choice: how the architecture was told.
        sandbox: what the file was read in: `bubblewrap`, a `process` with limits, or `none`; null
            in records from before.
        others: the other models in its folder; empty where a file was given.
    """

    name: str
    sha256: Sha256
    size_bytes: int
    container: str
    architecture: str
    image_size: int
    parameters: int
    notes: tuple[str, ...] = ()
    architecture_choice: ArchitectureRecord | None = None
    sandbox: Literal["bubblewrap", "process", "none"] | None = None
    others: tuple[OtherModelRecord, ...] = ()


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
        clean_accuracy: of the audited model on the *measure* images; null without labels.
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
    clean_accuracy: Rate | None = None
    skipped: int = 0
    warnings: tuple[str, ...] = ()


class ErrorRecord(Part):
    """A stage that did not come to its end, and why.

    Attributes:
        stage: its name.
        message: one sentence.
        exit_code: of this alone.
        out_of_time: whether it is no fault: the time that was given was spent.
    """

    stage: str
    message: str
    exit_code: int
    out_of_time: bool = False


class RefusedRecord(Part):
    """A file that was not opened because that could do harm, or because it is no checkpoint.

    Attributes:
        name: of what was given, no directories.
        file: the file that was refused: this one, or one of the folder.
        sha256: digest of that file; null if it could not be read.
        size_bytes: its size.
        rule: id of the rule that it breaks, for example `CG101`.
        reason: what was found, and where.
    """

    name: str
    file: str
    sha256: Sha256 | None = None
    size_bytes: int | None = None
    rule: str | None = None
    reason: str

    @property
    def says(self) -> str:
        """The file and the reason, as one line."""
        return f"{self.file}: {self.reason}"


class TimesRecord(Part):
    """The only part of a record that may differ between two runs with one seed.

    Attributes:
        created: UTC, ISO 8601.
        seconds: wall time per stage.
    """

    created: str
    seconds: dict[str, float]


class AuditRecord(Part):
    """Everything one audit of one checkpoint found and decided.

    Attributes:
        location: where the checkpoint lies, from the root of its repository and with `/`; null
            if it lies in none.
    """

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
    refused: RefusedRecord | None = None
    errors: tuple[ErrorRecord, ...] = ()
    gate: GateRecord | None = None
    times: TimesRecord
    location: str | None = None
