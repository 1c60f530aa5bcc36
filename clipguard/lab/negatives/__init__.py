"""Honest fine-tunes that look suspicious, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipguard.registry import MethodFolder

if TYPE_CHECKING:  # roles need torch, looking up a name does not
    from clipguard.lab.roles import AnyNegative

NEGATIVES: MethodFolder[AnyNegative] = MethodFolder("clipguard.lab.negatives", "hard negative")
