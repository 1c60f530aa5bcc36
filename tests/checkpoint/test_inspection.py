"""The static pass: what is refused, under which rule, and that nothing else escapes."""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import os
import pickle
import struct
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_python
from safetensors.torch import save_file

from clipguard.checkpoint.archive import read_archive
from clipguard.checkpoint.inspection import inspect_file, sha256_of
from clipguard.checkpoint.layouts import read_layout
from clipguard.checkpoint.safetensors_header import read_header
from clipguard.checkpoint.source import Source, opened
from clipguard.errors import RefusedError, UsageError


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def torch_bytes(content: object, **how: int) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **how)
    return buffer.getvalue()


def zip_bytes(*entries: tuple[str, bytes], compress: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compress) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a name that is there twice
        for name, data in entries:
            file.writestr(name, data)
    return buffer.getvalue()


def tar_bytes(*members: tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT, encoding="latin-1") as f:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            f.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    """`data` with other bytes in its first central directory record."""
    start = data.index(b"PK\x01\x02") + offset
    return data[:start] + value + data[start + len(value) :]


def unlisted(data: bytes, name: bytes) -> bytes:
    """`data` with one line less in its directory."""
    start, length = data.rindex(b"PK\1\2", 0, data.rindex(name)), 46 + len(name)
    count, _, size, offset = struct.unpack("<HHLL", data[-14:-2])
    end = struct.pack("<HHLL", count - 1, count - 1, size - length, offset)
    return data[:start] + data[start + length : -14] + end + b"\0\0"


PICKLE = ("m/data.pkl", pickle.dumps({}, protocol=2))
PLAIN = zip_bytes(("m/data/0", b"1234"), PICKLE)
TORCH = torch_bytes({"a": torch.zeros(1)})
LEGACY = torch_bytes({"a": torch.zeros(1)}, _use_new_zipfile_serialization=False)
CODE = pickle.dumps(os.mkdir, protocol=2)
GAP = unlisted(zip_bytes(PICKLE, ("m/data/1", b"hidden"), ("m/data/0", b"1234")), b"m/data/1")
PLAIN_PICKLE = ("m/data.pkl", TORCH[TORCH.index(b"\x80\2}") : TORCH.index(b"PK\7\x08")])


def test_an_ordinary_training_checkpoint_passes_with_its_digest(tmp_path: Path):
    path = saved(
        tmp_path / "epoch_1.pt",
        {
            "epoch": 1,
            "name": "run",
            "state_dict": torch.nn.BatchNorm2d(3).half().state_dict(),
            "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}, "lr": np.float64(0.1)},
            "parameter": torch.nn.Parameter(torch.zeros(2)),
            "shape": torch.Size([2]),
            "kinds": [torch.float32, torch.device("cpu"), 2**70, None, True, 0.5],
        },
    )
    inspection = inspect_file(path)
    assert (inspection.container, inspection.notes) == ("zip", ())
    assert inspection.sha256 == sha256_of(path)
    assert inspection.size_bytes == path.stat().st_size
    path.write_bytes(PLAIN)  # without zip64 records
    assert inspect_file(path).notes == ()


def test_what_is_no_weight_is_left_out_with_a_note(tmp_path: Path):
    path = saved(
        tmp_path / "epoch_1.pt",
        {
            "args": argparse.Namespace(lr=0.1),
            "path": Path("out"),
            "loss": np.arange(3.0),
            "state": torch.random.get_rng_state(),
            "seen": collections.defaultdict(set, a={1}),
        },
    )
    notes = inspect_file(path).notes
    assert notes == (
        "CG110 left out what is no weight: argparse.Namespace, pathlib.Path, numpy.ndarray",
    )


def test_a_torchscript_archive_is_read_and_its_code_is_not_run(tmp_path: Path):
    module = torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    torch.jit.save(module, tmp_path / "model.pt")
    inspection = inspect_file(tmp_path / "model.pt")
    assert inspection.container == "TorchScript"
    assert "CG106" in inspection.notes[0]


def test_the_old_layout_of_torch_is_read(tmp_path: Path):
    for protocol in (1, 2, 3, 4, 5):
        content = torch_bytes(
            {"a": torch.zeros(2)}, _use_new_zipfile_serialization=False, pickle_protocol=protocol
        )
        (tmp_path / "model.pt").write_bytes(content)
        assert inspect_file(tmp_path / "model.pt").container == "legacy"


def test_safetensors_is_recognised_by_content_and_the_wrong_name_is_noted(tmp_path: Path):
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(0)}, tmp_path / "model.pt")
    inspection = inspect_file(tmp_path / "model.pt")
    assert inspection.container == "safetensors"
    assert "CG102" in inspection.notes[0]
    disguised = saved(tmp_path / "model.safetensors", {"a": torch.zeros(1)})
    assert "content is zip" in inspect_file(disguised).notes[0]


