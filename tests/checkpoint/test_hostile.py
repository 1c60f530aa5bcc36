"""Hostile checkpoints: each is refused by its own rule in one line, or it is read as it was."""

from __future__ import annotations

import io
import time
from pathlib import Path

import hostile_archives
import hostile_calls
import hostile_layouts
import hostile_pickles
import hostile_safetensors
import hostile_tensors
import pytest
import torch
from hostile import HARMLESS, WEIGHTS, Case
from torch import Tensor

from clipguard.checkpoint.layouts import read_layout
from clipguard.checkpoint.source import Source
from clipguard.checkpoint.tensors import read_tensors
from clipguard.checkpoint.unwrap import weights_in
from clipguard.errors import RefusedError

KINDS = (
    hostile_archives,
    hostile_calls,
    hostile_layouts,
    hostile_pickles,
    hostile_safetensors,
    hostile_tensors,
)
CASES = [case for kind in KINDS for case in kind.cases()]
MAX_SECONDS = 10


def read(data: bytes) -> dict[str, Tensor]:
    """What a scan would read of a file, without a file."""
    source = Source(io.BytesIO(data), len(data))
    layout = read_layout(source)
    return read_tensors(source, layout, weights_in(layout.content).tensors, source.sha256())


def test_there_are_many_and_each_has_a_name():
    assert len({case.name for case in CASES}) == len(CASES) >= 200


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused_by_its_rule_or_read_as_it_was(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    start = time.process_time()
    if case.rule == HARMLESS:
        found = read(case.data)
        assert found.keys() == WEIGHTS.keys()
        assert all(torch.equal(found[key], WEIGHTS[key]) for key in WEIGHTS)
    else:
        with pytest.raises(RefusedError) as caught:
            read(case.data)
        line = str(caught.value)
        assert line.startswith(f"{case.rule} "), line
        assert line.isprintable()
        assert len(line) < 600
    assert time.process_time() - start < MAX_SECONDS
    assert [*tmp_path.iterdir()] == []
