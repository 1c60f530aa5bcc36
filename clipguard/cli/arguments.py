"""Options that several commands share, each described once."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class Profile(str, Enum):
    """How hard to search."""

    fast = "fast"
    standard = "standard"
    thorough = "thorough"


class SandboxMode(str, Enum):
    """What a checkpoint is opened by."""

    auto = "auto"
    process = "process"
    none = "none"


class Provider(str, Enum):
    """Execution provider that an export must run on."""

    cuda = "cuda"
    cpu = "cpu"


class Purifier(str, Enum):
    """How to repair."""

    both = "realign+cbpt"
    prompts = "cbpt"
    tower = "realign"


class Which(str, Enum):
    """Which models of a zoo."""

    calibration = "calibration"
    test = "test"
    all = "all"


Checkpoint = Annotated[
    Path, typer.Argument(help="Checkpoint: a file, or a folder with its config.")
]
Checkpoints = Annotated[
    list[Path],
    typer.Argument(help="Checkpoints: files, or folders with their config."),
]
OutputDir = Annotated[
    Path,
    typer.Option("--output-dir", "-o", help="Report folder. Several models get a sub-folder each."),
]
PolicyName = Annotated[str, typer.Option(help="default, strict, research, or a policy file.")]
HowHard = Annotated[Profile, typer.Option(help="How hard to search. fast needs --reference.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of every random choice.")]
ScanSeed = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=2**31 - 1,
        help="Seed of every random choice. Made from the model's digest if left out.",
    ),
]
Reference = Annotated[
    Path | None,
    typer.Option(
        metavar="MODEL",
        help="Model to hold it against, best the one that it was made from: a file, a folder, "
        "hf-hub:OWNER/NAME, or ARCH:TAG of open_clip.",
    ),
]
ProbeData = Annotated[
    Path | None,
    typer.Option(
        help="Clean images: a folder with one sub-folder per class, with metadata.csv or with "
        "WebDataset tars; or a CSV, JSONL, Parquet or tar file."
    ),
]
ClassNames = Annotated[
    Path | None,
    typer.Option(
        help="Class names: one per line, or a JSON list. A JSON object, or CSV of two columns, "
        "names folders."
    ),
]
Templates = Annotated[
    Path | None, typer.Option(help="Prompt templates, one per line, each with one {}.")
]
Canary = Annotated[
    bool,
    typer.Option(
        "--canary",
        help="Also plant a backdoor into a copy of the model, and look for it. Where the limits "
        "were never tested, nothing passes without.",
    ),
]
Vocabulary = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|imagenet",
        help="Further names that a backdoor may lead to. Needs --reference.",
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(help="Architecture name or config JSON. Found from the files if left out."),
]
TextFrom = Annotated[
    Path | None,
    typer.Option(
        metavar="MODEL", help="CLIP whose text tower an image tower gets that was saved alone."
    ),
]
LoraBase = Annotated[
    Path | None, typer.Option(metavar="MODEL", help="CLIP that a LoRA adapter is merged into.")
]
Calibration = Annotated[Path | None, typer.Option(help="Null band made by `clipguard calibrate`.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda or cuda:N.")]
HowToRepair = Annotated[
    Purifier,
    typer.Option(
        help="Repair the image tower and then the prompts of this class list (realign+cbpt), only "
        "the tower, for every class list (realign), or only the prompts (cbpt)."
    ),
]
RequireEp = Annotated[
    Provider | None, typer.Option(help="Fail if onnxruntime runs on another execution provider.")
]
Sandbox = Annotated[
    SandboxMode,
    typer.Option(
        help="What opens a checkpoint: a process without network and with limits (auto), one with "
        "limits alone (process), or this one (none)."
    ),
]
WaiverFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Lines that somebody takes responsibility for, one model at a time."
    ),
]
SarifRoot = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="What findings in code scanning are located from. The root of the repository that "
        "this is run in, if left out.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]