def test_a_path_that_leads_nowhere_is_a_usage_error(tmp_path: Path):
    with pytest.raises(UsageError, match="nothing"):
        inspect_file(tmp_path / "nothing.pt")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"just some words, nothing else\n", "a text file"),
        ("Zeichen über Zeichen".encode() * 300, "a text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (pickle.dumps({"a": 1}), "torch.save did not write.*re-save"),
        (pickle.dumps({"a": 1}, 2), "torch.save did not write.*re-save"),
        (tar_bytes(("pickle", b"")), "a tar file.*re-save"),
        (tar_bytes((LEGACY[:90].decode("latin-1"), LEGACY)), "a tar file.*re-save"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(40), "unknown binary"),
        (b"PK\x03\x04" + bytes(100), "CG103"),
        (TORCH[:-200], "CG103"),
        (zip_bytes(PICKLE, ("m/constants.pkl", CODE), ("m/code/x.py", b"")), "CG101.*constants"),
        (zip_bytes(PICKLE, ("m/byteorder", b"big")), "CG103.*big' byte order"),
        (zip_bytes(("m/data.pkl", PICKLE[1] + b".")), "CG103.*goes on after its end"),
        (zip_bytes(PLAIN_PICKLE, ("m/data/0", b"12345")), "CG105.*should have 4 bytes"),
        (zip_bytes(PLAIN_PICKLE), "CG105.*should have 4 bytes, the file has 0"),
        (LEGACY[:-1], "CG103"),
        (LEGACY + b"1", "CG103.*after its end"),
        (LEGACY.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89"), "CG103.*byte order"),
        (LEGACY.replace(b"M\xe9\x03.", b"M\xe8\x03."), "CG103.*unknown version"),
        (LEGACY[:-12] + b"\2" + LEGACY[-11:], "CG105.*should have 4 bytes"),
        (zip_bytes(PICKLE, ("m/other.pkl", PICKLE[1])), "CG103.*more than one pickle"),
        (zip_bytes(PICKLE, ("m/readme", b"")), "CG103.*torch does not write"),
        (zip_bytes(PICKLE, ("n/version", b"3")), "CG103.*one root folder"),
        *(
            (zip_bytes(PICKLE, (name, b"")), "CG103.*outside")
            for name in ("../evil", "/evil", "m\\evil", "c:/evil")
        ),
        (zip_bytes(("m/version", b"3")), "CG103.*without data.pkl"),
        (zip_bytes(PICKLE, compress=zipfile.ZIP_DEFLATED), "compressed"),
        (zip_bytes(PICKLE, PICKLE), "twice"),
        (patched(PLAIN, 8, b"\x01\x00"), "encrypted"),
        (patched(PLAIN, 24, struct.pack("<I", 2**31)), "CG104"),
        (patched(PLAIN, 46, b"m/data/9"), "CG103"),
        (b"PK\x03\x04hidden" + PLAIN, "before the archive"),
        (TORCH + b"x", "CG103.*behind its end"),
        (TORCH[:-2] + b"\4\0more", "CG103.*behind its end"),
        (TORCH[:-2] + b"\4\0", "CG103.*behind its end"),
        (TORCH[:-22] + b"PK\1\2" + TORCH[-22:], "CG103.*second directory"),
        (TORCH[:-42] + bytes(20) + TORCH[-22:], "CG103.*second directory"),
        (TORCH[:-34] + b"\0" + TORCH[-33:], "CG103.*two end records"),
        (TORCH[:-14] + b"\1\0" + TORCH[-12:], "CG103.*two end records"),
        (TORCH[:-98] + b"PK\1\2" + TORCH[-98:], "CG103.*two end records"),
        *(
            (patched(PLAIN, offset, value), f"CG10[34].*{says}")
            for offset, value, says in (
                (6, b"\x2e\0", "newer reader"),
                (8, b"\0\1", "never uses"),  # flags
                (10, b"\x0c\0", "never uses"),  # method
                (16, b"\0\0\0\0", "different things"),  # CRC
                (30, b"\1\0", "damaged|fields"),  # extra field
                (32, b"\1\0", "damaged"),  # comment
                (42, b"\1\0\0\0", "before the archive"),  # offset
            )
        ),
        (PLAIN.replace(b"m/data/0", b"m/data/1", 1), "CG103.*different things"),
        (PLAIN.replace(b"m/data/0", b"m/data/\xff"), "CG103.*is no text"),
        (GAP, "CG103.*between its entries"),
        (TORCH[:-66] + b"\1" + TORCH[-65:-14] + b"\1" + TORCH[-13:], "CG103"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_checkpoint_is_refused_by_kind(
    tmp_path: Path, content: bytes, says: str, one_line
):
    (tmp_path / "model.pt").write_bytes(content)
    with one_line(RefusedError, rf"^model\.pt.*{says}"):
        inspect_file(tmp_path / "model.pt")


def test_a_pickle_with_code_is_refused_by_name_and_never_run(tmp_path: Path):
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(marker),)

    path = saved(tmp_path / "model.pt", {"state_dict": {"a": Payload()}})
    with pytest.raises(RefusedError, match=rf"CG101.*{os.mkdir.__module__}\.mkdir at byte \d+"):
        inspect_file(path)
    assert not marker.exists()


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), buffer)
    return buffer.getvalue()


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from([TORCH, LEGACY, PLAIN, script()]),
    st.lists(st.tuples(st.integers(0, 2**16), st.binary(max_size=4)), max_size=3),
    st.integers(-3, 3),
)
def test_a_changed_file_is_read_as_all_see_it_or_refused(
    data: bytes, changes: list[tuple[int, bytes]], more: int
):
    for where, new in changes:
        where %= len(data)
        data = data[:where] + new + data[where + len(new) :]
    data = data + bytes(more) if more > 0 else data[: len(data) + more]
    source = Source(io.BytesIO(data), len(data))
    with contextlib.suppress(RefusedError):
        layout = read_layout(source)
        if layout.container in ("zip", "TorchScript"):
            entries = {entry.name: entry for entry in read_archive(source)}
            with zipfile.ZipFile(io.BytesIO(data)) as archive:  # another reader of zip files
                assert {i.orig_filename for i in archive.infolist()} == entries.keys()
                for info in archive.infolist():
                    begin, size = entries[info.filename].begin, entries[info.filename].packed
                    info.compress_type = zipfile.ZIP_STORED
                    info.file_size = size
                    with contextlib.suppress(zipfile.BadZipFile):  # the checksum of the weights
                        assert archive.read(info) == data[begin : begin + size]


