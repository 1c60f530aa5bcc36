"""One offline HTML file: verdict first, no scripts, nothing fetched."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from clipguard.record import AuditRecord, Decision, Outcome
from clipguard.record.schema import dumps
from clipguard.record.wording import (
    WORDS,
    interval,
    name_of,
    not_kept,
    number,
    percent,
    power_told,
    tuned_against,
    verdict,
)
from clipguard.report.formats._pictures import Pictures
from clipguard.report.formats._strip import strip
from clipguard.resources import shipped
from clipguard.text_safety import safe_text

if TYPE_CHECKING:  # types.py imports torch, which renderings do without
    from clipguard.report.roles import Renderer

SENTENCE, NAME = 1200, 60
OUTCOMES = {
    Outcome.NO_EVIDENCE: "no evidence",
    Outcome.INCONCLUSIVE: "inconclusive",
    Outcome.SUSPICIOUS: "suspicious",
    Outcome.BACKDOORED: "backdoored",
}


@dataclass(frozen=True, kw_only=True)
class Html:
    """The report a person reads.

    Attributes:
        targets: rows of the target ranking.
        triggers: triggers in the gallery.
        examples: example images per trigger.
        rows: rows of any other list; what is cut is counted.
    """

    SUFFIX: ClassVar[str] = ".html"

    targets: int = 15
    triggers: int = 4
    examples: int = 4
    rows: int = 40

    def render(self, record: AuditRecord, folder: Path) -> str:
        """See `Renderer.render`."""
        return page(
            "report.html.j2",
            ("style.css",),
            folder,
            record=record,
            said=verdict(record),
            name=name_of(record),
            concluded={one.detector: one for one in record.gate.conclusions} if record.gate else {},
            not_kept=not_kept(record),
            record_sha256=hashlib.sha256(dumps(record).encode("ascii")).hexdigest(),
            shown=self,
        )


METHOD: type[Renderer] = Html


def page(template: str, styles: tuple[str, ...], folder: Path, **content: object) -> str:
    """One self-contained page.

    Args:
        template: file name of a shipped template; everything put into it is escaped.
        styles: shipped style sheets, in order; the page allows no other style.
        folder: where pictures are read from.
        content: the template's variables.
    """
    templates = shipped("reports/templates")
    style = "".join((templates / name).read_text(encoding="utf-8") for name in styles)
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    environment = _environment(templates, folder)
    made = environment.get_template(template)
    return made.render(style=Markup(style), style_hash=digest, **content)


def _environment(templates: Path, folder: Path) -> Environment:
    """Autoescape is on for every template, whatever its name; unknown names are errors."""
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader(templates),
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=percent,
        interval=interval,
        number=number,
        power_told=power_told,
        tuned_against=tuned_against,
        picture=Pictures(folder),
        strip=strip,
        short=lambda text: safe_text(text, NAME),
    )
    environment.globals.update(WORDS=WORDS, OUTCOMES=OUTCOMES, Decision=Decision)
    return environment


def _finalize(value: object) -> object:
    """Every text on its way into the page loses what could steer a reader; markup is ours."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return safe_text(value, SENTENCE)
    return value
