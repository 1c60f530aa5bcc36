"""The restricted unpickler: what it makes of every allowed construct, and what it refuses."""

from __future__ import annotations

import argparse
import collections
import contextlib
import datetime
import pathlib
import pickle
import pickletools
import random
import types
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipguard.checkpoint.allowlist import ALLOWED, CALLS
from clipguard.checkpoint.unpickle import Unpickled, unpickle
from clipguard.checkpoint.values import (
    MAX_LEVELS,
    LeftOut,
    Name,
    StorageRef,
    TensorRef,
    survey,
)
from clipguard.errors import RefusedError


def read(data: bytes, *, scripted: bool = False) -> Unpickled:
    return unpickle(BytesIO(data), scripted=scripted)


def value_of(content: object, protocol: int = 2) -> Any:
    return read(pickle.dumps(content, protocol)).value


def whole(code: bytes) -> bytes:
    return code if code[:1] in (b"\x80", b"") else b"\x80\2" + code + b"."


def text(value: str) -> bytes:
    return b"X" + len(value.encode()).to_bytes(4, "little") + value.encode()


def call(function: str, *arguments: bytes) -> bytes:
    module, _, name = function.rpartition(".")
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


def storage(key: str = "0", count: int = 1, kind: str = "FloatStorage", more: bytes = b"") -> bytes:
    named = f"ctorch\n{kind}\n".encode()
    numbers = b"J" + count.to_bytes(4, "little", signed=True)
    return b"(" + text("storage") + named + text(key) + text("cpu") + numbers + more + b"tQ"


WORD, LATIN = text("a"), text("latin1")
ORDERED = b"ccollections\nOrderedDict\n)R"
SHAPE = (b"K\0", b"(K\1t", b"(K\1t")
TENSOR = call("torch._utils._rebuild_tensor_v2", storage(), *SHAPE, b"\x89", ORDERED)
DTYPE = call("numpy.dtype", text("f8"), b"\x89", b"\x88")
STATE = b"(K\3X\1\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0t"
ARRAY = call("numpy.core.multiarray._reconstruct", b"cnumpy\nndarray\n", b"(K\0t", b"C\1b")


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_come_out_as_they_went_in(protocol: int):
    plain = {
        "text": "ä\n\\", "bytes": [1, -2, 2**70, -(2**40), 0, 255, 65535], 3: (True, False, None),
        "nested": ([], {}, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), [{"a": 0.5, "b": 1e300}]),
        "long": "x" * 300, "state": random.Random(0).getstate(), None: "", 0.5: "key", True: 1,
    }  # fmt: skip
    assert value_of(plain, protocol) == plain
    shared = [1]
    first, second = value_of([shared, shared], protocol)
    assert first is second


@pytest.mark.parametrize("protocol", range(6))
def test_known_objects_become_plain_values_or_are_left_out_by_name(protocol: int):
    assert sorted(value_of({1, 2}, protocol)) == [1, 2]
    assert value_of(frozenset("a"), protocol) == ["a"]
    assert value_of(b"\xffab", protocol) == b"\xffab"
    assert value_of(b"", protocol) == b""
    assert value_of(bytearray(b"\xff"), protocol) == b"\xff"
    assert value_of(collections.OrderedDict(a=1), protocol) == {"a": 1}
    assert value_of(collections.defaultdict(list, a=[1]), protocol) == {"a": [1]}
    for number in (np.float64(0.1), np.float32(0.5), np.int64(-3), np.uint8(3), np.bool_(True)):
        assert value_of(number, protocol) == number.item()
    bag = value_of(argparse.Namespace(lr=0.1), protocol)
    assert (bag.kind, bag.held) == ("argparse.Namespace", [{"lr": 0.1}])
    kinds = {
        "types.SimpleNamespace": types.SimpleNamespace(a=1),
        "pathlib.Path": pathlib.PurePosixPath("a/b"),
        "numpy.ndarray": np.arange(6.0).reshape(2, 3),
        "numpy scalar": np.complex64(1),
        "collections.deque": collections.deque([1], 3),
        "collections.Counter": collections.Counter("aab"),
        "datetime.datetime": datetime.datetime(2026, 1, 1),
        "numpy.random state": np.random.default_rng(0),
        "complex": 1j,
    }
    for kind, content in kinds.items():
        assert value_of(content, protocol).kind == kind
    assert value_of(np.array(["ab", "c"]), protocol).kind == "numpy.ndarray"
    assert value_of(np.random.RandomState(0).get_state(), protocol)[0] == "MT19937"


