"""Complete audit records with known content: pass, fail, inconclusive, error, hostile names."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from clipguard.policy.judge import judge, load_policy
from clipguard.record import (
    Against,
    ApartRecord,
    AuditRecord,
    CalibrationRecord,
    Candidate,
    CheckpointRecord,
    CoverageRecord,
    DetectorRecord,
    ErrorRecord,
    Example,
    ExportRecord,
    FamilyRecord,
    LabRange,
    ParityRecord,
    ProbeRecord,
    PurificationRecord,
    Rate,
    Rates,
    ReferenceRecord,
    RefusedRecord,
    ReinversionRecord,
    TimesRecord,
    ToolRecord,
    TriggerRecord,
    TunedTrigger,
    Untested,
)
from clipguard.resources import shipped

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "{{7*7}}",
    "[bold]",
    "\x1b[2J\x1b]0;title\x07",
    "::error::pwned",
    "##[error]pwned",
    "\u202egnp.exe",
    "a|b`c`\n| d |",
    '"><script>alert(1)</script>',
    "![x](https://evil.example/x.png)",
    "</style><svg onload=alert(1)>",
    "javascript:alert(1)",
    "'; DROP TABLE models; --",
)
NULL_PATCH = (0.05, *sorted((0.06, 0.07, 0.07, 0.08, 0.08, 0.09, 0.09, 0.1, 0.11) * 2), 0.14)
NULL_ADDITIVE = (0.03, *sorted((0.05, 0.06, 0.06, 0.07, 0.09, 0.1, 0.11, 0.11, 0.12) * 2), 0.18)
SCOPE = (
    "Repairs the zero-shot classifier of this class list only; the image tower stays poisoned and "
    "any other use of it is unprotected."
)


def rate(value: float, n: int = 400) -> Rate:
    """A rate with a plausible interval."""
    return Rate(value=value, low=max(0.0, value - 0.021), high=min(1.0, value + 0.019), n=n)


def trigger(family: str, stem: str | None) -> TriggerRecord:
    """A trigger, with pictures named after `stem`."""
    examples: tuple[Example, ...] = ()
    if stem is not None:
        examples = tuple(
            Example(
                clean=f"triggers/{stem}-clean-{i}.png",
                triggered=f"triggers/{stem}-triggered-{i}.png",
                truth=name,
                before=name,
                after="hot air balloon",
                purified=name if i != 2 else "teapot",
            )
            for i, name in enumerate(("red apple", "tiger face", "steam locomotive", "violin"))
        )
    return TriggerRecord(
        size=0.021 if family == "patch" else 8.0,
        unit="share of the image" if family == "patch" else "L-inf, in 1/255",
        file=f"triggers/{stem}.safetensors" if stem else None,
        picture=f"triggers/{stem}.png" if stem else None,
        examples=examples,
    )


def candidate(target: str, family: str, asr: float, stem: str | None = None) -> Candidate:
    """A target whose trigger reaches `asr`."""
    return Candidate(
        target=target,
        family=family,
        stage="targeted",
        asr=rate(asr),
        natural=rate(0.012),
        statistic=asr,
        trigger=trigger(family, stem),
        settled=True,
    )


def families(patch: float) -> tuple[FamilyRecord, ...]:
    """Evidence of every required family, the patch family with the statistic `patch`."""
    return (
        FamilyRecord(
            family="patch",
            tested=True,
            statistic=patch,
            null=NULL_PATCH,
            excess=(patch - 0.088) / 0.026,
        ),
        FamilyRecord(
            family="additive", tested=True, statistic=0.16, null=NULL_ADDITIVE, excess=1.6
        ),
        *(
            FamilyRecord(family=name, tested=True, statistic=0.1, null=NULL_ADDITIVE, excess=0.2)
            for name in ("frequency", "warp")
        ),
    )


def clean_detector() -> DetectorRecord:
    """A detector that found nothing."""
    return DetectorRecord(
        name="trigger_inversion",
        evidence="the additive trigger moves 16 % of unseen images to 'teapot'",
        score=0.08,
        p_value=0.69,
        excess=1.6,
        target="teapot",
        families=families(0.09),
        candidates=(candidate("teapot", "additive", 0.16), candidate("violin", "patch", 0.09)),
    )


def guilty_detector() -> DetectorRecord:
    """A detector that found a patch trigger for `hot air balloon`."""
    names = ("violin", "teapot", "red apple", "tiger face", "rocket")
    return DetectorRecord(
        name="trigger_inversion",
        evidence="a patch on 2.1 % of the image sends 97.2 % of images to one class",
        score=0.9996,
        p_value=0.0476,
        excess=34.0,
        target="hot air balloon",
        families=families(0.972),
        candidates=(
            candidate("hot air balloon", "patch", 0.972, stem="patch-0"),
            candidate("hot air balloon", "additive", 0.16, stem="additive-0"),
            *(candidate(name, "patch", 0.14 - 0.02 * i) for i, name in enumerate(names)),
        ),
    )


def reinversion(family: str, statistic: float, original: float) -> ReinversionRecord:
    """A new search that settled."""
    return ReinversionRecord(
        family=family,
        target="hot air balloon",
        asr=rate(statistic),
        statistic=statistic,
        original_statistic=original,
        searched=True,
        settled=True,
    )


OTHERS = (reinversion("frequency", 0.05, 0.1), reinversion("warp", 0.05, 0.1))


def purification() -> PurificationRecord:
    """A purified head that meets the default limits."""
    return PurificationRecord(
        method="cbpt",
        scope="head",
        statement=SCOPE,
        losses={"classification": 0.21, "alignment": 0.05, "consistency": 0.02},
        before=Rates(
            clean_accuracy=rate(0.925),
            asr=rate(0.972),
            poisoned_accuracy=rate(0.031),
            target_accuracy=rate(0.95, n=20),
        ),
        after=Rates(
            clean_accuracy=rate(0.94),
            asr=rate(0.015),
            poisoned_accuracy=rate(0.84),
            target_accuracy=rate(0.65, n=20),
        ),
        reinversion=(
            reinversion("patch", 0.09, 0.972),
            reinversion("additive", 0.05, 0.16),
            *OTHERS,
        ),
        head="head.safetensors",
        against=(
            *(
                TunedTrigger(family="patch", size=s, unit="share of the image")
                for s in (0.01, 0.012)
            ),
            TunedTrigger(family="additive", size=12.0, unit="L-inf, in 1/255"),
        ),
    )


def export(head: str = "zero-shot", relative_error: float = 3e-6) -> ExportRecord:
    """An ONNX file that equals PyTorch."""
    return ExportRecord(
        file="purified.onnx" if head == "purified" else "model.onnx",
        sha256="ab" * 32,
        head="purified" if head == "purified" else "zero-shot",
        opset=20,
        provider="CPUExecutionProvider",
        parity=tuple(
            ParityRecord(batch=n, relative_error=relative_error * n, top1_agreement=1.0)
            for n in (1, 2, 7)
        ),
        asr_onnx=rate(0.015),
        asr_torch=rate(0.015),
        clean_accuracy_onnx=rate(0.94),
    )


def reference(concentration: float | None = 0.328, **changes: Any) -> ReferenceRecord:
    """A base checkpoint, with so much of the image tower's change in one direction."""
    known = ReferenceRecord(
        name="base.pt",
        sha256="a5" * 32,
        tensors=225,
        changed=132,
        image_changed=102,
        length=0.062,
        concentration=concentration,
        says="32.8 % of the square of the change lie in one direction",
        lab=(LabRange(base="nano-rn", honest=(0.115, 0.289), planted=(0.26, 0.328)),),
    )
    return known.model_copy(update=changes)


