"""The detectors of the literature, one file each; benchmarks hold clipguard's own beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipguard.registry import MethodFolder

if TYPE_CHECKING:  # roles need torch, looking up a name does not
    from clipguard.detect.roles import Detector

DETECTORS: MethodFolder[Detector] = MethodFolder(
    "clipguard.lab.comparators",
    "detector",
    ("clipguard.detect.inversion", "clipguard.detect.text_tokens"),
)