def test_types_of_torch_become_plain_values():
    assert value_of([torch.Size([2, 3]), torch.device("cuda", 1)]) == [(2, 3), "cuda"]
    named = value_of(torch.bfloat16)
    assert isinstance(named, Name)
    assert named.text == "torch.bfloat16"


@pytest.mark.parametrize(
    ("code", "dtype", "shape"),
    [
        (TENSOR, "float32", (1,)),
        (call("torch._utils._rebuild_tensor", storage(), *SHAPE), "float32", (1,)),
        (
            call(
                *("torch._utils._rebuild_tensor_v3", storage("0", 8, "UntypedStorage"), *SHAPE),
                *(b"\x89", ORDERED, b"ctorch\nfloat64\n"),
            ).replace(b"ctorch\nUntypedStorage", b"ctorch.storage\nUntypedStorage"),
            "float64",
            (1,),
        ),
        (call("torch._utils._rebuild_parameter", TENSOR, b"\x88", ORDERED), "float32", (1,)),
        (
            call(
                "torch._tensor._rebuild_from_type_v2",
                b"ctorch._utils\n_rebuild_tensor_v2\nctorch.nn.parameter\nParameter\n",
                b"(" + storage(kind="HalfStorage") + b"".join(SHAPE) + b"\x89" + ORDERED + b"t",
                b"}",
            ),
            "float16",
            (1,),
        ),
        (TENSOR.replace(b"tQ", b"NtQ"), "float32", (1,)),
    ],
)
def test_tensors_are_described_and_not_made(code: bytes, dtype: str, shape: tuple[int, ...]):
    found = read(whole(code))
    assert isinstance(found.value, TensorRef)
    assert (found.value.dtype, found.value.shape, found.value.storage.key) == (dtype, shape, "0")
    assert found.storages == {"0": found.value.storage}


def test_rare_tensors_are_left_out():
    code = call("torch._utils._rebuild_sparse_tensor", TENSOR, b"(t")
    found = read(whole(code)).value
    assert isinstance(found, LeftOut)
    assert found.kind == "sparse tensor"


def test_attributes_of_an_ordered_dictionary_are_forgotten():
    state = torch.nn.Linear(1, 1).state_dict()
    state.clear()
    assert value_of(state) == {}


def test_an_object_is_never_made_and_its_hooks_are_never_called():
    ran: list[str] = []

    class Trap(argparse.Namespace):
        def __setstate__(self, state: object) -> None:
            ran.append("set")

    data = pickle.dumps(argparse.Namespace(a=1), 2)
    argparse.Trap = Trap  # type: ignore[attr-defined]
    try:
        with pytest.raises(RefusedError, match=r"argparse\.Trap at byte 2"):
            read(data.replace(b"Namespace", b"Trap"))
    finally:
        del argparse.Trap  # type: ignore[attr-defined]
    assert ran == []


def test_classes_of_torchscript_are_read_in_such_archives_only():
    code = whole(b"c__torch__.a\nB\n)\x81}" + text("w") + TENSOR + b"sb")
    module: Any = read(code, scripted=True).value
    assert (module.kind, module.held[0]["w"].shape) == ("__torch__.a.B", (1,))
    with pytest.raises(RefusedError, match=r"__torch__\.a\.B"):
        read(code)
    tagged = call("torch.jit._pickle.restore_type_tag", b"](K\1K\2e", text("List[int]"))
    assert read(whole(tagged)).value == [1, 2]
    assert read(whole(call("torch.jit._pickle.build_intlist", tagged))).value == [1, 2]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("target", [eval, getattr, pickle.loads, torch.load])
def test_no_protocol_hides_a_forbidden_name(protocol: int, target: Any):
    with pytest.raises(RefusedError, match=r"CG101 .* asks for \S+ at byte \d+"):
        value_of({"key": target}, protocol)


def test_nothing_on_the_list_can_run_code():
    words = ("eval", "exec", "import", "system", "load", "getattr", "partial", "call", "apply")
    assert [name for name in ALLOWED if any(word in name.lower() for word in words)] == []
    assert CALLS.keys() <= ALLOWED


