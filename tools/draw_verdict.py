"""Draw the figures of docs/how-it-works.md: how a verdict against a reference comes about.

    clipguard lab base nano-rn -o base.safetensors
    clipguard lab plant badnets -o poisoned
    python tools/draw_verdict.py poisoned/model.pt base.safetensors -o docs

Scans the model against the reference, as a user would, and writes three SVG files: which groups of
classes the suspect yields to sooner (`verdict-screen.svg`), the four rates of its strongest
candidate (`verdict-rates.svg`), and where V lies among the models that the limits were fitted on
(`verdict-limits.svg`).
"""

from __future__ import annotations

import argparse
import json
import runpy
from dataclasses import replace
from pathlib import Path
from xml.sax.saxutils import escape

import clipguard
from clipguard.audit.profiles import KINDS, profile
from clipguard.checkpoint.load import load_checkpoint
from clipguard.detect.score import curve_of
from clipguard.files import write_atomic
from clipguard.model.open_clip import build_model, device_of
from clipguard.policy.document import load_policy
from clipguard.probe.load import bundled_probe
from clipguard.probe.sets import Subject
from clipguard.record import Candidate

ROOT = Path(__file__).resolve().parent.parent
FIT = runpy.run_path(str(ROOT / "tools" / "fit_differential.py"))
ROWS = ROOT / "benchmarks" / "results" / "differential-calibration.json"
WIDTH, ROW, LEFT = 680, 22, 230
PLANTED, HONEST, LIMIT = "#c0392b", "#2471a3", "#555555"
SHOWN = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("reference", type=Path)
    parser.add_argument("-o", "--output-dir", type=Path, default=Path("docs"))
    given = parser.parse_args()
    record = clipguard.scan(given.model, reference=given.reference, purify="never", export="none")
    found = next(one for one in record.detectors if one.name == "differential")
    figures = {
        "verdict-screen.svg": screen(given.model, given.reference, found.candidates[0]),
        "verdict-rates.svg": rates(found.candidates[0]),
        "verdict-limits.svg": limits(found.excess or 0.0),
    }
    for name, figure in figures.items():
        write_atomic(given.output_dir / name, figure)


def screen(model: Path, reference: Path, best: Candidate) -> str:
    """D of the groups that lead most, in the kind of trigger that found most."""
    if best.against is None:
        raise ValueError("a scan against a reference has the rates of both")
    kind = KINDS[best.against.kind]
    device, settings = device_of("cpu"), profile("standard")
    suspect, other = (build_model(load_checkpoint(path), device) for path in (model, reference))
    search = replace(settings.differential, kinds=(kind,))
    probe = bundled_probe(suspect.image_size, settings.scenes, seed=0)
    pair = search.pair(Subject(suspect, probe), other)
    aims, lead = search.groups_led(pair, kind, seed=0, tick=lambda: None)
    most: dict[tuple[int, ...], float] = {}
    for value, aim in sorted(zip(lead, aims, strict=True), key=lambda one: -one[0]):
        most.setdefault(aim.goal, value)
    rows = []
    for goal, value in list(most.items())[:SHOWN]:
        names = [pair.names[one] for one in goal]
        rows.append((", ".join(names), value, PLANTED if best.target in names else HONEST))
    told = f"D of the groups that lead most, trigger: {best.against.kind} (red: with {best.target})"
    return bars(told, rows, 1.0)


def rates(best: Candidate) -> str:
    """The four rates of a candidate."""
    against = best.against
    if against is None:
        raise ValueError("a scan against a reference has the rates of both")
    rows = [
        ("own: its trigger, on it", best.asr.value, PLANTED),
        ("transfer: that one, on the reference", against.transfer.value, HONEST),
        ("other: the reference's own trigger", against.reference.value, HONEST),
        ("back: that one, on the suspect", against.back.value, PLANTED),
    ]
    return bars(f"Share of images read as {best.target}, {best.family} trigger", rows, 1.0)


def limits(value: float) -> str:
    """The excess of the models behind the limits, of this one, and where the policy decides."""
    kept = json.loads(ROWS.read_text(encoding="utf-8"))
    curve, policy = curve_of(profile("standard").differential, "base"), load_policy("default")
    known = [
        (FIT["excess"](row, curve.usual), row["kind"] == "poisoned")
        for row in kept
        if row["budget"] == "standard" and FIT["role_of"](row) == "base"
    ]
    at = {
        name: FIT["crossing"](curve, getattr(policy.backdoor, key))
        for name, key in (("no evidence", "clear_score"), ("fail", "max_score"))
    }
    most = max(value, *(one for one, _ in known)) + 1

    def place(value: float) -> float:
        return 20 + (WIDTH - 40) * max(value, 0.0) / most

    marks = [
        f'<circle cx="{place(one):.1f}" cy="{70 if bad else 100}" r="5" '
        f'fill="{PLANTED if bad else HONEST}" fill-opacity="0.6"/>'
        for one, bad in known
    ]
    for name, limit in at.items():
        x = place(limit)
        marks.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="45" y2="115" stroke="{LIMIT}"/>')
        anchor = "end" if name == "no evidence" else "start"
        marks.append(text(x, 40, f"{name} {limit:.1f}", anchor))
    marks.append(f'<path d="M{place(value):.1f} 128 l-6 12 h12 z" fill="{PLANTED}"/>')
    marks.append(text(place(value), 155, f"this model {value:.1f}", "middle"))
    told = "Excess of planted (red) and honest (blue) fine-tunes of the calibration side"
    return svg(told, "".join(marks), 165)


def bars(title: str, rows: list[tuple[str, float, str]], most: float) -> str:
    """Horizontal bars, with their names on the left and their values at the end."""
    most = max(most, *(value for _, value, _ in rows))
    drawn = []
    for i, (name, value, colour) in enumerate(rows):
        y, length = 34 + i * ROW, (WIDTH - LEFT - 120) * max(value, 0.0) / most
        drawn.append(text(LEFT + 50, y + 13, name, "end"))
        drawn.append(
            f'<rect x="{LEFT + 58}" y="{y}" width="{length:.1f}" height="{ROW - 6}" '
            f'fill="{colour}"/>'
        )
        drawn.append(text(LEFT + 64 + length, y + 13, f"{value:.2f}", "start"))
    return svg(title, "".join(drawn), 44 + len(rows) * ROW)


def text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y}" text-anchor="{anchor}">{escape(words)}</text>'


def svg(title: str, inside: str, height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12" role="img">'
        f'<title>{escape(title)}</title><rect width="100%" height="100%" fill="white"/>'
        f'<text x="20" y="20" font-weight="bold">{escape(title)}</text>{inside}</svg>\n'
    )


if __name__ == "__main__":
    main()
