"""clipguard: may this CLIP checkpoint be released?

    import clipguard

    record = clipguard.scan("model.pt", "report", policy="strict")
    print(record.gate.decision, record.gate.reasons)
    stricter = clipguard.judge(record, "my-policy.yaml")

Importing it loads no torch; the first `scan` does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from clipguard.record import AuditRecord, GateRecord
    from clipguard.search.roles import Progress

__version__ = "0.1.0"
__all__ = ["ScanOptions", "__version__", "judge", "scan"]


class ScanOptions(TypedDict, total=False):
    """What `scan` takes beside the model; what is left out, or None, has its default.

    Attributes:
        profile: fast (only with a reference), standard or thorough.
        seed: drives every draw; made from the digest of the model otherwise.
        purify: when to repair the model; the policy says it otherwise.
        purifier: realign+cbpt (the image tower, then its prompts), cbpt or realign.
        export: whether to write ONNX.
        provider: execution provider that the export must run on, cuda or cpu.
        budget_s: wall-clock seconds after which what is left is reported as not tested.
        arch: architecture name or config JSON; inferred otherwise.
        text_from: CLIP whose text tower an image tower gets that was saved alone.
        lora_base: CLIP that a LoRA adapter is merged into.
        device: auto, cpu, cuda or cuda:N.
        calibration: file with a null band.
        reference: model to hold it against, best the one that it was made from.
        canary: whether to plant a backdoor into a copy, to try the search against the reference.
        probe_data: clean images: a folder with one sub-folder per class, a table, or tar files.
        classnames: file with class names, or with the name of each folder.
        templates: file with prompt templates.
        vocabulary: file with names that are no class and may be the target, or imagenet.
        sandbox: what a checkpoint is read in: auto (the best that this machine has), process (one
            of its own, with limits) or none.
        waivers: file with lines that somebody takes responsibility for.
        location: where the model lies, from the root of its repository and with `/`, for code
            scanning.
    """

    profile: Literal["fast", "standard", "thorough"]
    seed: int | None
    purify: Literal["never", "on-fail", "always"] | None
    purifier: Literal["realign+cbpt", "cbpt", "realign"]
    export: Literal["none", "onnx"]
    provider: Literal["cuda", "cpu"] | None
    budget_s: float | None
    arch: str | None
    text_from: str | Path | None
    lora_base: str | Path | None
    device: str
    calibration: str | Path | None
    reference: str | Path | None
    canary: bool
    probe_data: str | Path | None
    classnames: str | Path | None
    templates: str | Path | None
    vocabulary: str | Path | None
    sandbox: Literal["auto", "process", "none"]
    waivers: str | Path | None
    location: str | None


def scan(
    model: str | Path,
    output_dir: str | Path | None = None,
    *,
    policy: str | Path = "default",
    progress: Progress | None = None,
    **options: Unpack[ScanOptions],
) -> AuditRecord:
    """Audit one checkpoint, as `clipguard scan` does.

    Args:
        model: checkpoint file or folder.
        output_dir: report folder, made if missing; None keeps no files.
        policy: name of a shipped policy, or path of a policy file.
        progress: called with stage, steps done and steps in all.
        options: see `ScanOptions`.

    Returns:
        The record; its `gate` has the decision, every reason and the exit code. That of a file
        which could do harm, or is no checkpoint, has a `refused`, and its exit code is 4.

    Raises:
        clipguard.errors.UsageError: no such file, wrong option, policy, reference or probe data.
        TypeError: no option of that name.
    """
    from clipguard.audit.options import options_from
    from clipguard.audit.scan import audit
    from clipguard.files import mark, sweep
    from clipguard.policy.judge import load_policy

    wanted = options_from(load_policy(policy), options)
    sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=mark()) as scratch:
        out = Path(scratch) / "report" if output_dir is None else Path(output_dir)
        return audit(Path(model), wanted, out, progress=progress or _silent)


def judge(
    record: AuditRecord | str | Path,
    policy: str | Path = "default",
    waivers: str | Path | None = None,
) -> GateRecord:
    """Decide about a record again, as `clipguard gate` does. Needs no torch.

    Args:
        record: a record, or path of an `audit.json`.
        policy: name of a shipped policy, or path of a policy file.
        waivers: file with lines that somebody takes responsibility for.

    Raises:
        clipguard.errors.UsageError: no such record, policy or waiver file, or one not valid.
    """
    from clipguard.policy.judge import judge as decide
    from clipguard.policy.judge import load_policy, load_waivers
    from clipguard.record.schema import read_record

    known = read_record(Path(record)) if isinstance(record, str | Path) else record
    given = None if waivers is None else load_waivers(Path(waivers))
    return decide(load_policy(policy), known, given)


def _silent(stage: str, done: int, total: int) -> None:
    """No progress."""
