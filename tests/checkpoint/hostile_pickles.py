"""Hostile pickles: each instruction, each name and each state, bent, beside benign weights."""

from __future__ import annotations

import struct
from collections.abc import Callable

from hostile import (
    HARMLESS,
    MARKER,
    PAYLOAD,
    STATE,
    A,
    Case,
    call,
    checkpoint,
    light,
    named,
    number,
    pickled,
    sizes,
    storage,
    tensor,
    text,
)

from clipguard.checkpoint.calls import BAGS

Told = dict[str, tuple[bytes, str]]
MODULE, NAME = text("posix"), text("mkdir")
RUN = b"(" + text(MARKER) + b"tR"
ORDERED = named("collections.OrderedDict") + b")R"
BAG = named("argparse.Namespace") + b")R"
ARRAY = call("numpy.core.multiarray._reconstruct", named("numpy.ndarray"), b"(K\0t", b"C\1b")
DTYPE = call("numpy.dtype", text("f8"), b"\x89", b"\x88")


def _names() -> Told:
    """Names that must not be asked for, in every way to ask."""
    cases: Told = {}
    for protocol in range(6):
        code = named("posix.mkdir") + RUN
        cases[f"global-in-protocol-{protocol}"] = (pickled(code, protocol=protocol), "CG101")
        code = MODULE + NAME + b"\x93" + RUN
        cases[f"stack-global-in-protocol-{protocol}"] = (pickled(code, protocol=protocol), "CG101")
    stacked = {
        "from-the-memo": MODULE + b"q\x01" + NAME + b"q\x02h\x01h\x02\x93" + RUN,
        "from-the-memo-in-turn": MODULE + b"q\1" + text("x") + b"q\1" + NAME + b"h\1" + b"\x93",
        "from-one-copy": MODULE + b"2\x93",
        "of-bytes": b"C\5posixC\5mkdir\x93",
        "of-a-byte-string": b"U\5posixU\5mkdir\x93" + RUN,
        "of-numbers": b"K\1K\2\x93",
        "of-encoded-text": call("_codecs.encode", MODULE, text("latin1")) + NAME + b"\x93",
        "of-a-name": named("torch.Tensor") + text("mkdir") + b"\x93",
        "of-a-path": call("pathlib.Path", MODULE) + NAME + b"\x93",
        "of-an-allowed-type-with-dots": text("collections") + text("OrderedDict.update") + b"\x93",
        "of-no-module": text("") + text("mkdir") + b"\x93",
        "of-a-dot": text("posix.") + NAME + b"\x93",
        "of-a-fullwidth-letter": text("\uff50osix") + NAME + b"\x93",
        "of-a-line-end": text("posix\n") + NAME + b"\x93",
        "of-an-escape": text("\x1b]0;x\a") + text("::error::x") + b"\x93",
    }
    cases |= {
        f"name-{what}": (pickled(code, protocol=4), "CG101") for what, code in stacked.items()
    }
    for name in (
        "builtins.eval", "builtins.getattr", "__builtin__.exec", "operator.attrgetter",
        "functools.partial", "importlib.import_module", "runpy.run_path", "pickle.loads",
        "torch.load", "torch.jit.load", "torch.storage._load_from_bytes", "types.FunctionType",
        "torch.nn.modules.linear.Linear", "collections.OrderedDict.__init__", "torch._utils.sys",
        "torch._utils._rebuild_tensor_v2.__globals__", "pathlib.Path.unlink", "numpy.load",
        "argparse.Namespace.__class__", "argparse.ArgumentParser", "codecs.encode",
        "torch.Tensor.map_", "_codecs.decode", "copyreg.__newobj__", "copy_reg.add_extension",
        "builtins.type", "builtins.memoryview", "builtins.map", "datetime.datetime.now",
        "torch._C._cuda_init", "omegaconf.OmegaConf", "easydict.sys",
        "torch. _utils._rebuild_tensor_v2",
    ):  # fmt: skip
        cases[f"name-{name}"] = (pickled(named(name) + RUN), "CG101")
    cases["name-too-long"] = (pickled(text("a" * 300) + text("b" * 300) + b"\x93"), "CG104")
    cases["name-split-elsewhere"] = (
        pickled(state=STATE.replace(b"ctorch._utils\n_re", b"ctorch\n_utils _re")),
        "CG101",
    )
    return cases


