"""The process that runs a classifier from outside: what it gives, and how it may end."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_samples import NAMES, SIDE, write_classifier

from clipguard.checkpoint import bubblewrap, sandbox
from clipguard.checkpoint.bubblewrap import works
from clipguard.checkpoint.sandbox import Guard
from clipguard.errors import RefusedError
from clipguard.export.guarded import guarded_session
from clipguard.export.session import classify

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the process needs limits")
Acting = Callable[[str], None]
IMAGES = np.random.default_rng(0).random((40, 3, SIDE, SIDE), np.float32)
HEAD = {
    "class_names": ["a", "b"],
    "image_size": SIDE,
    "metadata": {
        "checkpoint_sha256": "",
        "head": "",
        "interpolation": "bicubic",
        "resize": "",
        "resize_mode": "shortest",
        "scope": "",
    },
    "opset": 20,
    "batch": 4,
    "work": 1,
}
FORGED = """
import json, struct, sys
def main():
    head = {head!r}
    {change}
    sys.stderr.write(json.dumps(head) + chr(10))
    sys.stderr.flush()
    sys.stdin.buffer.read(4 + 4 * 3 * {side} * {side})
    sys.stdout.buffer.write(struct.pack("<2f", {logits}))
    sys.stdout.flush()
main()
"""


@pytest.fixture
def acting(monkeypatch: pytest.MonkeyPatch) -> Acting:
    """Call it with a Python program, which is run in place of ours."""
    usual = bubblewrap.command

    def act(program: str) -> None:
        def command(*given: Any, **how: Any) -> list[str]:
            return [*usual(*given, **how)[:-1], program]

        monkeypatch.setattr(sandbox, "command", command)

    return act


def forged(change: str = "pass", logits: str = "1, 2") -> str:
    return FORGED.format(head=HEAD, change=change, side=SIDE, logits=logits)


@pytest.mark.parametrize("mode", ["auto", "process"])
def test_every_way_gives_the_logits_that_this_process_gives_and_parses_nothing_here(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write_classifier(tmp_path)
    with guarded_session(path, "cpu", Guard("none")) as session:
        wanted = classify(session, IMAGES)
    monkeypatch.setattr("clipguard.export.session.checked", lambda data: pytest.fail("parsed"))
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *_: pytest.fail("started"))
    with guarded_session(path, "cpu", Guard(mode)) as session:
        assert (session.class_names, session.image_size, session.opset) == (NAMES, SIDE, 20)
        assert session.sandbox == Guard(mode).kind
        np.testing.assert_array_equal(classify(session, IMAGES), wanted)
        np.testing.assert_array_equal(classify(session, IMAGES[:1]), wanted[:1])


def test_a_refusal_says_the_same_as_one_of_this_process(tmp_path: Path):
    path = write_classifier(tmp_path, lambda m: setattr(m.graph.node[0], "domain", "evil"))
    said: list[str] = []
    for mode in ("auto", "none"):
        with pytest.raises(RefusedError) as caught, guarded_session(path, "cpu", Guard(mode)):
            pytest.fail("opened")
        said.append(str(caught.value))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    "program",
    [
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        forged("head['more'] = 1"),
        forged("head['class_names'] = [1, 2]"),
        forged("head['metadata']['resize_mode'] = 'stretch'"),
        forged("head['batch'] = 10**9"),
        forged("head['work'] = 10**30"),
        forged("head['image_size'] = -1"),
        forged(logits="float('nan'), 1"),
    ],
)
def test_a_process_that_dies_or_says_what_it_may_not_is_a_refusal(
    program: str, tmp_path: Path, acting: Acting, one_line
):
    path = write_classifier(tmp_path)
    acting(program)
    with one_line(RefusedError, r"^model\.onnx"), guarded_session(path, "cpu") as session:
        classify(session, IMAGES[:1])


def test_a_forged_reply_that_keeps_the_rules_is_taken(tmp_path: Path, acting: Acting):
    path = write_classifier(tmp_path)
    acting(forged())
    with guarded_session(path, "cpu") as session:
        assert classify(session, IMAGES[:1]).tolist() == [[1, 2]]


@pytest.mark.skipif(not works(), reason="no bubblewrap that works here")
def test_the_worker_sees_neither_the_home_folder_nor_the_temporary_one(
    tmp_path: Path, acting: Acting
):
    path = write_classifier(tmp_path)
    places = [str(tmp_path), "/tmp", str(Path.home()), "/etc/passwd", "/proc", "/dev"]
    if str(Path.home()) in sys.base_prefix:
        places.remove(str(Path.home()))  # Python is in there
    acting(f"import os; raise SystemExit([*filter(os.path.exists, {places!r})] or 7)")
    with pytest.raises(RuntimeError, match=r"ended with code 7 $"), guarded_session(path, "cpu"):
        pytest.fail("opened")