LONG = b"\x8b\x01\x01\0\0" + b"\1" * 257
ENCODED = call("_codecs.encode", WORD, LATIN)
WIDE = b"(" + b"K\1" * 65 + b"t"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (b"\x80\x02cos\nsystem\n.", r"CG101 .* os\.system at byte 2,"),
        (b"\x80\x02(ios\nsystem\n.", r"CG101 .* INST \(os system\)"),
        (b"\x80\x02(cos\nsystem\no.", r"os\.system"),
        (b"\x80\x04\x8c\x02osq\x00\x8c\x06systemq\x01h\x00h\x01\x93.", r"os\.system at byte 22"),
        (b"\x80\x04K\x01K\x02\x93.", "computes while loading"),
        (b"\x80\x04" + text("__torch__.") + text("a" * 503) + b"\x93.", "CG104 .* asks for"),
        (b"\x80\x02\x82\x01.", "CG101 .* EXT1"),
        (b"\x80\x02\x83\x01\x01.", "CG101 .* EXT2"),
        (b"\x80\x05\x97.", "CG101 .* NEXT_BUFFER"),
        (b"Px\n.", "CG101 .* PERSID"),
        (b"\x80\x02c__torch__.a\nB\n.", "__torch__"),
        (b"\x80\x02ctorch.storage\nUntypedStorage\nK\x05\x85R.", "CG101 .* calls torch.storage"),
        (b"\x80\x02}K\x01\x85R.", "CG101 .* calls dict"),
        (b"\x80\x02}K\x01\x85K\x02s.", "CG104 .* compound"),
        (b"})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(24)) + b"Ns", "CG104 .* compound"),
        (b"}" + b"\x8a\x09" + b"\1" * 9 + b"Ns", "CG104 .* huge number"),
        (LONG, "CG104 .* 2049 bits"),
        (b"Np9999999999\n", "CG104 .* impossible number"),
        (call("collections.OrderedDict", b"](K\x01K\x02e"), "CG101"),
        (call("collections.defaultdict", b"K\1"), "CG101"),
        (call("builtins.bytearray", b"J\xff\xff\xff\x7f"), "CG101"),
        (call("builtins.set", WORD), "CG101"),
        (call("builtins.list"), "CG101 .* calls builtins.list"),
        (call("argparse.Namespace", WORD), "CG101"),
        (b"cargparse\nNamespace\n)}\x92" + b"0" + b"cargparse\nNamespace\n)}NNs\x92", "keyword"),
        (call("copyreg._reconstructor", b"ctorch\nTensor\ncbuiltins\nobject\nN"), "CG101"),
        (call("pathlib.PosixPath", b"]") + b"K\1b" + b"a", "damaged"),
        (call("_codecs.encode", WORD, text("hex")), "CG101"),
        (call("_codecs.encode", text("中"), LATIN), "CG101"),
        (call("_codecs.encode", ENCODED, LATIN), "CG101"),
        (
            b"](" + call("_codecs.encode", text("a" * 64), LATIN)[:-2] + b"tq\0R"
            + b"c_codecs\nencode\nh\0R" * 9 + b"e",
            "CG104 .* multiplies",
        ),
        (call("torch.jit._pickle.build_intlist", b"K\1"), "CG101"),
        (call("torch.Size", TENSOR), "CG101"),
        (call("torch.Size", WIDE), "CG101"),
        (call("torch.Size", b"(J\xff\xff\xff\xfft"), "CG101"),
        (call("torch.device", b"N"), "CG101"),
        (TENSOR.replace(b"(K\1t(K\1t", WIDE + WIDE), "CG101"),
        (TENSOR.replace(b"(K\1t(K\1t", b"(K\1t(t"), "CG101"),
        (TENSOR.replace(b"(K\1t(K\1t", b"(K\2t(K\1t"), "CG105"),
        (TENSOR.replace(b"tQK\0", b"tQK\1"), "CG105"),
        (TENSOR.replace(b"tQ", b"t"), "CG101"),
        (TENSOR.replace(b"Float", b"Untyped").replace(b"ctorch\nU", b"ctorch.storage\nU"), "CG101"),
        (b"](" + TENSOR + TENSOR.replace(b"Float", b"Half") + b"e", "CG104 .* two things"),
        (storage().replace(WORD, b"K\0").replace(text("0"), b"K\0"), "CG104"),
        (storage().replace(text("0"), b"(" + text("0") * 3 + b"t"), "CG104"),
        (storage("x" * 65), "CG104"),
        (storage(count=-1), "CG104"),
        (storage(more=b"(t"), "CG104"),
        (storage(kind="float32"), "CG104"),
        (WORD + b"Q", "CG104"),
        (DTYPE.replace(text("f8"), text("V500")), "CG101"),
        (DTYPE.replace(text("f8"), text("O8")), "CG101"),
        (DTYPE.replace(text("f8"), text("U99999")), "CG101"),
        (DTYPE + STATE.replace(b"K\0t", b"K\x3ft") + b"b", "CG101"),
        (DTYPE + STATE.replace(b"NNN", b"NN)") + b"b", "CG101"),
        (DTYPE + STATE.replace(b"<", b">") + b"b", "CG101"),
        (DTYPE + b"(" + b"N" * 100 + b"tb", "CG101"),
        (call("numpy.core.multiarray.scalar", DTYPE, WORD), "CG101"),
        (call("numpy.core.multiarray.scalar", DTYPE), "CG101"),
        (ARRAY + b"(K\1(K\3t" + DTYPE + b"\x89C\x08aaaaaaaatb", "CG101"),
        (ARRAY + b"(K\1(K\1t" + DTYPE + b"\x89]tb", "CG101"),
        (ARRAY.replace(b"K\0t", b"K\x63t"), "CG101"),
        (TENSOR + b"}b", "CG101 .* by hand"),
        (b"}}b", "CG101 .* by hand"),
        (ORDERED + b"Nb", "CG101 .* by hand"),
        (b"})Na", "CG101 .* by hand"),
        (b")NNs", "CG101 .* by hand"),
        (b"\x80\x02}", "CG103 .* truncated"),
        (b"\x80\x02h\x07.", "CG103 .* damaged"),
        (b"\x80\x02s.", "CG103 .* damaged"),
        (b"\x80\x02(q\x00.", "CG103 .* damaged"),
        (b"\x80\x02((a.", "CG103 .* damaged"),
        (b"\x80\x02}(Nu.", "CG103 .* damaged"),
        (b"\x80\x02NN.", "CG103 .* more or less than one"),
        (b"\x80\x02(N.", "CG103 .* more or less than one"),
        (b"\x80\x02.", "CG103"),
        (b"", "CG103"),
    ],
)  # fmt: skip
def test_hostile_pickles_are_refused_in_one_line(code: bytes, says: str, one_line):
    with one_line(RefusedError, says):
        read(whole(code))


