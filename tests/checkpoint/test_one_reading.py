"""Files in which two readers would see two models."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_clip import TINY, state_of, write_config

from clipguard.checkpoint.contents import contents
from clipguard.checkpoint.load import load_checkpoint
from clipguard.checkpoint.sandbox import Guard
from clipguard.errors import RefusedError

GOOD = state_of(TINY)
BAD = {key: tensor + 1 for key, tensor in GOOD.items()}
BLOCK = "visual.transformer.resblocks.0."


def under(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (under("module.", GOOD) | under("zzzzzz.", BAD), "CG107"),  # cut by length
        (GOOD | under("clip.", BAD), "CG107"),  # cut by name
        (under("module.", GOOD) | {"zzzzzz.logit_scale": torch.tensor(0.0)}, "CG107"),
        ({"state_dict": Counter(BAD), "model": GOOD}, "CG103"),
        (GOOD | {f"{BLOCK}ls_1.gamma": torch.zeros(8, dtype=torch.int32)}, "CG105"),
        (GOOD | {"logit_bias": torch.tensor(1)}, "CG105"),
    ],
)
def test_it_is_refused(content: dict[str, Any], rule: str, tmp_path: Path):
    config = write_config(tmp_path / "tiny.json", TINY)
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(RefusedError, match=rf"^model\.pt: {rule} "):
        load_checkpoint(tmp_path / "model.pt", arch=str(config), guard=Guard("none"))
    told = contents(tmp_path / "model.pt").refusal
    assert told is not None, "inspect says the same"
    assert told.startswith(f"model.pt: {rule} ")