def header(fields: object, data: bytes = b"") -> bytes:
    text = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(begin: int, end: int, shape: list[object], dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (header(b'{"a":1,"a":2}'), "CG107"),
        (header(b'{"a":{"dtype":"U8","dtype":"I8"}}'), "CG107"),
        (header({"a": tensor(0, 4, [4]), "b": tensor(2, 6, [4])}, bytes(6)), "CG105"),
        (header({"a": tensor(0, 4, [4]), "b": tensor(5, 9, [4])}, bytes(9)), "CG105"),
        (header({"a": tensor(1, 5, [4])}, bytes(5)), "CG105"),
        (header({"a": tensor(0, 4, [5])}, bytes(4)), "CG105"),
        (header({"a": tensor(0, 4, [4])}, bytes(3)), "CG103"),
        (header({"a": tensor(0, 4, [4])}, bytes(5)), "CG103"),
        (header({"a": tensor(0, 4, [-2, -2])}, bytes(4)), "CG103"),
        (header({"a": tensor(0, 1, [True])}, bytes(1)), "CG103"),
        (header({"a": tensor(0, 1, [1], "I4")}, bytes(1)), "CG103"),
        (header({"a": [1]}), "CG103"),
        (header({"a": tensor(0, 0, [9] * 64 + [0])}), "CG103"),
        (header({"__metadata__": {"a": 5}}), "CG103"),
        (header({"__metadata__": ["a"]}), "CG103"),
        (header(b"[]"), "CG103"),
        (header(b"{nonsense"), "CG103"),
        (header(b"[" * 100_000), "CG103"),
        ((2**40).to_bytes(8, "little") + b"{}", "CG104"),
        ((1000).to_bytes(8, "little") + b"{}", "CG103"),
    ],
)
def test_a_dishonest_safetensors_header_is_refused(content: bytes, rule: str):
    with pytest.raises(RefusedError, match=rule):
        read_header(io.BytesIO(content), len(content))


def test_an_honest_header_with_metadata_and_empty_tensors_passes():
    fields = {"__metadata__": {"a": "b"}, "a": tensor(0, 4, [4]), "b": tensor(4, 4, [0])}
    content = header(fields, bytes(4))
    read_header(io.BytesIO(content), len(content))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
ENTRY = st.fixed_dictionaries({"dtype": JSON | st.just("F32"), "shape": JSON, "data_offsets": JSON})
HEADERS = (
    st.binary(max_size=300)
    | st.binary(max_size=300).map(lambda data: header(b"{" + data))
    | st.dictionaries(st.text(max_size=5), JSON | ENTRY).map(header)
)


@settings(max_examples=500, deadline=None)
@given(HEADERS)
def test_nothing_escapes_the_header_check(content: bytes):
    with contextlib.suppress(RefusedError):
        read_header(io.BytesIO(content), len(content))


def test_inspection_works_where_torch_cannot_be_imported():
    code = "import sys; sys.modules['torch'] = None; import clipguard.checkpoint.inspection"
    run_python("-c", code, code=0)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "model.pt")
    with (
        pytest.raises(RefusedError, match=r"CG102 not a plain file"),
        opened(tmp_path / "model.pt"),
    ):
        pass