def _instructions() -> Told:
    """Instructions out of order, on an empty stack, under a mark, or that no checkpoint has."""
    takers = {
        "append": b"a", "appends": b"e", "setitem": b"s", "setitems": b"u", "tuple": b"t",
        "tuple1": b"\x85", "tuple2": b"\x86", "tuple3": b"\x87", "reduce": b"R", "build": b"b",
        "newobj": b"\x81", "newobj-ex": b"\x92", "pop": b"0", "pop-mark": b"1", "dup": b"2",
        "list": b"l", "dict": b"d", "frozenset": b"\x91", "additems": b"\x90", "memoize": b"\x94",
        "put": b"q\1", "stack-global": b"\x93", "binpersid": b"Q", "get": b"h\x63", "stop": b".",
        "get-text": b"g99\n", "get-long": b"j\xff\xff\xff\xff", "put-text": b"p1\n",
    }  # fmt: skip
    cases: Told = {
        f"nothing-to-{name}": (b"\x80\2" + code + b".", "CG103") for name, code in takers.items()
    }
    for name in ("append", "setitem", "reduce", "build", "tuple2", "dup", "binpersid", "put"):
        cases[f"a-mark-below-{name}"] = (b"\x80\2}(" + takers[name] + b".", "CG103")
    foreign = {
        "inst": b"(" + text(MARKER) + b"iposix\nmkdir\n",
        "obj": b"(" + named("collections.OrderedDict") + b"o",
        "obj-of-a-payload": b"(" + named("posix.mkdir") + text(MARKER) + b"o",
        "ext1": b"\x82\1",
        "ext2": b"\x83\1\0",
        "ext4": b"\x84\1\0\0\0",
        "persid": b"Pstorage\n",
        "next-buffer": b"\x97",
        "readonly-buffer": A + b"\x98",
    }
    for name, code in foreign.items():
        cases[f"instruction-{name}"] = (pickled(code), "CG101")
    damaged = {
        "unknown-instruction": pickled(b"\xff"),
        "end-in-an-instruction": pickled()[:-1] + b"X\5\0\0\0ab",
        "no-end": pickled()[:-1],
        "two-results": pickled()[:-1] + b"N.",
        "open-mark": pickled()[:-1] + b"(.",
        "text-longer-than-the-file": pickled(b"X\xff\xff\xff\xff"),
        "bytes-of-2-to-the-63": pickled(b"\x8e" + struct.pack("<Q", 2**63)),
        "text-that-is-none": pickled(b"X\2\0\0\0\xff\xfe"),
        "number-that-is-none": pickled(b"Ione\n"),
        "number-of-5000-digits": pickled(b"L" + b"9" * 5000 + b"L\n"),
        "float-that-is-none": pickled(b"Fone\n"),
        "quote-that-is-open": pickled(b"S'a\n"),
        "long-of-negative-length": pickled(b"\x8b\xff\xff\xff\xff"),
        "frame-cut-off": pickled(b"\x95\1"),
        "odd-number-of-items": pickled()[:-2] + text("more") + b"u.",
        "second-pickle": pickled() + pickled(PAYLOAD),
        "bytes-after-the-end": pickled() + b"\0",
        "protocol-6": pickled(protocol=6),
        "protocol-255": pickled(protocol=255),
        "protocol-6-later": pickled(b"\x80\6N"),
    }
    cases |= {name: (data, "CG103") for name, data in damaged.items()}
    # what readers do agree about, however odd
    fine = {
        "protocol-again": b"\x80\4N",
        "marks-and-pops": b"(N1(0NN0",
        "memo-written-again": b"Nq\1" + b"0]q\1" + b"0h\1",
        "a-number-that-is-true": b"I01\n",
        "not-a-number": b"G\x7f\xf8\0\0\0\0\0\0",
        "list-in-itself": b"]q\1h\1a",
        "dictionary-in-itself": b"}q\1" + text("a") + b"h\1s",
        "key-twice": b"}" + text("a") + b"K\1s" + text("a") + b"K\2s",
        "frame-of-nothing": b"\x95" + bytes(8) + b"N",
    }
    for name, code in fine.items():
        cases[name] = (pickled(code), HARMLESS)
    return cases


