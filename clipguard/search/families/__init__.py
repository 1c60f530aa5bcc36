"""Trigger families, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipguard.registry import MethodFolder

if TYPE_CHECKING:  # roles need torch, looking up a name does not
    from clipguard.search.roles import TriggerFamily

FAMILIES: MethodFolder[TriggerFamily] = MethodFolder("clipguard.search.families", "trigger family")
