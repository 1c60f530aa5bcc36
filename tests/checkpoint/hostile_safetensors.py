"""Hostile safetensors files: headers that could be read in two ways, or that ask for much."""

from __future__ import annotations

import json
from collections.abc import Callable

from hostile import HARMLESS, NUMBERS, Case, checkpoint, light, pickled

Told = dict[str, tuple[bytes, str]]


def header(fields: object, data: bytes = b"".join(NUMBERS), length: int | None = None) -> bytes:
    """A safetensors file."""
    raw = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def entry(
    shape: list[object], begin: object, end: object, dtype: object = "F32"
) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


FIRST, SECOND = entry([2, 3], 0, 24), entry([2], 24, 32)
PLAIN = {"a": FIRST, "b": SECOND}


def _light() -> Told:
    raw = json.dumps(PLAIN).encode()
    return {
        "as-it-should-be": (header(PLAIN), HARMLESS),
        "blanks-behind-the-header": (header(raw + b"    "), HARMLESS),
        "metadata": (header({"__metadata__": {"a": "\x1b[2J::error::"}, **PLAIN}), HARMLESS),
        "escaped-names": (header(raw.replace(b'"a"', b'"\\u0061"')), HARMLESS),
        "key-twice": (header(raw[:-1] + b"," + raw[1:]), "CG107"),
        "key-twice-by-an-escape": (header(raw[:-1] + b',"\\u0061":1}'), "CG107"),
        "metadata-twice": (header(b'{"__metadata__":{},"__metadata__":{},' + raw[1:]), "CG107"),
        "type-twice": (header(raw.replace(b'{"dtype"', b'{"dtype":"F64","dtype"', 1)), "CG107"),
        "offsets-that-overlap": (header({"a": FIRST, "b": entry([2], 16, 24)}), "CG105"),
        "hole": (header({"a": FIRST, "b": entry([2], 28, 36)}, bytes(36)), "CG105"),
        "hole-at-the-beginning": (header({"a": entry([2, 3], 4, 28)}, bytes(28)), "CG105"),
        "bytes-behind": (header(PLAIN, b"".join(NUMBERS) + b"\0"), "CG103"),
        "bytes-missing": (header(PLAIN, bytes(31)), "CG103"),
        "an-archive-behind": (header(PLAIN, bytes(32) + checkpoint(pickled())), "CG103"),
        "end-before-its-beginning": (header({"a": entry([2, 3], 24, 0)}), "CG105"),
        "offset-below-zero": (header({"a": entry([2, 3], -24, 0)}), "CG103"),
        "offset-of-2-to-the-64": (header({"a": entry([2, 3], 2**64, 2**64 + 24)}), "CG103"),
        "offset-that-is-a-fraction": (header({"a": entry([2, 3], 0.0, 24.0)}), "CG103"),
        "offset-that-is-true": (header({"a": entry([], False, True, "U8")}, b"\0"), "CG103"),
        "three-offsets": (header({"a": {**FIRST, "data_offsets": [0, 24, 24]}}), "CG103"),
        "shape-of-nan": (header(raw.replace(b"[2, 3]", b"[NaN]")), "CG103"),
        "shape-of-infinity": (header(raw.replace(b"[2, 3]", b"[Infinity]")), "CG103"),
        "shape-of-1e2": (header(raw.replace(b"[2, 3]", b"[6e0]")), "CG103"),
        "shape-of-20-thousand-digits": (header(raw.replace(b"2, 3", b"9" * 20_000)), "CG103"),
        "shape-below-zero": (header({"a": entry([-2, -3], 0, 24)}), "CG103"),
        "shape-that-wraps": (header({"a": entry([2**62, 2**62, 6], 0, 24)}), "CG105"),
        "shape-of-65-numbers": (header({"a": entry([1] * 65, 0, 4)}, bytes(4)), "CG103"),
        "shape-that-is-a-number": (header({"a": entry(6, 0, 24)}), "CG103"),
        "shape-too-large": (header({"a": entry([2, 4], 0, 24)}), "CG105"),
        "nothing-of-2-to-the-62-rows": (header({"a": entry([2**62, 0], 0, 0)}, b""), "CG105"),
        "unknown-type": (header({"a": entry([2, 3], 0, 24, "F33")}), "CG103"),
        "type-that-is-a-list": (header({"a": entry([2, 3], 0, 24, ["F32"])}), "CG103"),
        "type-with-an-escape": (header({"a": entry([2, 3], 0, 24, "\x1b[2J")}), "CG103"),
        "type-of-another-size": (header({"a": entry([2, 3], 0, 24, "F64")}), "CG105"),
        "one-more-field": (header({"a": {**FIRST, "more": 1}}), "CG103"),
        "one-field-less": (header({"a": {"dtype": "F32", "shape": [1]}}), "CG103"),
        "tensor-that-is-a-list": (header({"a": [1]}), "CG103"),
        "metadata-of-numbers": (header({"__metadata__": {"a": 1}, **PLAIN}), "CG103"),
        "metadata-nested": (header({"__metadata__": {"a": {}}, **PLAIN}), "CG103"),
        "metadata-that-is-a-text": (header({"__metadata__": "a", **PLAIN}), "CG103"),
        "only-metadata": (header({"__metadata__": {"a": "b"}}, b""), "CG102"),
        "no-tensors": (header({}, b""), "CG102"),
        "list": (header(b'["a"]'), "CG102"),
        "not-json": (header(b"{a:1}"), "CG103"),
        "comment": (header(b"{/*a*/}"), "CG103"),
        "comma-at-the-end": (header(raw[:-1] + b",}"), "CG103"),
        "two-objects": (header(raw + b"{}"), "CG103"),
        "byte-order-mark": (header(b"\xef\xbb\xbf" + raw), "CG102"),
        "utf-16": (header(raw.decode().encode("utf-16-le")), "CG103"),
        "no-text": (header(b'{"\xff":1}'), "CG103"),
        "nul-in-a-name": (header(raw.replace(b'"a"', b'"\\u0000"')), "CG108"),
        "raw-control-in-a-name": (header(raw.replace(b'"a"', b'"\1"')), "CG103"),
        "half-a-pair": (header(raw.replace(b'"a"', b'"\\ud800"')), "CG108"),
        "name-with-an-escape": (header({"\x1b[2J": FIRST, "b": SECOND}), "CG108"),
        "name-of-10-thousand-letters": (header({"a" * 10_000: FIRST, "b": SECOND}), "CG108"),
        "length-of-zero": (header(b"{}", b"", 0), "CG103"),
        "length-one-less": (header(raw, length=len(raw) - 1), "CG103"),
        "length-one-more": (header(raw, length=len(raw) + 1), "CG103"),
        "length-behind-the-file": (header(raw, length=2**20), "CG103"),
        "length-of-2-to-the-39": (header(raw, length=2**39), "CG104"),
        "length-of-2-to-the-63": (header(raw, length=2**63), "CG102"),
        "100-thousand-levels": (header(b'{"a":' + b"[" * 100_000, b""), "CG103"),
        "100-thousand-objects-in-each-other": (header(b'{"a":' * 100_000, b""), "CG103"),
    }  # fmt: skip


def _heavy() -> dict[str, tuple[Callable[[], bytes], str]]:
    objects = b",".join(b'"%d":{}' % i for i in range(350_000))
    lists = b'{"a":[' + b"[]," * 1_300_000 + b"[]]}"
    names = {f"n{i}": entry([0], 0, 0) for i in range(90_000)}
    many = [2**62] * 150_000
    return {
        "million-objects": (lambda: header(b"{" + objects + b"}", b""), "CG103"),
        "million-lists": (lambda: header(lists, b""), "CG103"),
        "many-tensors": (lambda: header({**PLAIN, **names}), "CG104"),
        "shape-of-150-thousand-numbers": (lambda: header({"a": entry(many, 0, 24)}), "CG103"),
    }


def cases() -> list[Case]:
    """Every hostile safetensors file."""
    found = [light(f"safetensors-{name}", *told) for name, told in _light().items()]
    return found + [
        Case(f"safetensors-{name}", *told, is_heavy=True) for name, told in _heavy().items()
    ]