def _states() -> Told:
    """BUILD and items on every kind of object, and the methods of dictionaries overridden."""
    trick = b"}" + text("__setstate__") + named("collections.OrderedDict") + b"s"
    methods = b"}(" + b"".join(
        text(name) + named("builtins.dict") for name in ("items", "keys", "get", "__iter__")
    ) + b"u"  # fmt: skip
    targets = {
        "none": b"N", "number": b"K\1", "text": MODULE, "tuple": b")", "list": b"]",
        "dictionary": b"}", "set": b"\x8f", "tensor": A, "name": named("torch.Tensor"),
        "function": named("_codecs.encode"), "storage": storage(), "dtype": DTYPE, "array": ARRAY,
        "size": call("torch.Size", sizes(1)), "bytes": b"C\1a",
    }  # fmt: skip
    cases: Told = {
        f"state-of-{name}": (pickled(code + trick + b"b"), "CG101")
        for name, code in targets.items()
    }
    for name in ("none", "number", "text", "tuple", "tensor", "name", "dtype", "storage"):
        cases[f"item-of-{name}"] = (pickled(targets[name] + NAME + b"Ns"), "CG101")
        cases[f"member-of-{name}"] = (pickled(targets[name] + b"Na"), "CG101")
    cases["state-of-an-ordered-dictionary-that-is-no-dictionary"] = (
        pickled(ORDERED + b"](K\1eb"),
        "CG101",
    )
    state = ORDERED + b"(" + STATE[2:] + methods + b"b"
    cases["methods-of-the-state-dict"] = (pickled(state=state), HARMLESS)
    for bag in sorted(BAGS):
        code = named(bag) + b")R" + trick + b"b"
        cases[f"state-of-{bag}"] = (pickled(code), HARMLESS)
    keys = {
        "a-tuple": b")", "a-tensor": A, "a-name": named("torch.Tensor"), "a-list": b"]",
        "a-huge-number": number(2**61 - 1), "a-left-out-object": BAG,
    }  # fmt: skip
    for name, key in keys.items():
        cases[f"key-of-{name}"] = (pickled(b"}" + key + b"Ns"), "CG104")
    nested = b")" + b"".join(b"q%c0h%ch%ch%c\x87" % (i, i, i, i) for i in range(26))
    cases["key-of-26-nested-tuples"] = (pickled(b"}" + nested + b"Ns"), "CG104")
    return cases


def _heavy() -> dict[str, tuple[Callable[[], bytes], str]]:
    """What asks for time or memory by a few bytes."""
    many, deep = 950_000, 200_000
    bag, first = BAG[:-2] + b"q\1", b"](" + text("a" * 2**20) + b"q\1" + text("latin1") + b"q\2"
    view = tensor(storage(), (2, 2), (1, 2))
    return {
        "more-instructions-than-a-checkpoint-has": (lambda: b"N0" * 2**20 + b"N", "CG104"),
        "many-lists": (lambda: b"(" + b"]" * many + b"l", HARMLESS),
        "many-marks": (lambda: b"(" * many + b"N", "CG103"),
        "many-objects": (lambda: b"(" + bag + b"h\1)R" * (many // 3) + b"l", HARMLESS),
        "many-remembered": (lambda: b"(" + b"]\x94" * (many // 2) + b"l", HARMLESS),
        "one-key-many-times": (lambda: b"}(" + b"K\1N" * (many // 2) + b"u", HARMLESS),
        "many-storages": (
            lambda: b"(" + b"".join(storage(str(i), 0) for i in range(2, 100_000)) + b"l",
            "CG105",
        ),
        "deep-lists": (lambda: b"]" * deep + b"a" * (deep - 1), "CG104"),
        "deep-tuples": (lambda: b")" + b"\x85" * deep, "CG104"),
        "deep-states": (lambda: b"(" + bag + b"h\1)R" * deep + b"b" * (deep - 1) + b"l", "CG104"),
        "lists-that-double": (lambda: b"]q\0" + b"0](h\0h\0eq\0" * 110_000, "CG104"),
        "text-of-60-megabytes": (lambda: text("\U0001f600" + "a" * (60 * 2**20)), HARMLESS),
        "number-of-16-megabytes": (
            lambda: b"\x8b" + struct.pack("<L", 2**24) + b"\1" * 2**24,
            "CG104",
        ),
        "bytes-multiplied": (
            lambda: first + (named("_codecs.encode") + b"h\1h\2\x86R") * 2000 + b"e",
            "CG104",
        ),
        "pickle-of-65-megabytes": (lambda: text("a" * (65 * 2**20)), "CG104"),
        "tensors-by-the-thousand": (lambda: b"](" + view * 25_000 + b"e", HARMLESS),
    }


def _heavy_case(name: str, make: Callable[[], bytes], rule: str) -> Case:
    return Case(f"pickle-{name}", lambda: checkpoint(pickled(make(), protocol=4)), rule, True)


def cases() -> list[Case]:
    """Every hostile pickle, each in an archive that is as it should be."""
    told = {**_names(), **_instructions(), **_states()}
    found = [light(f"pickle-{name}", checkpoint(data), rule) for name, (data, rule) in told.items()]
    return found + [_heavy_case(name, *case) for name, case in _heavy().items()]
