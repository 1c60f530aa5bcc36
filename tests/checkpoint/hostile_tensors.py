"""Hostile tensors: storages, sizes, strides and types that do not fit what is in the file."""

from __future__ import annotations

from hostile import (
    HARMLESS,
    STATE,
    A,
    B,
    Case,
    Part,
    archive,
    call,
    checkpoint,
    light,
    named,
    number,
    parts,
    pickled,
    sizes,
    storage,
    tensor,
    text,
)

Told = dict[str, tuple[bytes, str]]
HOOKS = named("collections.OrderedDict") + b")R"
BYTES = storage("0", 24, "torch.storage.UntypedStorage")
HUGE = 2**62


def instead(code: bytes) -> bytes:
    """The benign checkpoint with another tensor in the place of `a`."""
    return checkpoint(pickled(state=STATE.replace(A, code)))


def _places() -> Told:
    """Offsets, shapes and strides."""
    zero = storage()
    reaching = {
        "offset-of-one": tensor(zero, (2, 3), (3, 1), 1),
        "offset-of-2-to-the-62": tensor(zero, (2, 3), (3, 1), HUGE),
        "shape-too-large": tensor(zero, (2, 4), (3, 1)),
        "shape-of-2-to-the-62": tensor(zero, (HUGE,), (1,)),
        "stride-too-large": tensor(zero, (2, 3), (4, 1)),
        "stride-of-2-to-the-62": tensor(zero, (2, 3), (HUGE, 1)),
        "product-that-wraps-to-6": tensor(zero, (2**32 + 2, 2**32 + 3), (1, 1)),
        "end-that-wraps": tensor(zero, (2, 2), (2**63 - 1, 2**63 - 1), 2**63 - 1),
    }
    odd = {
        "offset-below-zero": tensor(zero, (2, 3), (3, 1), -1),
        "offset-of-2-to-the-64": tensor(zero, (2, 3), (3, 1), 2**64),
        "shape-below-zero": tensor(zero, (-2, -3), (3, 1)),
        "stride-below-zero": tensor(zero, (2, 3), (3, -1), 2),
        "stride-of-2-to-the-64": tensor(zero, (2, 3), (2**64, 1)),
        "more-strides-than-sizes": tensor(zero, (2, 3), (3, 1, 1)),
        "65-dimensions": tensor(zero, (1,) * 65, (1,) * 65),
        "100-thousand-dimensions": tensor(zero, (1,) * 100_000, (1,) * 100_000),
        "shape-of-booleans": A.replace(sizes(2, 3), b"(\x88\x88t"),
        "shape-of-fractions": A.replace(sizes(2, 3), b"(G?\xf0\0\0\0\0\0\0K\1t"),
        "shape-of-texts": A.replace(sizes(2, 3), b"(" + text("2") + text("3") + b"t"),
        "shape-of-tensors": A.replace(sizes(2, 3), b"(" + B + B + b"t"),
        "shape-that-is-a-list": A.replace(sizes(2, 3), b"](K\2K\3e"),
        "offset-that-is-a-tensor": tensor(zero, (2, 3), (3, 1)).replace(number(0), B, 1),
        "gradient-that-is-a-number": A.replace(b"\x89" + HOOKS, b"K\0" + HOOKS),
        "hooks-that-are-a-list": A.replace(HOOKS, b"]"),
        "conjugate-view": A.replace(HOOKS, HOOKS + b"}" + text("conj") + b"\x88s"),
        "storage-that-is-a-tensor": tensor(A, (2, 3), (3, 1)),
        "storage-that-is-a-text": tensor(text("0"), (2, 3), (3, 1)),
    }
    shared = {
        "stride-of-zero": tensor(zero, (2, 3), (0, 1)),
        "10-to-the-12-numbers-over-one": tensor(zero, (10**6, 10**6), (0, 0)),
        "2-to-the-4000-numbers": tensor(zero, (HUGE,) * 64, (0,) * 64),
        "rows-that-overlap": tensor(zero, (2, 3), (1, 1)),
        "sparse": call("torch._utils._rebuild_sparse_tensor", named("torch.Tensor"), b"(t"),
        "without-numbers": call("torch._utils._rebuild_meta_tensor_no_storage", b"(t"),
        "quantised": call("torch._utils._rebuild_qtensor", storage("0", 24, "torch.QUInt8Storage")),
        "no-numbers-and-2-to-the-62-rows": tensor(zero, (HUGE, HUGE, 0), (1, 1, 1)),
    }
    cases = {name: (instead(code), "CG105") for name, code in (reaching | shared).items()}
    cases |= {name: (instead(code), "CG101") for name, code in odd.items()}
    return cases


