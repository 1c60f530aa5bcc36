"""Rules: stable ids for what a line or a refused file says, never used for anything else."""

from __future__ import annotations

from clipguard.record import Check, Decision, WaiverRecord
from clipguard.record.wording import UNMEASURED

NO_CHECKPOINT = "CG102"
RULES = {
    "CG101": ("UnsafePickle", "The file asks for something that could run code"),
    "CG102": ("NotACheckpoint", "The content is not that of a checkpoint"),
    "CG103": ("DamagedFile", "The file is damaged, or two readers would see two different files"),
    "CG104": ("TooLarge", "The file asks for more than a checkpoint needs"),
    "CG105": (
        "ImpossibleTensor",
        "A tensor does not fit its bytes, or its type is none of weights",
    ),
    "CG107": ("DuplicateKey", "A key stands twice in the header"),
    "CG108": ("UnreadableName", "The name of a tensor is no printable text"),
    "CG109": ("NotFinite", "Weights or embeddings are not finite"),
    "CG106": ("TorchScript", "The file is a TorchScript archive; its code is not looked at"),
    "CG110": ("LeftOutOrAssumed", "Something of the file was left out, or assumed"),
    "CG111": ("UnsureArchitecture", "The architecture is an assumption, or a rival reads better"),
    "CG112": ("SeveralModels", "The folder holds another model, which a library may load instead"),
    "CG201": ("InvertedTrigger", "A trigger was found that sends images, or prompts, to one class"),
    "CG202": ("AboveNullBand", "A statistic lies outside what known-clean models show"),
    "CG203": ("ConcentratedChange", "The change from the reference is suspicious or unknown"),
    "CG204": ("WeakGround", "The reference or band is not one that a pass may rest on"),
    "CG301": ("PurificationMissed", "The repair misses a limit of the policy"),
    "CG303": ("PurificationScope", "What a repair covers, and what it does not"),
    "CG304": (
        "Reinversion",
        "A new search through the repair found a trigger, or had nothing to hold it against",
    ),
    "CG401": ("OnnxParity", "The exported file differs from PyTorch"),
    "CG402": ("OnnxTop1", "The exported file ranks another class first"),
    "CG405": ("OnnxAsr", "The attack works differently on the exported file"),
    "CG407": ("OnnxHead", "The exported file does not carry the whole repair"),
    "CG601": ("NotTested", "Backdoors were not looked for"),
    "CG602": ("FamilyNotTested", "A required trigger family was not searched"),
    "CG603": ("TooFewImages", "Rates rest on fewer images than the policy asks for"),
    "CG606": ("WrongClasses", "The clean images are not read as their true classes"),
    "CG604": ("WeakSearch", "Profile or null band is weaker than the policy asks for"),
    "CG605": ("CutShort", "The audit did not run to its end"),
    "CG501": ("OtherFile", "The record is about another file than the one that was given"),
    "CG608": ("OutOfTime", "The time that was given ran out before the work was done"),
    "CG609": ("NotMeasured", "What decides about a backdoor was not measured"),
    "CG607": ("UnknownPower", "How many planted backdoors such a scan fails is unknown or too few"),
    "CG901": ("UnusedWaiver", "A waiver that no line of this model needs"),
    "CG902": ("ExpiredWaiver", "A waiver whose last day is over; it changes nothing"),
    "CG903": ("BroadWaiver", "A waiver that is broader than allowed; it changes nothing"),
    "CG906": ("StageFailed", "A stage failed"),
}
RULE_OF_KEY = {
    "audit.architecture": "CG111",
    "audit.folder": "CG112",
    "audit.complete": "CG605",
    "audit.checkpoint": "CG605",
    "audit.model": "CG501",
    "audit.budget": "CG608",
    "audit.errors": "CG906",
    "backdoor": "CG601",
    "backdoor.max_score": "CG201",
    "backdoor.strong_asr": "CG201",
    "backdoor.max_word_pull": "CG201",
    "backdoor.alpha": "CG204",
    "backdoor.min_excess": "CG202",
    "backdoor.families": "CG602",
    "backdoor.max_unsettled_excess": "CG202",
    "backdoor.max_change_concentration": "CG203",
    "backdoor.max_gap": "CG201",
    "backdoor.max_apart": "CG201",
    "backdoor.max_wide_gap": "CG201",
    "backdoor.grounds": "CG204",
    "backdoor.references": "CG204",
    "backdoor.canary": "CG204",
    "coverage.families": "CG602",
    "coverage.min_clean_accuracy": "CG606",
    "coverage.min_measure_images": "CG603",
    "coverage.min_power": "CG607",
    "purification.reinversion": "CG304",
    "export.max_relative_error": "CG401",
    "export.min_top1_agreement": "CG402",
    "export.max_asr_difference": "CG405",
    "export.head": "CG407",
}
FOUND = ("CG201", "CG202")
"""Rules that speak of something that was found."""
RULE_OF_SECTION = {"backdoor": "CG201", "purification": "CG301", "export": "CG401"}
"""For keys without a rule of their own."""
RULE_OF_WAIVER = {"unused": "CG901", "expired": "CG902", "too_broad": "CG903"}
"""A waiver that was used, or is for another model, breaks none."""
SCORES = {"critical": 9.5, "high": 8.0, "medium": 5.5, "low": 2.0}
"""Severities as numbers from 0 to 10; GitHub's bounds are 9, 7 and 4."""


def rule_of(check: Check) -> str:
    """That of the policy key; a file that was refused is of the rule that it breaks.

    A line that cannot tell for want of a measurement found nothing, and so is of no rule that says
    so.
    """
    unmeasured = check.result is Decision.INCONCLUSIVE and check.value.startswith(UNMEASURED)
    if unmeasured and RULE_OF_KEY.get(check.key) in FOUND:
        return "CG609"
    if check.key == "audit.refused":
        return check.value if check.value in RULES else NO_CHECKPOINT
    return RULE_OF_KEY.get(check.key) or RULE_OF_SECTION.get(check.key.partition(".")[0], "CG604")


def told(waiver: WaiverRecord) -> str:
    """A waiver as one sentence."""
    about = f" about {waiver.target!r}" if waiver.target is not None else ""
    ticket = f", {waiver.ticket}" if waiver.ticket else ""
    return (
        f"{waiver.check}{about} of {waiver.sha256[:12]}, until {waiver.expires}, "
        f"by {waiver.owner}{ticket}: {waiver.reason}"
    )
