"""What is said before an export: a tower that is too large, a file that is not ours to replace."""

from __future__ import annotations

import mmap
from pathlib import Path

from torch import nn

from clipguard.errors import ExportError, UsageError
from clipguard.text_safety import safe_text

MAX_WEIGHT_BYTES = 1_500_000_000
OURS = b"clipguard.checkpoint_sha256"
"""A property of every file that clipguard exports."""


def require_exportable(tower: nn.Module) -> None:
    """Refuse an image tower that one file cannot hold.

    Raises:
        ExportError: too large.
    """
    size = sum(p.numel() * 4 for p in (*tower.parameters(), *tower.buffers()))
    if size > MAX_WEIGHT_BYTES:
        raise ExportError(
            f"expected at most {MAX_WEIGHT_BYTES / 1e9} GB of weights, the most that one ONNX "
            f"file holds safely, got {size / 1e9:.1f} GB; run with --export none"
        )


def require_own(path: Path) -> None:
    """Refuse to write an export over a file that clipguard did not export.

    Raises:
        UsageError: another file stands there.
    """
    if path.is_symlink() or not path.is_file():  # said by whoever writes
        return
    with path.open("rb") as file:
        size = path.stat().st_size
        if size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                if data.rfind(OURS) >= 0:
                    return
    raise UsageError(
        f"{safe_text(path, 400)} is there, and clipguard did not export it; move it, or choose "
        "another -o"
    )