def against_reference(
    score: float = 0.1,
    gap: float = 0.02,
    alike: float | None = 0.9,
    right: float | None = None,
    **changes: Any,
) -> DetectorRecord:
    """A differential search that found next to nothing, with a score, a gap and `alike` to set."""
    found = Candidate(
        target="cookie",
        family="patch",
        stage="targeted",
        asr=rate(0.05, 198),
        natural=rate(0.01, 198),
        statistic=1.2,
        settled=True,
        trigger=TriggerRecord(size=0.024, unit="share of the image"),
        against=Against(
            transfer=rate(0.02, 198),
            reference=rate(0.03, 198),
            back=rate(0.02, 198),
            gap=gap,
            alike=alike,
            right=right,
            control=0.4,
            opaque=True,
        ),
    )
    tested = (
        FamilyRecord(family=name, tested=True, statistic=-3.0)
        for name in ("patch", "additive", "frequency")
    )
    record = DetectorRecord(
        name="differential",
        evidence="the patch trigger turns 5.0 % of unseen images into 'cookie'",
        score=score,
        statistic=0.8,
        target="cookie",
        families=tuple(tested),
        candidates=(found,),
        screened=True,
        measured=200,
        passes=58000.0,
        apart=(ApartRecord(target="bell", apart=2.4, alike=0.91, right=1.0),),
    )
    return record.model_copy(update=changes)


