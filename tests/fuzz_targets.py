"""What is fuzzed: every reader of outside bytes, as a function that may end or explain itself."""

from __future__ import annotations

import io
import json
import pickletools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import hostile_archives
import hostile_calls
import hostile_layouts
import hostile_pickles
import hostile_safetensors
import hostile_tensors
import torch
from hostile import BENIGN, Case, checkpoint
from onnx_samples import classifier_bytes
from reading import layout_and_tensors
from safetensors.torch import load as load_safetensors
from tar_samples import tar
from torch import Tensor

from clipguard.checkpoint.archive import read_archive
from clipguard.checkpoint.formats import config_from
from clipguard.checkpoint.source import Source
from clipguard.detect.null_band import read_null_band
from clipguard.errors import RefusedError
from clipguard.export.session import open_session
from clipguard.model.prompts import read_class_names, read_templates
from clipguard.policy.document import load_policy
from clipguard.record.schema import loads
from clipguard.resources import asset, shipped

LARGEST_SEED = 8192
TESTS = Path(__file__).parent
CONFIG = {
    "model_cfg": {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 9, "width": 8, "heads": 1, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "size": 16},
}
JSON_TOKENS: tuple[bytes, ...] = (
    b"{}",
    b"[]",
    b"null",
    b"NaN",
    b"-1",
    b"1e999",
    b"9" * 400,
    b'"\\ud800"',
    b"true",
)
JSON_TOKENS += (b",", b":", b'"', b"[" * 200, b'{"a":' * 50, b"\xef\xbb\xbf", b'"\\u0000"')
YAML_TOKENS: tuple[bytes, ...] = (
    b"&a ",
    b"*a",
    b"!!python/object:os.system ",
    b"<<: ",
    b"? ",
    b"- ",
    b"%YAML 1.1\n",
)
YAML_TOKENS += (
    b": ",
    b"\t",
    b"0x" + b"f" * 400,
    b".nan",
    b"---\n",
    b"...\n",
    b"|\n",
    b"{a: [",
    b"#",
)
ZIP_TOKENS = (b"PK\1\2", b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\7\x08", b"\xff" * 4)
OPCODES = tuple(opcode.code.encode("latin-1") for opcode in pickletools.opcodes)
TEXT_TOKENS = (
    b"\n",
    b"\r",
    b"\0",
    b"\x1b[2J",
    b"\xff",
    b"{}",
    b"\xe2\x80\xae",
    b"::error::",
    b"\t",
)


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        run: reads bytes; ends, or raises a `ClipguardError`; anything else is a bug.
        seeds: what inputs are made of.
        tokens: what is put into them.
    """

    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    tokens: tuple[bytes, ...]


def read_file(data: bytes) -> None:
    """Read a model file; torch, or safetensors, must see the same if it sees anything."""
    layout, found = layout_and_tensors(data)
    try:
        if layout.container == "safetensors":
            theirs: object = load_safetensors(data)
        elif layout.container == "TorchScript":
            return  # torch would run it
        else:
            theirs = torch.load(io.BytesIO(data), weights_only=True)
    except Exception:  # noqa: BLE001 - what we read and they do not cannot mislead anyone
        return
    assert any(_same(found, theirs) for theirs in _mappings(theirs)), "torch sees other weights"


def _mappings(theirs: object) -> Iterator[Mapping[object, object]]:
    while isinstance(theirs, Mapping):
        yield theirs
        theirs = theirs.get("state_dict")


def _same(found: Mapping[str, Tensor], theirs: Mapping[object, object]) -> bool:
    others = [theirs.get(key) for key in found]
    return all(
        isinstance(other, Tensor)
        and other.shape == mine.shape
        and torch.equal(mine.nan_to_num(), other.detach().float().nan_to_num())
        for mine, other in zip(found.values(), others, strict=True)
    )


def _as_file(read: Callable[[Path], object], name: str) -> Callable[[bytes], None]:
    """A target that reads a file of that name."""
    memory = Path("/dev/shm")  # to open a file on a disk can take longer than to read it
    folder = TemporaryDirectory(prefix="clipguard-fuzz-", dir=memory if memory.is_dir() else None)

    def run(data: bytes) -> None:
        path = Path(folder.name) / name
        path.write_bytes(data)
        read(path)

    return run


@cache
def _files() -> list[Case]:
    kinds = (hostile_archives, hostile_calls, hostile_layouts, hostile_pickles, hostile_tensors)
    found = [case for kind in kinds for case in kind.cases() if not case.is_heavy]
    return [case for case in found if len(case.data) <= LARGEST_SEED]


def _pickles() -> list[bytes]:
    found = []
    for case in _files():
        try:
            first = read_archive(Source(io.BytesIO(case.data), len(case.data)))[0]
        except RefusedError:
            continue
        found.append(case.data[first.begin : first.begin + first.size])
    return [*found, BENIGN["data.pkl"].data]


def _headers() -> list[bytes]:
    cases = hostile_safetensors.cases()
    return [case.data for case in cases if len(case.data) <= LARGEST_SEED]


def _small_policies() -> list[bytes]:
    """Each shipped policy without its comments, and each of its sections alone.

    A whole one takes the reader three times as long, so most inputs are made of a section.
    """
    paths = sorted(shipped("policies").glob("*.yaml"))
    lines = [path.read_text(encoding="utf-8").splitlines() for path in paths]
    plain = [[line.partition("#")[0].rstrip() for line in one] for one in lines]
    whole = ["\n".join(filter(None, one)) for one in plain]
    sections = {part for one in whole for part in re.split(r"\n(?=\w)", one)}
    return [text.encode() for text in (*whole, *sorted(sections))]


def _texts() -> list[bytes]:
    return [
        b"cat\ndog\n",
        "K\u00e4fer\n\u5973\n".encode(),
        b"a photo of {}\n{}\n",
        b"\xef\xbb\xbfa\n",
    ]


def _record(data: bytes) -> None:
    loads(data.decode("utf-8", "surrogateescape"))


TARGETS: Mapping[str, Target] = {
    "file": Target(read_file, lambda: [case.data for case in _files()], ZIP_TOKENS),
    "tar": Target(read_file, lambda: [tar(), tar(mtime=1)], (b"ustar\x0000", *OPCODES)),
    "pickle": Target(lambda data: read_file(checkpoint(data)), _pickles, OPCODES),
    "safetensors": Target(read_file, _headers, JSON_TOKENS),
    "policy": Target(_as_file(load_policy, "policy.yaml"), _small_policies, YAML_TOKENS),
    "classes": Target(_as_file(read_class_names, "names.txt"), _texts, TEXT_TOKENS),
    "classes-json": Target(
        _as_file(read_class_names, "names.json"), lambda: [b'["cat", "dog"]'], JSON_TOKENS
    ),
    "templates": Target(_as_file(read_templates, "templates.txt"), _texts, TEXT_TOKENS),
    "record": Target(_record, lambda: [(TESTS / "records/audit-1.json").read_bytes()], JSON_TOKENS),
    "config": Target(
        _as_file(config_from, "config.json"), lambda: [json.dumps(CONFIG).encode()], JSON_TOKENS
    ),
    "calibration": Target(
        _as_file(read_null_band, "band.json"),
        lambda: [path.read_bytes() for path in asset("calibration").glob("*.json")],
        JSON_TOKENS,
    ),
    "onnx": Target(
        _as_file(open_session, "model.onnx"), lambda: [classifier_bytes()], (b"\xff" * 9, b"\0")
    ),
}
