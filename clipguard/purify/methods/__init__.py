"""Purifiers, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipguard.registry import MethodFolder

if TYPE_CHECKING:  # roles need torch, looking up a name does not
    from clipguard.purify.roles import Purifier

PURIFIERS: MethodFolder[Purifier] = MethodFolder("clipguard.purify.methods", "purifier")
