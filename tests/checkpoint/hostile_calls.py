"""Every function that a pickle may call, with what it does not expect."""

from __future__ import annotations

from hostile import (
    HARMLESS,
    MARKER,
    PAYLOAD,
    A,
    Case,
    call,
    checkpoint,
    light,
    named,
    number,
    pickled,
    sizes,
    text,
)

from clipguard.checkpoint.allowlist import CALLS, STORAGES, TYPES

ORDERED = named("collections.OrderedDict") + b")R"
BAG = named("argparse.Namespace") + b")R"
KEEPS_ANYTHING = {
    *("collections.Counter", "collections.deque", "torch.Generator", "torch._C.Generator"),
    *("torch._utils._rebuild_nested_tensor", "torch._utils._rebuild_qtensor"),
    *("torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_sparse_csr_tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage",
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
    *(name for name in CALLS if name.startswith(("pathlib.", "numpy.random._pickle."))),
}
"""Calls whose results are left out, whatever they are made of."""


def _told() -> dict[str, tuple[bytes, str]]:
    """Every function that may be called, with what it does not expect; types that may not be."""
    junk = b"](K\1" + named("torch.Tensor") + b"e"
    cases: dict[str, tuple[bytes, str]] = {}
    for name in sorted(CALLS):
        wanted = HARMLESS if name in KEEPS_ANYTHING else "CG101"
        cases[f"call-{name}-with-junk"] = (pickled(call(name, *[junk] * 9)), wanted)
    for name in sorted(STORAGES.keys() | TYPES):
        cases[f"call-{name}"] = (pickled(call(name, number(2**40))), "CG101")
    arguments = {
        "bytearray-of-2-to-the-40": call("builtins.bytearray", number(2**40)),
        "bytes-of-a-list": call("builtins.bytes", b"](K\1e"),
        "encode-to-hex": call("_codecs.encode", text("a"), text("hex")),
        "encode-to-punycode": call("_codecs.encode", text("\u4e2d"), text("punycode")),
        "encode-with-errors": call("_codecs.encode", text("a"), text("latin1"), text("ignore")),
        "set-of-numbers": call("builtins.set", number(2**40)),
        "ordered-dictionary-of-pairs": call("collections.OrderedDict", b"](K\1K\2e"),
        "default-dictionary-of-a-payload": call("collections.defaultdict", PAYLOAD),
        "namespace-of-arguments": call("argparse.Namespace", text("a")),
        "size-of-a-tensor": call("torch.Size", A),
        "size-of-2-to-the-63": call("torch.Size", sizes(2**63)),
        "device-of-a-list": call("torch.device", b"]"),
        "scalar-of-objects": call(
            "numpy.core.multiarray.scalar",
            call("numpy.dtype", text("O8"), b"\x89", b"\x88"),
            b"C\x08abcdefgh",
        ),
        "dtype-of-500-megabytes": call("numpy.dtype", text("V500000000"), b"\x89", b"\x88"),
        "dtype-of-fields": call("numpy.dtype", b"](" + text("a") + text("f8") + b"e", b"\x89"),
        "array-of-a-subclass": call(
            "numpy.core.multiarray._reconstruct", named("torch.Tensor"), b"(K\0t", b"C\1b"
        ),
        "tag-of-a-tensor": call("torch.jit._pickle.restore_type_tag", A, A),
        "reconstructor-of-a-tensor": call(
            "copyreg._reconstructor", named("torch.Tensor"), named("builtins.object"), b"N"
        ),
        "reconstructor-over-a-dictionary": call(
            "copyreg._reconstructor", named("argparse.Namespace"), named("builtins.dict"), b"}"
        ),
        "parameter-of-a-number": call("torch._utils._rebuild_parameter", b"K\1", b"\x88", ORDERED),
        "subclass-by-a-payload": call(
            *("torch._tensor._rebuild_from_type_v2", named("torch.Size"), named("torch.Tensor")),
            *(b"(" + text(MARKER) + b"t", b"}"),
        ),
        "a-list": b"])R",
        "a-text": text("posix") + b")R",
        "a-left-out-object": BAG + b")R",
        "a-tensor": A + b")R",
        "with-a-list-of-arguments": named("collections.OrderedDict") + b"]R",
        "with-a-dictionary": named("collections.OrderedDict") + b"}R",
        "new-with-keywords": named("argparse.Namespace") + b")}" + text("a") + b"K\1s\x92",
        "new-of-a-payload": named("posix.mkdir") + b"(" + text(MARKER) + b"t}\x92",
    }
    cases |= {f"call-{name}": (pickled(code), "CG101") for name, code in arguments.items()}
    return cases


def cases() -> list[Case]:
    """Every hostile call, in an archive that is as it should be."""
    return [light(name, checkpoint(data), rule) for name, (data, rule) in _told().items()]
