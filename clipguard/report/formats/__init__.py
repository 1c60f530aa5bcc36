"""Report formats, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipguard.registry import MethodFolder

if TYPE_CHECKING:  # roles need torch, looking up a name does not
    from clipguard.report.roles import Renderer

RENDERERS: MethodFolder[Renderer] = MethodFolder("clipguard.report.formats", "format")
