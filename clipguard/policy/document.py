"""The keys of a policy, and how a policy file is read. No torch here."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from clipguard.errors import UsageError
from clipguard.files import read_given
from clipguard.policy import strict_yaml
from clipguard.policy.problems import Section, explained
from clipguard.record import Severity, Sha256
from clipguard.record.wording import TEXT
from clipguard.registry import MethodFolder, require_known
from clipguard.resources import shipped
from clipguard.text_safety import safe_text

FAMILIES: MethodFolder[object] = MethodFolder("clipguard.search.families", "trigger family")
Share = Annotated[float, Field(ge=0, le=1)]


class BackdoorPolicy(Section):
    """When evidence fails a checkpoint.

    Attributes:
        max_score: score in [0, 1] above which a checkpoint fails; without a reference only if its
            p-value is low enough, too.
        clear_score: score at or below which there is no evidence; in between is suspicious.
        alpha: highest conformal p-value that counts as rare among known-clean models.
        strong_asr: ASR (lower end of its interval) from which a trigger fails a checkpoint also
            without known-clean models ...
        control_asr: ... if triggers for other classes reach no more than this (upper end).
        min_excess: null standard deviations; a family that lies at or below it found less than
            honest searches do, and says nothing.
        max_unsettled_excess: null standard deviations from which a search must have settled.
        max_word_pull: spreads beyond the class names from which a word in prompts is evidence ...
        min_word_share: ... if it turns this share of unseen prompts.
        min_word_lead: with a reference, by how many spreads the word must draw the prompts of the
            checkpoint further than those of the reference to be evidence.
        max_gap: where a scan had a reference: share of images by which a small opaque trigger
            works better on the checkpoint than anything does on the reference, above which it
            fails.
        max_wide_gap: the same for a trigger of any kind, above which it is suspicious.
        min_alike: correlation of how both models read clean images as a class, below which the
            reference does not know the class, and what is found for it can neither fail nor pass.
        max_apart: how far the two models' readings of clean images as one class may lie apart, in
            robust deviations of all classes, above which it is suspicious; and evidence where the
            search leads to the same class.
        references: digests of the files that may be a reference, or `any`.
        grounds: what a pass may rest on: a reference that the checkpoint was made from (base), a
            band of known-clean models (band), an unrelated reference (peer).
        suspicious: what a suspicious outcome decides.
        max_change_concentration: share of the image tower's change from its reference that may
            lie in one direction, above which it is suspicious; null to do without a reference.
    """

    max_score: Share
    clear_score: Share
    alpha: float = Field(gt=0, le=0.5)
    strong_asr: Share
    control_asr: Share
    min_excess: float = Field(ge=-1000, le=0)
    max_unsettled_excess: float = Field(ge=0, le=1000)
    max_word_pull: float = Field(ge=0, le=1000)
    min_word_share: Share
    min_word_lead: float = Field(ge=0, le=1000)
    max_gap: Share
    max_wide_gap: Share
    min_alike: float = Field(ge=-1, le=1)
    max_apart: float = Field(ge=0, le=1000)
    references: Literal["any"] | Annotated[tuple[Sha256, ...], Field(strict=False, max_length=1000)]
    grounds: Annotated[
        tuple[Literal["base", "band", "peer"], ...], Field(strict=False, min_length=1)
    ]
    suspicious: Literal["fail", "inconclusive", "pass"]
    max_change_concentration: Share | None


class CoveragePolicy(Section):
    """What must have been tested before anything may pass.

    Attributes:
        families: trigger families that must have been searched to the end; `text` is words in
            prompts.
        min_measure_images: images that published rates must rest on.
        min_profile: least thorough profile.
        min_clean_accuracy: share of the clean images that must be read as their true class; a
            lower one is a wrong class list or wrong images.
        min_power: share of the lab's planted backdoors that such a scan fails, over all attacks;
            null to ask for no figure.
    """

    families: Annotated[tuple[str, ...], Field(strict=False, min_length=1, max_length=50)]
    min_measure_images: int = Field(ge=1, le=10_000_000)
    min_profile: Literal["fast", "standard", "thorough"]
    min_clean_accuracy: Share
    min_power: Share | None


class PurificationPolicy(Section):
    """When a model is repaired, and whether the repair may pass.

    Attributes:
        run: when `scan` repairs.
        repaired_may_pass: whether a repair that meets every limit turns a fail into a pass.
        max_asr: highest ASR after purification, upper end of its 95 % interval.
        max_clean_accuracy_loss: highest loss of clean accuracy, as a share.
        min_poisoned_accuracy_ratio: lowest PA after purification over CA before it.
    """

    run: Literal["never", "on-fail", "always"]
    repaired_may_pass: bool
    max_asr: Share
    max_clean_accuracy_loss: Share
    min_poisoned_accuracy_ratio: Share


class ExportPolicy(Section):
    """How closely an exported file must agree with PyTorch.

    Attributes:
        max_relative_error: highest |difference| of logits over the largest |logit| of a row.
        min_top1_agreement: lowest share of images with the same first class.
        max_asr_difference: highest difference of ASR, as a share.
    """

    max_relative_error: float = Field(gt=0, le=0.1)
    min_top1_agreement: Share
    max_asr_difference: Share


class SeverityPolicy(Section):
    """How loud formats show a line that does not pass. It decides nothing.

    Attributes:
        refused: a file that was not opened, or another file than the one of the record.
        backdoored: evidence of a backdoor.
        suspicious: a suspicious finding.
        repair: a limit of purification that is missed.
        export: an exported file that differs.
        unknown: whatever else keeps a checkpoint from passing.
    """

    refused: Severity
    backdoored: Severity
    suspicious: Severity
    repair: Severity
    export: Severity
    unknown: Severity


class PolicyDocument(Section):
    """A policy file, key by key.

    Attributes:
        version: of the keys.
        name: shown in every report.
        salt: any text; it goes into the seed of every scan.
    """

    version: Literal[2]
    name: str = Field(min_length=1, max_length=60)
    salt: str = Field(max_length=200)
    backdoor: BackdoorPolicy
    coverage: CoveragePolicy
    purification: PurificationPolicy
    export: ExportPolicy
    severity: SeverityPolicy


class Policy(PolicyDocument):
    """A policy that was read from a file.

    Attributes:
        sha256: digest of the file's bytes, as `sha256sum` prints it.
        source: the shipped name or the path that it was asked for by.
    """

    source: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


def shipped_policies() -> list[str]:
    """Names of the policies that come with clipguard."""
    return sorted(path.stem for path in shipped("policies").glob("*.yaml"))


def policy_path(name_or_path: str | Path) -> Path:
    """The file behind a shipped policy's name, or behind a path.

    Raises:
        UsageError: neither a shipped name nor a file.
    """
    text = str(name_or_path)
    if text in shipped_policies():
        return shipped("policies") / f"{text}.yaml"
    path = Path(text)
    if path.suffix not in {".yaml", ".yml"} and not path.exists():
        require_known(safe_text(text), shipped_policies(), "policy")
    if not path.is_file():
        raise UsageError(f"expected a policy file, found none at {safe_text(path)}")
    return path


def read_policy_text(path: Path) -> str:
    """The text of a policy file.

    Raises:
        UsageError: unreadable, not UTF-8, or larger than a policy can be.
    """
    return read_given(path, strict_yaml.SIZE_LIMIT)


def load_policy(name_or_path: str | Path) -> Policy:
    """Read and check a policy.

    Args:
        name_or_path: `default`, `strict`, `research`, or a YAML file.

    Raises:
        UsageError: no such policy, or one that is not valid; the message names the line.
    """
    path = policy_path(name_or_path)
    text, name = read_policy_text(path), safe_text(path.name)
    data, lines = strict_yaml.parse_policy_yaml(text, name)
    if isinstance(data, dict) and data.get("version") == 1:
        raise UsageError(f"{name} line {lines[('version',)]}: {_from_version_1(data)}")
    try:
        document = PolicyDocument.model_validate(data)
    except ValidationError as error:
        raise UsageError(explained(error, PolicyDocument, lines, name)) from error
    for index, family in enumerate(document.coverage.families):
        try:
            require_known(family, [*FAMILIES.names(), TEXT], FAMILIES.what)
        except UsageError as error:
            line = lines[("coverage", "families", index)]
            raise UsageError(f"{name} line {line}: {safe_text(error, 400)}") from error
    limits = document.backdoor
    if limits.clear_score > limits.max_score:
        line = lines[("backdoor", "clear_score")]
        raise UsageError(
            f"{name} line {line}: backdoor.clear_score is {limits.clear_score:g}, above max_score "
            f"({limits.max_score:g}); a score between the two is suspicious"
        )
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return Policy(**dict(document), sha256=digest, source=str(name_or_path))


def _from_version_1(data: dict[str, Any]) -> str:
    """What makes a policy of version 1 one of today."""
    missing, gone = [], []
    for section, field in PolicyDocument.model_fields.items():
        known: Any = getattr(field.annotation, "model_fields", {})
        given = data.get(section)
        given = given if isinstance(given, dict) else {}
        missing += [f"{section}.{key}" for key in known if key not in given]
        gone += [f"{section}.{key}" for key in given if key not in known]
    told = f"; remove {safe_text(', '.join(gone), 200)}" if gone and missing else ""
    return (
        "this policy is of version 1; write version: 2 and add "
        f"{', '.join(missing) or 'nothing else'}{told}; `policy show default` explains each key"
    )