def _storages() -> Told:
    """Persistent ids."""
    start, kind = text("storage"), named("torch.FloatStorage")
    place = text("cpu") + number(6)
    ids = {
        "of-four": b"(" + start + kind + text("0") + text("cpu") + b"tQ",
        "of-seven": b"(" + start + kind + text("0") + place + b"NNtQ",
        "as-a-list": b"](" + start + kind + text("0") + place + b"eQ",
        "as-a-text": text("storage") + b"Q",
        "of-a-module": b"(" + text("module") + kind + text("a.py") + text("source") + b"tQ",
        "of-bytes": b"(C\7storage" + kind + text("0") + place + b"tQ",
        "in-a-storage": b"(" + start + kind + storage() + place + b"tQ",
        "of-nested-tuples": b"(" + start + kind + b"(" + text("0") * 3 + b"t" + place + b"tQ",
        "with-a-number-as-key": b"(" + start + kind + b"K\0" + place + b"tQ",
        "with-a-long-key": storage("0" * 65),
        "below-zero": storage(count=-6),
        "of-2-to-the-63": storage(count=2**63),
        "of-a-boolean-count": b"(" + start + kind + text("0") + text("cpu") + b"\x88tQ",
        "of-a-fraction": b"(" + start + kind + text("0") + text("cpu") + b"G@\x18\0\0\0\0\0\0tQ",
        "of-a-type": b"(" + start + named("torch.float32") + text("0") + place + b"tQ",
        "of-a-function": b"(" + start + named("torch.Size") + text("0") + place + b"tQ",
        "with-a-place-that-is-none": b"(" + start + kind + text("0") + b"N" + number(6) + b"tQ",
        "with-a-view": b"(" + start + kind + text("0") + place + b"(" + text("1") + b"K\0K\1ttQ",
    }
    cases = {
        f"id-{name}": (instead(tensor(code, (2, 3), (3, 1))), "CG104") for name, code in ids.items()
    }
    again = {
        "another-count": storage(count=5),
        "another-type": storage(kind="torch.IntStorage"),
        "bytes": BYTES,
        "a-graphics-card": storage(kind="torch.cuda.HalfStorage"),
    }
    for name, code in again.items():
        cases[f"id-again-with-{name}"] = (checkpoint(pickled(code)), "CG104")
    missing = {
        "a-path": storage("../evil"),
        "a-root": storage("/etc/passwd"),
        "no-letters": storage(""),
        "line-end": storage("0\n"),
        "escapes": storage("\x1b[2J"),
        "another-digit": storage("\u0660"),
        "zeros-before": storage("00"),
        "the-pickle": storage("../data.pkl"),
        "too-few-numbers": storage("1", 1),
        "2-to-the-62-numbers": storage("9", HUGE),
    }
    for name, code in missing.items():
        rule = "CG104" if "few" in name else "CG105"
        cases[f"id-of-{name}"] = (checkpoint(pickled(code)), rule)
    cases["id-twice-and-the-same"] = (checkpoint(pickled(storage())), HARMLESS)
    cases["id-on-a-graphics-card"] = (
        instead(tensor(storage(kind="torch.cuda.FloatStorage"), (2, 3), (3, 1))),
        HARMLESS,
    )
    return cases


