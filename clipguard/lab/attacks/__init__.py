"""The backdoors of the literature, one file each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipguard.registry import MethodFolder

if TYPE_CHECKING:  # roles need torch, looking up a name does not
    from clipguard.lab.roles import AnyAttack

ATTACKS: MethodFolder[AnyAttack] = MethodFolder("clipguard.lab.attacks", "attack")
