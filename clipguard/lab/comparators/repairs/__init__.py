"""The repairs of the literature, one file each; a benchmark holds clipguard's own beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipguard.registry import MethodFolder

if TYPE_CHECKING:  # roles need torch, looking up a name does not
    from clipguard.lab.comparators.repairs._role import Repair

REPAIRS: MethodFolder[Repair] = MethodFolder("clipguard.lab.comparators.repairs", "repair")