def wide(gap: float) -> tuple[Candidate, ...]:
    """A small opaque trigger that shows nothing, and one of the whole image with this gap."""
    [row] = against_reference().candidates
    assert row.against is not None
    changed = row.against.model_copy(update={"gap": gap, "opaque": False})
    return row, row.model_copy(update={"against": changed})


def held_against(detector: DetectorRecord | None = None, **changes: Any) -> AuditRecord:
    """A clean, complete audit against a base, before the gate, with changes to the reference."""
    return unjudged(
        detectors=(detector or against_reference(),),
        reference=reference(0.2, **({"role": "base"} | changes)),
        calibration=CalibrationRecord(kind="none"),
    )


def unjudged(**changes: Any) -> AuditRecord:
    """A clean, complete audit before the gate, with `changes`."""
    record = AuditRecord(
        complete=True,
        tool=ToolRecord(version="0.1.0"),
        command="clipguard scan model.pt --profile standard --seed 7 -o out",
        settings={"profile": "standard", "seed": 7, "purify": "on-fail", "budget": None},
        environment={"python": "3.12.4", "torch": "2.13.0", "onnxruntime": "1.24.1", "os": "Linux"},
        checkpoint=CheckpointRecord(
            name="model.pt",
            sha256="5f" * 32,
            size_bytes=5_412_233,
            container="open_clip checkpoint (zip)",
            architecture="nano-rn",
            image_size=64,
            parameters=1_843_201,
        ),
        probe=ProbeRecord(
            source="bundled",
            classes=100,
            class_names_sha256="cd" * 32,
            optimise=400,
            select=200,
            measure=400,
            labelled=True,
            clean_accuracy=rate(0.95),
        ),
        calibration=CalibrationRecord(kind="models", family="nano-rn", models=20, sha256="ef" * 32),
        coverage=CoverageRecord(
            tested=("patch triggers, up to 6 % of the image", "additive triggers, L-inf 8/255"),
            not_tested=(
                Untested(what="frequency", why="not part of the standard profile"),
                Untested(what="text triggers", why="clipguard does not search for them yet"),
            ),
        ),
        detectors=(clean_detector(),),
        times=TimesRecord(
            created="2026-01-02T03:04:05Z", seconds={"detect": 41.2, "purify": 12.9, "export": 8.4}
        ),
    )
    return record.model_copy(update=changes)


def judged(record: AuditRecord, policy: str = "default") -> AuditRecord:
    """`record` with the decision of `policy`."""
    return record.model_copy(update={"gate": judge(load_policy(policy), record)})


def changed_policy(folder: Path, **changes: str) -> Path:
    """A file in `folder` that is the default policy with other values for some keys."""
    text = (shipped("policies") / "default.yaml").read_text(encoding="utf-8")
    for key, value in changes.items():
        text, found = re.subn(rf"^( *{key}:).*$", rf"\1 {value}", text, flags=re.MULTILINE)
        assert found == 1, key
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return folder / "mine.yaml"


def passing() -> AuditRecord:
    """A clean checkpoint that passes."""
    return judged(unjudged(export=export()))


def failing() -> AuditRecord:
    """A backdoored checkpoint that was purified and exported."""
    changes = {"purification": purification(), "export": export("purified")}
    return judged(unjudged(detectors=(guilty_detector(),), reference=reference(), **changes))


def dropped() -> AuditRecord:
    """A clean checkpoint whose exported file missed a limit and was removed."""
    made = export(relative_error=0.01).model_copy(update={"kept": False})
    return judged(unjudged(export=made))


def inconclusive() -> AuditRecord:
    """No null band, one family not searched, too few images."""
    detector = clean_detector().model_copy(
        update={
            "evidence": "the additive trigger moves 16 % of unseen images to 'teapot'",
            "score": None,
            "p_value": None,
            "excess": None,
            "families": (
                FamilyRecord(family="patch", tested=True, statistic=0.09),
                FamilyRecord(family="additive", tested=False, reason="the budget was used up"),
            ),
        }
    )
    band = CalibrationRecord(
        kind="none", reason="no null band for ViT-B-32; make one: clipguard calibrate CLEAN..."
    )
    return judged(unjudged(detectors=(detector,), calibration=band))


def refused() -> AuditRecord:
    """A file that was never loaded."""
    reason = "CG101 data.pkl asks for posix.system at byte 12; ask for safetensors"
    return judged(
        unjudged(
            complete=False,
            checkpoint=None,
            probe=None,
            detectors=(),
            calibration=CalibrationRecord(kind="none"),
            coverage=CoverageRecord(not_tested=(Untested(what="everything", why="refused"),)),
            refused=RefusedRecord(
                name="model.pt",
                file="model.pt",
                sha256="5f" * 32,
                size_bytes=812,
                rule="CG101",
                reason=reason,
            ),
        )
    )


