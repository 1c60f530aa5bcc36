"""What the searches found, as the record keeps it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from clipguard.record.against import Against, ApartRecord, CanaryRecord
from clipguard.record.base import Outcome, Part, Rate, Sha256


class Example(Part):
    """One probe image without and with a trigger, and how it is read.

    Attributes:
        clean: PNG of the clean image, relative to the report.
        triggered: PNG of the triggered image.
        truth: true class, when known.
        before: class read from the clean image.
        after: class read from the triggered image.
        purified: class that the repaired model reads from the triggered image.
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
        excess: distance from the family's null mean in null standard deviations; with a reference,
            of V from the mean of honest models, for this kind of trigger.
        settled: whether the search had stopped gaining.
        against: what the reference shows, if the scan had one; `statistic` is then M, how much
            more the suspect yields than the reference, in log odds.
    """

    target: str
    family: str
    stage: Literal["collapse", "targeted"]
    asr: Rate
    natural: Rate
    statistic: float
    trigger: TriggerRecord
    excess: float | None = None
    settled: bool = False
    against: Against | None = None

    @property
    def lead(self) -> float | None:
        """V: M beyond that of the control; none without a reference, or if shown for its gap."""
        control = self.against.control if self.against else None
        return None if control is None else self.statistic - control


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
    """What one detector measured. What follows from it is in the gate.

    Attributes:
        name: the detector's registered name.
        evidence: the strongest thing it found, in one sentence.
        score: chance of a backdoor in [0, 1], as fitted on the lab's models.
        p_value: conformal p-value of the whole pipeline's maximum.
        excess: largest family excess, in null standard deviations.
        statistic: what the detector ranks models by, larger is more suspicious; in its own unit.
        target: class ranked first.
        families: evidence per trigger family.
        candidates: targets, worst first.
        screened: whether short targeted searches covered the whole class list.
        word_share: share of unseen prompts that the strongest word turns; text triggers only.
        word_on_reference: how far the same word draws the prompts of the reference, in the unit of
            `statistic`; null without a reference of the same tokens.
        published: what a detector of the literature says by its authors' own limits; no scan has
            such a detector.
        measured: *measure* images that its rates rest on, if those are not all.
        passes: images that went through the models, forward and backward; one that went only
            forward counts half.
        extrapolated: whether its limits were never tested on models of this family.
        canary: what became of a backdoor that was planted to try the search, if one was.
        apart: where a scan had a reference: the classes that the two read least alike from clean
            images, the furthest apart first. Poison moves the name of its target.
    """

    name: str
    evidence: str
    score: float | None = Field(default=None, ge=0, le=1)
    p_value: float | None = Field(default=None, ge=0, le=1)
    excess: float | None = None
    statistic: float | None = None
    target: str | None = None
    families: tuple[FamilyRecord, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    screened: bool = False
    word_share: float | None = Field(default=None, ge=0, le=1)
    word_on_reference: float | None = None
    published: Outcome | None = None
    measured: int | None = Field(default=None, ge=0)
    passes: float | None = Field(default=None, ge=0)
    extrapolated: bool = False
    canary: CanaryRecord | None = None
    apart: tuple[ApartRecord, ...] = ()

    @property
    def held_against(self) -> bool:
        """Whether the model was measured against a reference."""
        return any(row.against for row in self.candidates)


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
    """The model that the audited one was held against, and how the two are related.

    The relation describes and proves nothing: whether a reference is to be trusted, its digest and
    the policy say.

    Attributes:
        name: file or folder name, no directories.
        sha256: digest of its weights file.
        architecture: configuration that its shapes match.
        role: `base` where the weights lie close to the audited ones, `peer` where they do not,
            `unusable` where it reads the probe images otherwise; null if it was not run.
        clean_accuracy: on the *measure* images; null without labels.
        agreement: share of *measure* images that both models read as the same class.
        tensors: how many were compared; 0 where the architectures differ.
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
    architecture: str = ""
    role: Literal["base", "peer", "unusable"] | None = None
    clean_accuracy: Rate | None = None
    agreement: float | None = Field(default=None, ge=0, le=1)
    tensors: int = Field(default=0, ge=0)
    changed: int = Field(default=0, ge=0)
    image_changed: int = Field(default=0, ge=0)
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
