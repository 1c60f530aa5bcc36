"""The static pass: what is refused, under which rule, and that nothing else escapes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from clipguard.checkpoint.inspection import inspect_file, sha256_of
from clipguard.checkpoint.pickle_scan import MAX_DEPTH, scan_pickle
from clipguard.checkpoint.safetensors_header import check_header
from clipguard.errors import RefusedError, UsageError


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def archive(path: Path, entries: dict[str, bytes], *, compress: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compress) as file:
        for name, data in entries.items():
            file.writestr(name, data)
    return path


EMPTY_PICKLE = pickle.dumps({}, protocol=2)


def refusal(path: Path) -> str:
    with pytest.raises(RefusedError) as caught:
        inspect_file(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(path.name)
    return str(caught.value)


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
    assert inspection.container == "zip"
    assert inspection.notes == ()
    assert inspection.sha256 == sha256_of(path)
    assert inspection.size_bytes == path.stat().st_size


def test_safetensors_is_recognised_by_content_and_the_wrong_name_is_noted(tmp_path: Path):
    save_file({"a": torch.zeros(2, 3), "b": torch.zeros(0)}, tmp_path / "model.pt")
    inspection = inspect_file(tmp_path / "model.pt")
    assert inspection.container == "safetensors"
    assert "CG102" in inspection.notes[0]
    disguised = saved(tmp_path / "model.safetensors", {"a": torch.zeros(1)})
    assert "content is zip" in inspect_file(disguised).notes[0]


def test_a_folder_gives_its_preferred_weights_file(tmp_path: Path):
    saved(tmp_path / "zzz.pt", {"a": torch.zeros(1)})
    saved(tmp_path / "open_clip_pytorch_model.bin", {"a": torch.zeros(1)})
    inspection = inspect_file(tmp_path)
    assert inspection.weights_file.name == "open_clip_pytorch_model.bin"
    assert inspection.container == "folder, zip"


def test_a_folder_without_one_clear_weights_file_is_a_usage_error(tmp_path: Path):
    with pytest.raises(UsageError, match="found none"):
        inspect_file(tmp_path)
    for name in ("a.pt", "b.pt"):
        saved(tmp_path / name, {"a": torch.zeros(1)})
    with pytest.raises(UsageError, match=r"a\.pt, b\.pt"):
        inspect_file(tmp_path)


def test_a_missing_path_is_a_usage_error(tmp_path: Path):
    with pytest.raises(UsageError, match="no file or folder"):
        inspect_file(tmp_path / "nothing.pt")


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
    ],
)
def test_what_is_no_checkpoint_is_refused_by_kind(tmp_path: Path, content: bytes, says: str):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert says in refusal(path)


def test_a_truncated_archive_is_refused(tmp_path: Path):
    path = saved(tmp_path / "model.pt", {"a": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-200])
    assert "CG103" in refusal(path)


def test_a_legacy_torch_file_says_how_to_resave(tmp_path: Path):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    assert "re-save" in refusal(path)


def test_torchscript_is_refused_with_the_way_out(tmp_path: Path):
    entries = {"m/data.pkl": EMPTY_PICKLE, "m/constants.pkl": EMPTY_PICKLE, "m/code/x.py": b""}
    message = refusal(archive(tmp_path / "m.pt", entries))
    assert "CG106" in message
    assert "sandbox" in message


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"m/data.pkl": EMPTY_PICKLE, "m/other.pkl": EMPTY_PICKLE}, "more than one pickle"),
        ({"m/data.pkl": EMPTY_PICKLE, "m/readme": b""}, "torch does not write"),
        ({"m/data.pkl": EMPTY_PICKLE, "n/version": b"3"}, "one root folder"),
        ({"m/data.pkl": EMPTY_PICKLE, "../evil": b""}, "outside"),
        ({"m/data.pkl": EMPTY_PICKLE, "/evil": b""}, "outside"),
        ({"m/data.pkl": EMPTY_PICKLE, "m\\evil": b""}, "outside"),
        ({"m/data.pkl": EMPTY_PICKLE, "c:/evil": b""}, "outside"),
        ({"m/version": b"3"}, "without data.pkl"),
    ],
)
def test_odd_archive_entries_are_refused(tmp_path: Path, entries: dict[str, bytes], says: str):
    message = refusal(archive(tmp_path / "m.pt", entries))
    assert "CG103" in message
    assert says in message


def test_compressed_entries_are_refused(tmp_path: Path):
    path = archive(tmp_path / "m.pt", {"m/data.pkl": EMPTY_PICKLE}, compress=zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(path)


def test_a_duplicate_entry_is_refused(tmp_path: Path):
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("m/data.pkl", EMPTY_PICKLE)
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr("m/data.pkl", EMPTY_PICKLE)
    assert "twice" in refusal(path)


def central(path: Path, offset: int, value: bytes) -> Path:
    """Overwrite bytes of the first central directory record."""
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02") + offset
    data[start : start + len(value)] = value
    path.write_bytes(bytes(data))
    return path


def test_an_encrypted_entry_is_refused(tmp_path: Path):
    path = archive(tmp_path / "m.pt", {"m/data.pkl": EMPTY_PICKLE})
    assert "encrypted" in refusal(central(path, 8, b"\x01\x00"))


def test_entries_that_claim_more_than_the_file_has_are_refused(tmp_path: Path):
    path = archive(tmp_path / "m.pt", {"m/data/0": b"1234", "m/data.pkl": EMPTY_PICKLE})
    assert "CG104" in refusal(central(path, 24, struct.pack("<I", 2**31)))


def test_headers_that_name_different_entries_are_refused(tmp_path: Path):
    path = archive(tmp_path / "m.pt", {"m/data/0": b"1234", "m/data.pkl": EMPTY_PICKLE})
    assert "CG103" in refusal(central(path, 46, b"m/data/9"))


def test_bytes_before_the_archive_are_refused(tmp_path: Path):
    path = archive(tmp_path / "m.pt", {"m/data.pkl": EMPTY_PICKLE})
    path.write_bytes(b"PK\x03\x04hidden" + path.read_bytes())
    assert "before the archive" in refusal(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda data: data + b"x", "behind its end"),
        (lambda data: data[:-2] + b"\4\0more", "behind its end"),
        (lambda data: data[:-2] + b"\4\0", "behind its end"),
        (lambda data: data[:-22] + b"PK\1\2" + data[-22:], "second directory"),
        (lambda data: data[:-98] + data[-98:-42] + bytes(20) + data[-22:], "second directory"),
        (lambda data: data[:-34] + b"\0" + data[-33:], "two end records"),
        (lambda data: data[:-14] + b"\1\0" + data[-12:], "two end records"),
        (lambda data: data[:-98] + b"PK\1\2" + data[-98:], "two end records"),
        (lambda data: data[:-66] + b"\1" + data[-65:-14] + b"\1" + data[-13:], "CG103"),
    ],
)
def test_an_archive_that_two_readers_could_read_differently_is_refused(
    tmp_path: Path, change: Callable[[bytes], bytes], says: str
):
    path = saved(tmp_path / "m.pt", {"a": torch.zeros(1)})
    path.write_bytes(change(path.read_bytes()))
    assert "CG103" in (message := refusal(path))
    assert says in message


def test_a_plain_archive_without_zip64_records_passes(tmp_path: Path):
    assert inspect_file(archive(tmp_path / "m.pt", {"m/data.pkl": EMPTY_PICKLE})).notes == ()


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

    message = refusal(saved(tmp_path / "model.pt", {"state_dict": {"a": Payload()}}))
    assert "CG101" in message
    assert f"{os.mkdir.__module__}.mkdir" in message
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("target", [eval, getattr, os.system, pickle.loads, torch.load])
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
        (b"\x80\x02}.}.", "goes on after its end"),
        (b"\x80\x02}", "truncated"),
        (b"\x80\x02h\x07.", "damaged"),
        (b"\x80\x02s.", "damaged"),
        (b"\x80\x02(q\x00.", "damaged"),
        (b"\x80\x02((a.", "damaged"),
        (b"", "CG103"),
    ],
)
def test_hostile_pickles_are_refused_in_one_line(code: bytes, says: str):
    with pytest.raises(RefusedError) as caught:
        scan_pickle(code if code[:1] in (b"\x80", b"") else b"\x80\2" + code + b".")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_exponential_keys_are_refused_before_anything_hashes_them():
    doubling = b"".join(b"q%ch%c\x86" % (i, i) for i in range(24))
    with pytest.raises(RefusedError, match="CG104"):
        scan_pickle(b"\x80\x02})" + doubling + b"Ns.")


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


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_never_escape_the_header_check(data: bytes, framed: bool):
    content = header(b"{" + data) if framed else data
    with contextlib.suppress(RefusedError):
        check_header(io.BytesIO(content), len(content))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=10,
)
ENTRY = st.fixed_dictionaries({"dtype": JSON | st.just("F32"), "shape": JSON, "data_offsets": JSON})


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(max_size=5), JSON | ENTRY))
def test_any_json_header_is_accepted_or_refused(fields: dict[str, object]):
    content = header(fields)
    with contextlib.suppress(RefusedError):
        check_header(io.BytesIO(content), len(content))


def test_inspection_works_where_torch_cannot_be_imported():
    code = "import sys; sys.modules['torch'] = None; import clipguard.checkpoint.inspection"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": "."})