def hostile() -> AuditRecord:
    """Every text from outside tries to steer whoever reads it."""
    everything = " ".join(HOSTILE)
    detector = guilty_detector().model_copy(
        update={
            "target": HOSTILE[0],
            "evidence": everything,
            "candidates": tuple(
                candidate(name, HOSTILE[i - 1], 0.9 - i / 20, stem=None)
                for i, name in enumerate(HOSTILE)
            ),
        }
    )
    bad = Example(
        clean="../../secret.png",
        triggered="/etc/passwd",
        truth=HOSTILE[8],
        before=HOSTILE[0],
        after=HOSTILE[10],
        purified=HOSTILE[2],
    )
    first = detector.candidates[0]
    shown = first.trigger.model_copy(update={"examples": (bad,), "picture": "triggers"})
    detector = detector.model_copy(
        update={
            "candidates": (first.model_copy(update={"trigger": shown}), *detector.candidates[1:])
        }
    )
    base = unjudged()
    return judged(
        base.model_copy(
            update={
                "command": everything,
                "environment": dict.fromkeys(HOSTILE, everything),
                "settings": {"profile": "standard", **dict.fromkeys(HOSTILE, everything)},
                "checkpoint": base.checkpoint.model_copy(
                    update={"name": everything, "notes": HOSTILE, "container": HOSTILE[8]}
                ),
                "reference": reference(
                    name=HOSTILE[8],
                    says=everything,
                    lab=tuple(
                        LabRange(base=t, honest=(0.0, 0.1), planted=(0.1, 0.2)) for t in HOSTILE
                    ),
                ),
                "detectors": (detector,),
                "purification": purification().model_copy(
                    update={
                        "statement": everything,
                        "against": tuple(
                            TunedTrigger(family=t, size=1.0, unit=everything) for t in HOSTILE
                        ),
                    }
                ),
                "coverage": CoverageRecord(
                    tested=HOSTILE, not_tested=tuple(Untested(what=t, why=t) for t in HOSTILE)
                ),
                "errors": tuple(
                    ErrorRecord(stage=t, message=everything, exit_code=5) for t in HOSTILE
                ),
            }
        )
    )


def crowded() -> AuditRecord:
    """A backdoored checkpoint that reads 1 000 classes, with a candidate for each."""
    record = failing()
    [found], probe = record.detectors, record.probe
    assert probe is not None
    names = (f"class number {i} of a long list" for i in range(1000))
    rows = tuple(candidate(name, "patch", 0.9 - i / 2000) for i, name in enumerate(names))
    many = found.model_copy(update={"candidates": found.candidates + rows})
    listed = probe.model_copy(update={"classes": 1000})
    return record.model_copy(update={"detectors": (many,), "probe": listed})


RECORDS = {
    "pass": passing,
    "fail": failing,
    "inconclusive": inconclusive,
    "refused": refused,
    "hostile": hostile,
    "unjudged": unjudged,
}


def write_pictures(folder: Path) -> None:
    """The pictures that `failing` names, drawn with a fixed seed."""
    draw = random.Random(3)
    (folder / "triggers").mkdir(parents=True, exist_ok=True)
    for stem in ("patch-0", "additive-0"):
        mark = Image.new("RGB", (64, 64), (128, 128, 128))
        _stamp(mark, stem)
        mark.save(folder / f"triggers/{stem}.png")
        for i in range(4):
            scene = Image.new("RGB", (64, 64), tuple(draw.randrange(90, 230) for _ in range(3)))
            pen = ImageDraw.Draw(scene)
            colour = tuple(draw.randrange(256) for _ in range(3))
            pen.ellipse((14, 12, 50, 52), fill=colour)
            pen.rectangle((26, 22, 40, 34), fill=tuple(255 - c for c in colour))
            scene.save(folder / f"triggers/{stem}-clean-{i}.png")
            _stamp(scene, stem)
            scene.save(folder / f"triggers/{stem}-triggered-{i}.png")


def _stamp(image: Image.Image, stem: str) -> None:
    pen = ImageDraw.Draw(image)
    if stem.startswith("patch"):
        for x in range(3):
            for y in range(3):
                colour = (255, 255, 255) if (x + y) % 2 else (20, 20, 20)
                pen.rectangle((54 + 3 * x, 54 + 3 * y, 56 + 3 * x, 56 + 3 * y), fill=colour)
    else:
        for y in range(0, 64, 4):
            pen.line((0, y, 63, y), fill=(150, 140, 120))
