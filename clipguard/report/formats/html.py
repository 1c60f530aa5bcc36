"""One offline HTML file: verdict first, no scripts, nothing fetched."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from clipguard.record import AuditRecord, Decision
from clipguard.record.wording import name_of, number, verdict
from clipguard.report.blocks import shortened
from clipguard.report.formats._pictures import Pictures
from clipguard.report.formats._strip import strip
from clipguard.report.sections import sections
from clipguard.resources import shipped
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.report.roles import Renderer

SENTENCE, NAME = 1200, 60


@dataclass(frozen=True, kw_only=True)
class Html:
    """The report a person reads.

    Attributes:
        rows: most rows of a table or a list.
        pictures: most triggers, and most example images of a trigger.
        folded: keys of sections that are shown closed; print opens them.
    """

    SUFFIX: ClassVar[str] = ".html"
    MARK: ClassVar[str] = r"<title>[^<]*clipguard"

    rows: int = 40
    pictures: int = 4
    folded: tuple[str, ...] = ("checks", "reproduce", "glossary")

    def render(self, record: AuditRecord, folder: Path) -> str:
        """See `Renderer.render`."""
        return page(
            "report.html.j2",
            ("style.css",),
            folder,
            said=verdict(record),
            name=name_of(record),
            version=record.tool.version,
            folded=self.folded,
            sections=shortened(sections(record), rows=self.rows, pictures=self.pictures),
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
        kind=lambda block: type(block).__name__,
        number=number,
        picture=Pictures(folder),
        short=lambda text: safe_text(text, NAME),
        strip=strip,
    )
    environment.globals.update(Decision=Decision)
    return environment


def _finalize(value: object) -> object:
    """Every text on its way into the page loses what could steer a reader; markup is ours."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return safe_text(value, SENTENCE)
    return value
