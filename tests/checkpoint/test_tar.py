"""The tar layout of torch before 0.1.10, which no torch writes any more: written by hand here."""

from __future__ import annotations

import struct
import tarfile
from pathlib import Path

import pytest
import torch
from reading import layout_and_tensors
from tar_samples import (
    CONTENT,
    FLOATS,
    HALVES,
    PARTS,
    STORAGES,
    SYSTEM,
    TENSORS,
    Number,
    pickled,
    tar,
    tensor,
)

from clipguard.checkpoint.inspection import inspect_file
from clipguard.errors import RefusedError

WEIGHTS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.arange(2.0, 5.0),
    "c": torch.ones(2).half(),
}


def read(data: bytes) -> dict[str, torch.Tensor]:
    return layout_and_tensors(data)[1]


def test_it_is_read_as_torch_reads_it(tmp_path: Path):
    (tmp_path / "old.pth").write_bytes(tar())
    theirs = torch.load(tmp_path / "old.pth", weights_only=False)
    found = read(tar())
    assert [*found] == [*theirs] == [*WEIGHTS]
    for name, expected in WEIGHTS.items():
        assert torch.equal(found[name], theirs[name].float())
        assert torch.equal(found[name], expected)
    assert inspect_file(tmp_path / "old.pth").container == "tar"
    whole = {"mtime": 1488326400}
    assert found.keys() == read(tar(**whole)).keys()  # without second headers


def changed(**parts: bytes) -> bytes:
    return tar(PARTS | parts)


EVIL = b"\x80\2cposix\nmkdir\nX\x0c\0\0\0code-was-run\x85R."
LINK = tar(type=tarfile.SYMTYPE, linkname="/etc/passwd")
MANY = pickled(1) + pickled((1, "cpu", torch.FloatStorage)) + struct.pack("<q", 2**60)


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (changed(pickle=EVIL), "CG101"),
        (changed(tensors=EVIL), "CG101"),
        (changed(storages=EVIL), "CG101"),
        (changed(sys_info=EVIL), "CG101"),
        (changed(pickle=pickled(CONTENT) + b"."), "CG103"),
        (changed(pickle=pickled({"a": Number(99)})), "CG104"),
        (changed(sys_info=pickled(SYSTEM | {"little_endian": False})), "CG103"),
        (changed(sys_info=pickled(SYSTEM | {"protocol_version": 1001})), "CG103"),
        (changed(tensors=PARTS["tensors"] + b"\0"), "CG103"),
        (changed(tensors=PARTS["tensors"][:-1]), "CG103"),
        (changed(tensors=pickled(2) + TENSORS[0] * 2), "CG103"),
        (changed(tensors=pickled(-1)), "CG103"),
        (changed(tensors=pickled(10**9)), "CG103"),
        (changed(tensors=pickled(1) + tensor(10, None, 0)), "CG103"),
        (changed(tensors=pickled(1) + tensor(10, 1, 7, 1, 0)), "CG105"),
        (changed(tensors=pickled(1) + tensor(10, 1, -2, -3, 3, 1, 0)), "CG105"),
        (changed(tensors=pickled(1) + tensor(10, 1, 0, dimensions=65)), "CG105"),
        (changed(tensors=pickled(1) + tensor(1, 1, 6, 1, 0)), "CG103"),
        (changed(storages=PARTS["storages"] + b"\0"), "CG103"),
        (changed(storages=pickled(2) + STORAGES + pickled([(3, 1, 0, 1)])), "CG103"),
        (changed(storages=pickled(2) + HALVES * 2 + pickled([])), "CG103"),
        (changed(storages=MANY), "CG105"),
        (changed(storages=pickled(1) + pickled((1, "cpu", torch.Tensor))), "CG103"),
        (changed(more=b""), "CG103"),
        (tar({"pickle": PARTS["pickle"]}), "CG103"),
        (tar({f"./{name}": data for name, data in PARTS.items()}), "CG103"),
        (tar() + b"x", "CG103"),
        (tar() + bytes(30_000), "CG103"),
        (tar()[:3000], "CG103"),
        (LINK, "CG103"),
        (tar(form=tarfile.GNU_FORMAT), "CG103"),
        (tar(pax_headers={"size": "1"}), "CG103"),
        (tar(pax_headers={"path": "pickle"}), "CG103"),
        (tar(pax_headers={"GNU.sparse.size": "9"}), "CG103"),
        (tar().replace(b"ustar\x0000", b"ustar\x0000", 1).replace(FLOATS, b"x" + FLOATS), "CG103"),
    ],
)
def test_anything_else_in_it_is_refused(data: bytes, rule: str, one_line):
    with one_line(RefusedError, f"^{rule} "):
        read(data)


def test_an_entry_twice_is_refused():
    first, second = tar(), tar({"pickle": EVIL})
    end = len(first.rstrip(b"\0")) // 512 * 512 + 512
    with pytest.raises(RefusedError, match=r"^CG103 .*twice"):
        read(first[:end] + second)
