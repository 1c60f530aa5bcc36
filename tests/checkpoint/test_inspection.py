"""The static pass: what is refused, under which rule, and that nothing else escapes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import pickletools
import struct
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

from clipguard.checkpoint.inspection import inspect_file, sha256_of
from clipguard.checkpoint.pickle_scan import MAX_DEPTH, scan_pickle
from clipguard.checkpoint.safetensors_header import check_header
from clipguard.errors import RefusedError, UsageError


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def torch_bytes(content: object, **how: bool) -> bytes:
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


def patched(data: bytes, offset: int, value: bytes) -> bytes:
    """`data` with other bytes in its first central directory record."""
    start = data.index(b"PK\x01\x02") + offset
    return data[:start] + value + data[start + len(value) :]


PICKLE = ("m/data.pkl", pickle.dumps({}, protocol=2))
PLAIN = zip_bytes(("m/data/0", b"1234"), PICKLE)
TORCH = torch_bytes({"a": torch.zeros(1)})


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


def test_safetensors_is_recognised_by_content_and_the_wrong_name_is_noted(tmp_path: Path):
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(0)}, tmp_path / "model.pt")
    inspection = inspect_file(tmp_path / "model.pt")
    assert inspection.container == "safetensors"
    assert "CG102" in inspection.notes[0]
    disguised = saved(tmp_path / "model.safetensors", {"a": torch.zeros(1)})
    assert "content is zip" in inspect_file(disguised).notes[0]


def test_a_folder_gives_its_preferred_weights_file_or_a_usage_error(tmp_path: Path):
    for path, says in ((tmp_path / "nothing.pt", "nothing"), (tmp_path, "found none")):
        with pytest.raises(UsageError, match=says):
            inspect_file(path)
    for name in ("a.pt", "b.pt"):
        saved(tmp_path / name, {"a": torch.zeros(1)})
    with pytest.raises(UsageError, match=r"a\.pt, b\.pt"):
        inspect_file(tmp_path)
    saved(tmp_path / "open_clip_pytorch_model.bin", {"a": torch.zeros(1)})
    inspection = inspect_file(tmp_path)
    assert inspection.weights_file.name == "open_clip_pytorch_model.bin"
    assert inspection.container == "folder, zip"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"just some words, nothing else\n", "a text file"),
        ("Zeichen über Zeichen".encode() * 300, "a text file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (pickle.dumps({"a": 1}), "legacy pickle"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(40), "unknown binary"),
        (b"PK\x03\x04" + bytes(100), "CG103"),
        (TORCH[:-200], "CG103"),
        (torch_bytes({}, _use_new_zipfile_serialization=False), "re-save"),
        (zip_bytes(PICKLE, ("m/constants.pkl", b""), ("m/code/x.py", b"")), "CG106.*sandbox"),
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


def test_a_folder_is_refused_for_other_weights_and_code_beside_them_is_noted(tmp_path: Path):
    saved(tmp_path / "open_clip_pytorch_model.bin", {"a": torch.zeros(1)})
    (tmp_path / "modeling.py").write_text("")
    saved(tmp_path / "optimizer.pt", {"a": eval})
    assert "modeling.py, optimizer.pt" in inspect_file(tmp_path).notes[0]
    saved(tmp_path / "pytorch_model-00001-of-00002.bin", {"a": eval})
    with pytest.raises(RefusedError, match=r"^pytorch_model-00001-of-00002\.bin: CG101"):
        inspect_file(tmp_path)


def test_a_pickle_with_code_is_refused_by_name_and_never_run(tmp_path: Path):
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(marker),)

    path = saved(tmp_path / "model.pt", {"state_dict": {"a": Payload()}})
    with pytest.raises(RefusedError, match=rf"CG101.*{os.mkdir.__module__}\.mkdir"):
        inspect_file(path)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("target", [eval, os.system, torch.load])
def test_no_protocol_hides_a_forbidden_name(protocol: int, target: object):
    with pytest.raises(RefusedError, match="CG101"):
        scan_pickle(pickle.dumps({"key": target}, protocol=protocol))


WORD, LATIN = b"X\1\0\0\0a", b"X\6\0\0\0latin1"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"


STORAGE = b"(X\7\0\0\0storagectorch\nFloatStorage\n" + WORD + b"X\3\0\0\0cpuK\1t"
SIZES = (b"(K\1t", b"(K\1t", b"\x89", call(b"ccollections\nOrderedDict\n"))
TENSOR = call(b"ctorch._utils\n_rebuild_tensor_v2\n", STORAGE + b"Q", b"K\0", *SIZES)
DTYPE = call(b"cnumpy\ndtype\n", b"X\2\0\0\0f8", b"\x89", b"\x88")
ENCODED = call(b"c_codecs\nencode\n", WORD, LATIN)
STATE = b"(K\3X\1\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0t"


def test_calls_as_torch_writes_them_pass():
    scalar = call(b"cnumpy.core.multiarray\nscalar\n", DTYPE + STATE + b"b", ENCODED)
    for code in (TENSOR, call(b"ctorch\nSize\n", b"(K\2K\3t"), scalar):
        scan_pickle(b"\x80\2" + code + b".")


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (b"\x80\x02cos\nsystem\n.", "os.system"),
        (b"\x80\x02(ios\nsystem\n.", "os.system"),
        (b"\x80\x04\x8c\x02osq\x00\x8c\x06systemq\x01h\x00h\x01\x93.", "os.system"),
        (b"\x80\x04K\x01K\x02\x93.", "computes while loading"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"\x80\x02ctorch.storage\nUntypedStorage\nK\x05\x85R.", "calls something"),
        (b"\x80\x02}K\x01\x85K\x02s.", "CG104"),
        (b"\x80\x02ccollections\nOrderedDict\n](K\x01K\x02e\x85R.", "CG101"),
        (b"\x80\x02]" + b"\x85" * (MAX_DEPTH + 1) + b".", "CG104"),
        (call(b"c_codecs\nencode\n", WORD, b"X\x03\0\0\0hex"), "CG101"),
        (call(b"c_codecs\nencode\n", call(b"c_codecs\nencode\n", WORD, LATIN), LATIN), "CG101"),
        (
            b"]("
            + b"c_codecs\nencode\n(X\x40\0\0\0"
            + b"a" * 64
            + LATIN
            + b"tq\0R"
            + b"c_codecs\nencode\nh\0R" * 9
            + b"e",
            "CG101",
        ),
        (call(b"ctorch\nSize\n", TENSOR), "CG101"),
        (call(b"ctorch\nSize\n", b"(" + b"K\1" * 65 + b"t"), "CG101"),
        (call(b"ctorch\ndevice\n", b"N"), "CG101"),
        (TENSOR.replace(b"(K\1t(", b"(" + b"K\1" * 65 + b"t("), "CG101"),
        (TENSOR.replace(b"tQ", b"t"), "CG101"),
        (STORAGE.replace(WORD, b"(" + WORD * 3 + b"t") + b"Q", "CG104"),
        (STORAGE.replace(WORD, b"K\0") + b"Q", "CG104"),
        (WORD + b"Q", "CG104"),
        (call(b"cnumpy\ndtype\n", b"X\4\0\0\0V500", b"\x89", b"\x88"), "CG101"),
        (call(b"cnumpy\ndtype\n", b"X\2\0\0\0O8", b"\x89", b"\x88"), "CG101"),
        (DTYPE + STATE.replace(b"K\0t", b"K\x3ft") + b"b", "CG101"),
        (DTYPE + STATE.replace(b"NNN", b"NN)") + b"b", "CG101"),
        (DTYPE + b"(" + b"N" * 100 + b"tb", "CG101"),
        (call(b"cnumpy.core.multiarray\nscalar\n", DTYPE, WORD), "CG101"),
        (TENSOR + b"}b", "CG101"),
        (b"})Na", "CG101"),
        (b"})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(24)) + b"Ns", "CG104"),
        (b"\x80\x02}.}.", "goes on after its end"),
        (b"\x80\x02}", "truncated"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02s.", "damaged"),
        (b"\x80\x02(q\x00.", "damaged"),
        (b"\x80\x02((a.", "damaged"),
        (b"", "CG103"),
    ],
)
def test_hostile_pickles_are_refused_in_one_line(code: bytes, says: str, one_line):
    with one_line(RefusedError, says):
        scan_pickle(code if code[:1] in (b"\x80", b"") else b"\x80\2" + code + b".")


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
        check_header(io.BytesIO(content), len(content))


def test_an_honest_header_with_metadata_and_empty_tensors_passes():
    fields = {"__metadata__": {"a": "b"}, "a": tensor(0, 4, [4]), "b": tensor(4, 4, [0])}
    content = header(fields, bytes(4))
    check_header(io.BytesIO(content), len(content))


OPCODES = st.lists(st.sampled_from([o.code.encode("latin-1") for o in pickletools.opcodes]))


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), OPCODES.map(b"".join)))
def test_random_bytes_never_escape_the_pickle_walk(data: bytes):
    with contextlib.suppress(RefusedError):
        scan_pickle(b"\x80\x02" + data + b".")


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
        check_header(io.BytesIO(content), len(content))


def test_inspection_works_where_torch_cannot_be_imported():
    code = "import sys; sys.modules['torch'] = None; import clipguard.checkpoint.inspection"
    run_python("-c", code, code=0)