def _third(dtype: str, where: bytes = BYTES) -> bytes:
    end = b"\x89" + HOOKS + named(dtype)
    return call("torch._utils._rebuild_tensor_v3", where, b"K\0", sizes(2, 3), sizes(3, 1), end)


def _types() -> Told:
    """Types that are confused."""
    first = "torch._utils._rebuild_tensor"
    unset = (b"K\0", sizes(2, 3), sizes(3, 1))
    cases: Told = {
        f"type-{name.lower()}-over-too-few-bytes": (
            instead(tensor(storage(kind=f"torch.{name}Storage"), (2, 3), (3, 1))),
            "CG105",
        )
        for name in ("Double", "Half", "BFloat16", "Char", "ComplexFloat", "QInt8")
    }
    return cases | {
        "type-of-a-larger-number": (instead(_third("torch.float64")), "CG105"),
        "type-that-is-none": (instead(_third("torch.Size")), "CG101"),
        "type-that-is-an-array": (instead(_third("numpy.ndarray")), "CG101"),
        "type-on-top-of-a-type": (instead(_third("torch.float32", storage())), "CG101"),
        "type-missing": (instead(tensor(BYTES, (2, 3), (3, 1))), "CG101"),
        "type-of-its-own": (instead(_third("torch.float32")), HARMLESS),
        "tensor-of-the-oldest-kind": (instead(call(first, storage(), *unset)), HARMLESS),
        "tensor-of-the-oldest-kind-with-more": (
            instead(call(first, storage(), *unset, b"\x89")),
            "CG101",
        ),
        "parameter": (
            instead(call("torch._utils._rebuild_parameter", A, b"\x88", HOOKS)),
            HARMLESS,
        ),
    }


def _contents() -> Told:
    """What is in the place of the weights, and under which names."""
    keys = {
        "with-a-line-end": text("a\nb"),
        "with-an-escape": text("\x1b[2J"),
        "with-turned-text": text("\u202eb"),
        "of-no-width": text("a\u200b"),
        "of-a-ci-command": text("::error::x\r"),
        "too-long": text("a" * 513),
        "that-is-a-number": b"K\0",
        "that-is-none": b"N",
        "that-is-bytes": b"C\1a",
        "of-python-2-in-latin-1": b"U\1\xe4",
        "of-python-2-in-utf-8": b"U\2\xc3\xa4",
        "half-a-pair": b"X\3\0\0\0\xed\xa0\x80",
    }
    cases = {
        f"key-{name}": (
            checkpoint(pickled(state=STATE.replace(text("a") + A, code + A, 1))),
            "CG108",
        )
        for name, code in keys.items()
    }
    values = {
        "number": b"K\1", "list": b"]", "text": text("a"), "dictionary": b"}", "none": b"N",
        "storage": storage(), "array": call("numpy.core.multiarray._reconstruct",
                                            named("numpy.ndarray"), b"(K\0t", b"C\1b"),
    }  # fmt: skip
    cases |= {f"weight-that-is-a-{n}": (instead(code), "CG102") for n, code in values.items()}
    roots = {
        "number": b"K\1",
        "list": b"](" + A + b"e",
        "tensor": A,
        "empty": b"}",
        "bytes": b"C\0",
    }
    for name, code in roots.items():
        cases[f"file-of-a-{name}"] = (checkpoint(b"\x80\2" + code + b"."), "CG102")
    return cases


def _memory() -> bytes:
    view = tensor(storage("2", 2**20, "torch.HalfStorage"), (2**20,), (1,))
    many = STATE[:-1] + b"".join(text(f"n{i}") + view for i in range(300)) + b"u"
    entries = [*parts(pickled(state=many)).values(), Part(b"m/data/2", bytes(2**21))]
    return archive(*entries)


def cases() -> list[Case]:
    """Every hostile tensor, in an archive and a pickle that are as they should be."""
    told = {**_places(), **_storages(), **_types(), **_contents()}
    found = [light(f"tensor-{name}", *case) for name, case in told.items()]
    return [*found, Case("tensor-one-storage-under-300-names", _memory, "CG105", is_heavy=True)]
