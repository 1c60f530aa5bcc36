"""What a scan reads of a file, without a file and without another process."""

from __future__ import annotations

import io
from pathlib import Path

from torch import Tensor

from clipguard.checkpoint.inspection import Inspection, OpenCheckpoint
from clipguard.checkpoint.layouts import Layout, read_layout
from clipguard.checkpoint.raw import raw_of
from clipguard.checkpoint.source import Source
from clipguard.checkpoint.tensors import read_tensors


def layout_and_tensors(data: bytes) -> tuple[Layout, dict[str, Tensor]]:
    """How the bytes of a model file are laid out, and its weights."""
    source = Source(io.BytesIO(data), len(data))
    layout = read_layout(source)
    seen = Inspection(layout.container, layout.notes, source.sha256(), len(data), Path("model.pt"))
    return layout, read_tensors(raw_of(OpenCheckpoint(seen, layout, source)))
