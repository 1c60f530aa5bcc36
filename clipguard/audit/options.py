"""What one audit does, chosen by the command line and nowhere else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clipguard.checkpoint.sandbox import SandboxMode
from clipguard.policy.judge import Policy, Waivers, load_waivers
from clipguard.probe.load import ProbeSource
from clipguard.purify.repair import Way


@dataclass(frozen=True, kw_only=True)
class Options:
    """What one audit does.

    Attributes:
        policy: limits and required coverage.
        profile: fast (only with a reference), standard or thorough.
        seed: drives every draw; None makes it from the model's digest and the policy's salt.
        purify: never, on-fail or always; None leaves it to the policy.
        purifier: how: the prompts, the image tower, or this and then its prompts.
        export: none or onnx.
        release: `decision` exports the model itself on a pass and else what was repaired;
            `purified` always exports what was repaired.
        provider: execution provider that the export must run on, or None.
        budget_s: wall-clock seconds after which what is left is reported as not tested.
        arch: architecture name or config JSON, or None to infer it.
        text_from: model whose text tower an image tower alone gets, or None.
        lora_base: model that a LoRA adapter is merged into, or None.
        probe: where images, class names and templates come from.
        calibration: file with a null band, or None for the shipped ones.
        reference: checkpoint that the audited one is said to come from, or None.
        canary: whether to plant a backdoor into a copy, to try the search against the reference.
        device: where to compute: auto, cpu, cuda or cuda:N.
        sandbox: what a checkpoint is read in, see `Guard.mode`.
        waivers: lines that somebody takes responsibility for, or None.
        location: see `AuditRecord.location`.
    """

    policy: Policy
    profile: str = "standard"
    seed: int | None = None
    purify: Literal["never", "on-fail", "always"] | None = None
    purifier: Way = "realign+cbpt"
    export: Literal["none", "onnx"] = "onnx"
    release: Literal["decision", "purified"] = "decision"
    provider: str | None = None
    budget_s: float | None = None
    arch: str | None = None
    text_from: Path | None = None
    lora_base: Path | None = None
    probe: ProbeSource = ProbeSource()
    calibration: Path | None = None
    reference: Path | None = None
    canary: bool = False
    device: str = "auto"
    sandbox: SandboxMode = "auto"
    waivers: Waivers | None = None
    location: str | None = None


_PATHS = ("calibration", "reference", "text_from", "lora_base")
_PROBE = {
    "probe_data": "images",
    "classnames": "class_names",
    "templates": "templates",
    "vocabulary": "vocabulary",
}


def options_from(policy: Policy, given: Mapping[str, Any]) -> Options:
    """What the command line, or somebody's Python, asks for.

    Args:
        policy: limits and required coverage.
        given: keys and values of `clipguard.ScanOptions`; None is the default.

    Raises:
        TypeError: no option of that name.
    """
    left = {key: value for key, value in given.items() if value is not None}
    probe = {_PROBE[key]: Path(left.pop(key)) for key in _PROBE if key in left}
    left |= {key: Path(left[key]) for key in _PATHS if key in left}
    if "waivers" in left:
        left["waivers"] = load_waivers(Path(left["waivers"]))
    return Options(policy=policy, probe=ProbeSource(**probe), **left)


def seed_of(options: Options, sha256: str) -> int:
    """The seed of an audit: the one that was given, or one that follows from the finished weights.

    Nobody who trains a model knows on which images, from which starts and at which places it will
    be searched, and nobody can roll a verdict again.

    Args:
        options: of the audit.
        sha256: digest of the weights file.

    Returns:
        Below 2**31.
    """
    if options.seed is not None:
        return options.seed
    told = f"{options.policy.salt}\n{sha256}"
    return int(hashlib.sha256(told.encode()).hexdigest()[:8], 16) % 2**31
