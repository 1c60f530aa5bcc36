"""Everything before the first search: what it would look at, what it takes, whether it can pass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clipguard.audit.before import require_inputs
from clipguard.audit.coverage import begun_record
from clipguard.audit.forecast import Forecast, forecast
from clipguard.audit.options import Options, seed_of
from clipguard.audit.outlook import unremarkable
from clipguard.audit.pipeline import Suspect, asked_for, loaded
from clipguard.audit.profiles import Profile, profile, profile_alone
from clipguard.audit.watch import Watch
from clipguard.checkpoint.sandbox import Guard
from clipguard.detect.cost import Sizes
from clipguard.detect.lineage import load_reference, open_reference
from clipguard.detect.null_band import family_of
from clipguard.export.limits import require_exportable
from clipguard.model.open_clip import build_model, device_of
from clipguard.probe.intervals import wilson
from clipguard.probe.load import Scenes, class_list_digest, load_probe
from clipguard.probe.rates import classify, embed, require_measurable
from clipguard.probe.sets import BUNDLED, ProbeSet, Subject
from clipguard.record import AuditRecord, ProbeRecord, Rate
from clipguard.report.folder import require_ours, require_writable
from clipguard.search.roles import Progress

LOOK = Scenes(optimise=1, select=1, measure=1)
"""Of the bundled drawings; how many there would be needs none of them."""
LOOKED_AT = 32
"""Images behind the first look at clean accuracy."""


@dataclass(frozen=True, eq=False, kw_only=True)
class DryRun:
    """What is known before a search.

    Attributes:
        record: of a scan that finds nothing, with the policy's decision about it.
        forecast: what it will take.
        load_s: seconds until here; a scan takes as many and a little more before it searches.
    """

    record: AuditRecord
    forecast: Forecast
    load_s: float


def dry_run(path: Path, options: Options, out: Path, *, progress: Progress) -> DryRun:
    """Load the checkpoint and its images, search nothing and write nothing.

    Args:
        path: checkpoint file or folder.
        options: of the scan.
        out: report folder of the scan.
        progress: told about each stage.

    Raises:
        UsageError: as for a scan.
        RefusedError: the file is no checkpoint, or opening it could do harm.
        ExportError: the scan could not export the model.
        ClipguardError: too little memory or disk.
        InconclusiveError: too few images.
    """
    settings = (profile if options.reference else profile_alone)(options.profile)
    require_inputs(path, options, out)
    require_writable(out)
    require_ours(out)
    watch = Watch(None, progress)
    record = begun_record(path, options, watch.created)
    suspect = _loaded(path, options, watch)
    require_measurable(suspect.subject.probe.measure)
    sizes, subject = _sizes(suspect.subject.probe, settings), suspect.subject
    record = loaded(record, suspect, _described(subject, sizes))
    with watch.stage("speed"):
        other = suspect.reference.model if suspect.reference else None
        told = forecast(
            subject,
            other,
            settings,
            sizes,
            export=options.export == "onnx",
            canary=options.canary,
        )
    load_s = sum(spent for name, spent in watch.seconds.items() if name != "speed")
    return DryRun(
        record=unremarkable(record, suspect, options, settings, watch),
        forecast=told,
        load_s=load_s,
    )


def _loaded(path: Path, options: Options, watch: Watch) -> Suspect:
    """As `pipeline.load`, but few images are made and none decides about the architecture."""
    device, guard, reference = device_of(options.device), Guard(options.sandbox), None
    with watch.stage("load"):
        checkpoint = asked_for(path, options, guard)
        model = build_model(checkpoint, device)
    if options.export == "onnx":
        require_exportable(model.image_tower())
    if options.reference is not None:
        with watch.stage("reference"):
            other = load_reference(options.reference, options.arch, guard)
            reference = open_reference(checkpoint, other, device)
    seed = seed_of(options, checkpoint.record.sha256)
    with watch.stage("probe"):
        probe = load_probe(model, options.probe, LOOK, seed=seed, look=LOOKED_AT)
    family = family_of(checkpoint.architecture)
    return Suspect(Subject(model, probe), seed, family, checkpoint.record, reference)


def _sizes(probe: ProbeSet, settings: Profile) -> Sizes:
    parts = [len(part) for part in (probe.optimise, probe.select, probe.measure)]
    if probe.source == BUNDLED:
        scenes = settings.scenes
        times = (scenes.optimise, scenes.select, scenes.measure)
        parts = [count * more for count, more in zip(parts, times, strict=True)]
    optimise, select, measure = parts
    return Sizes(optimise, select, measure, len(probe.class_names), len(probe.further))


def _described(subject: Subject, sizes: Sizes) -> ProbeRecord:
    """The probe set as it will be, with a first look at clean accuracy.

    Images of *select* are looked at: what is published rests on *measure*, which is left alone.
    """
    probe, accuracy = subject.probe, None
    known = probe.select.labels >= 0
    if probe.labelled and bool(known.any()):
        look = probe.select.first(LOOKED_AT)
        hits = classify(embed(subject.model, look), subject.classes) == look.labels
        accuracy = Rate(**wilson(int(hits.sum()), len(hits))._asdict())
    return ProbeRecord(
        source=probe.source,
        classes=sizes.classes,
        class_names_sha256=class_list_digest(probe.class_names),
        optimise=sizes.optimise,
        select=sizes.select,
        measure=sizes.measure,
        labelled=probe.labelled,
        clean_accuracy=accuracy,
        skipped=probe.skipped,
        warnings=probe.warnings,
    )
