"""Records of what a scan measured against a reference."""

from __future__ import annotations

from pydantic import Field

from clipguard.record.base import Part, Rate


class Against(Part):
    """What a candidate's class shows on the reference, on the same *measure* images.

    The candidate's own ASR is that of the suspect's trigger on the suspect.

    Attributes:
        kind: shape of trigger, in the settings that it was searched in.
        transfer: ASR of the suspect's trigger on the reference.
        reference: ASR of the reference's own trigger on the reference.
        back: ASR of the reference's trigger on the suspect.
        gap: the candidate's ASR minus the larger of `transfer` and `reference`.
        alike: how alike both models read clean images as the class: correlation, 1 if the same;
            near 0 for a name that the reference does not know. Null in older records.
        right: share of clean images of the class that the reference reads as it; null where no
            image is known to be of it.
        control: the second largest statistic of the classes drawn to compare with; null for a
            candidate that is shown for its gap.
        opaque: whether the trigger covers a small part of the image and leaves the rest alone.
    """

    kind: str = ""
    transfer: Rate
    reference: Rate
    back: Rate
    gap: float = Field(ge=-1, le=1)
    alike: float | None = Field(default=None, ge=-1, le=1)
    right: float | None = Field(default=None, ge=0, le=1)
    control: float | None = None
    opaque: bool = False


class ApartRecord(Part):
    """A class that two models read differently from clean images.

    Attributes:
        target: class name.
        apart: how far it lies from the other classes, in robust deviations.
        alike: correlation of the two models' readings of it.
        right: share of clean images of the class that the reference reads as it; null where no
            image is known to be of it.
    """

    target: str
    apart: float
    alike: float = Field(ge=-1, le=1)
    right: float | None = Field(default=None, ge=0, le=1)


class CanaryRecord(Part):
    """A patch backdoor that the scan planted into a copy of the model, and whether it was found.

    Attributes:
        target: class that it was planted for.
        asr: share of *measure* images that the copy reads as that class under the patch.
        natural: the same without the patch; a copy that reads everything as it holds no backdoor.
        found: class that the same search ranks first on the copy.
        gap: of the opaque trigger for the target there; 0 if none was measured.
    """

    target: str
    asr: Rate
    natural: Rate
    found: str | None
    gap: float = Field(ge=-1, le=1)