def test_the_number_of_instructions_is_bounded():
    with pytest.raises(RefusedError, match=r"CG104 .* more than 100 instructions"):
        unpickle(BytesIO(whole(b"N0" * 100)), most=100)


@pytest.mark.parametrize(
    ("code", "value"), [(b"U\1a.", "a"), (b"U\2\xc3\xa4.", b"\xc3\xa4"), (b"S'\\x41'\n.", "A")]
)
def test_a_string_of_python_2_is_text_only_if_all_readers_agree(code: bytes, value: object):
    assert read(code).value == value


def test_a_tree_is_walked_once_whatever_it_shares():
    shared: object = TensorRef(StorageRef("0", "float32", 1), "float32", 0, (1,), (1,))
    for _ in range(MAX_LEVELS - 1):
        shared = [shared, shared, LeftOut("b", [shared])]
    assert len(survey(shared).tensors) == 1
    assert survey(shared).left_out == ("b",)
    circle: list[object] = []
    circle.append(circle)
    assert survey(circle).tensors == ()
    with pytest.raises(RefusedError, match=r"CG104 .* deeper"):
        survey([shared])


CODES = [o.code.encode("latin-1") for o in pickletools.opcodes]
PIECES = st.sampled_from([*CODES, TENSOR, STATE, DTYPE, ARRAY, ORDERED, WORD, b"q\0", b"h\0"])
SAMPLE = pickle.dumps(
    {
        "bag": argparse.Namespace(a=[1, (2, 3)]), "array": np.arange(3.0), "set": {1, 2},
        "scalar": np.float64(1), "ordered": collections.OrderedDict(a=torch.Size([1])),
    },
    2,
)  # fmt: skip
SAMPLES = [SAMPLE, whole(b"](" + TENSOR + TENSOR + b"e"), pickle.dumps(pickle.loads(SAMPLE), 5)]


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.lists(PIECES).map(b"".join)))
def test_random_instructions_never_escape(data: bytes):
    with contextlib.suppress(RefusedError):
        survey(read(b"\x80\x02" + data + b".").value)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SAMPLES), st.lists(st.tuples(st.integers(0, 2**16), st.binary(max_size=4))))
def test_a_changed_pickle_is_read_or_refused(data: bytes, changes: list[tuple[int, bytes]]):
    for where, new in changes[:4]:
        where %= len(data)
        data = data[:where] + new + data[where + max(1, len(new)) :]
    with contextlib.suppress(RefusedError):
        survey(read(data).value)
