"""What is checked before the first pass: a mistake must not cost a scan."""

from __future__ import annotations

import tempfile
from pathlib import Path

from clipguard.audit.machine import free_disk, free_memory
from clipguard.audit.options import Options
from clipguard.checkpoint.hubs import is_remote
from clipguard.checkpoint.load import architecture_asked
from clipguard.detect.null_band import read_null_band
from clipguard.errors import ClipguardError, UsageError
from clipguard.export.session import require_provider
from clipguard.files import require_path
from clipguard.model.open_clip import device_of
from clipguard.model.prompts import read_class_names, read_templates
from clipguard.probe.load import IMAGENET, ProbeSource

SPARE = 50_000_000
"""Bytes of a report without a model: triggers, pictures, pages."""


def require_inputs(path: Path, options: Options, out: Path | None = None) -> None:
    """Refuse what would only be noticed during a scan, or after it.

    Args:
        path: the checkpoint.
        options: what to do.
        out: report folder, or None if nothing is written.

    Raises:
        UsageError: a path, name, list or option that is wrong, or that has no effect.
        ExportError: the execution provider that is asked for is not there.
        ClipguardError: too little memory or disk for what is asked.
    """
    _require_effect(options)
    probe, base = options.probe, options.reference
    for what, given in (
        ("", path),
        ("--probe-data", probe.images),
        ("--classnames", probe.class_names),
        ("--vocabulary", _listed(probe)),
        ("--templates", probe.templates),
        ("--calibration", options.calibration),
        ("--text-from", options.text_from),
        ("--lora-base", options.lora_base),
        ("--reference", None if base is None or is_remote(base) else base),
    ):
        if given is not None:
            require_path(given, what)
    device_of(options.device)
    if options.arch is not None:
        architecture_asked(options.arch)
    if options.calibration is not None:
        read_null_band(options.calibration)
    for listed in (probe.class_names, _listed(probe)):
        if listed is not None:
            read_class_names(listed)
    if probe.templates is not None:
        read_templates(probe.templates)
    if options.provider is not None:
        require_provider(options.provider)
    _require_room(path, options, out)


def _listed(probe: ProbeSource) -> Path | None:
    return None if str(probe.vocabulary) == IMAGENET else probe.vocabulary


def _require_effect(options: Options) -> None:
    """Refuse an option that another one makes idle: whoever gives it expects something of it."""
    probe = options.probe
    if options.reference is None and (probe.vocabulary is not None or options.canary):
        raise UsageError("--vocabulary and --canary need a model to compare with; give --reference")
    if options.reference is not None and options.calibration is not None:
        raise UsageError(
            "--calibration has no effect beside --reference, which needs no null band; give one "
            "of the two"
        )
    if options.purify == "never" and options.purifier != Options.purifier:
        raise UsageError("--purifier has no effect with --purify never; leave out one of the two")
    if options.export == "none" and options.provider is not None:
        raise UsageError("--require-ep has no effect with --export none; leave out one of the two")


def _require_room(path: Path, options: Options, out: Path | None) -> None:
    """Refuse where weights cannot fit, whatever they are; what a search needs comes on top."""
    remote = options.reference is not None and is_remote(options.reference)
    others = [options.text_from, options.lora_base, None if remote else options.reference]
    sizes = [weight_of(one) for one in (path, *others) if one is not None]
    memory, held = free_memory(), sum(sizes)
    if memory is not None and memory < held:
        raise ClipguardError(
            f"too little memory: the weights alone take {shown(held)}, {shown(memory)} are free; "
            "end other programs, or scan on a larger machine"
        )
    written = SPARE + (sizes[0] if options.export == "onnx" else 0)
    written += sizes[0] if options.purify != "never" and options.purifier != "cbpt" else 0
    places = [(Path(tempfile.gettempdir()), max(sizes), "for reading the file")]
    places += [(out, written, "for the report")] if out is not None else []
    for place, wanted, what in places:
        free = free_disk(place)
        if free < wanted:
            raise ClipguardError(
                f"too little disk {what}: {shown(wanted)} are needed, {shown(free)} are free in "
                f"{place}; free some, or choose another place"
            )


def weight_of(path: Path) -> int:
    """Bytes of the largest weights file in a folder, or of a file."""
    files = [one for one in path.iterdir() if one.is_file()] if path.is_dir() else [path]
    return max((one.stat().st_size for one in files), default=0)


def shown(size: float) -> str:
    """A number of bytes as a person reads it."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
