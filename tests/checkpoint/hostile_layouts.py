"""Hostile files of the old layout of torch and of TorchScript, and files of neither."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable

from hostile import (
    HARMLESS,
    NUMBERS,
    PAYLOAD,
    STATE,
    A,
    B,
    Case,
    Part,
    archive,
    checkpoint,
    light,
    named,
    number,
    parts,
    pickled,
    text,
)

Told = dict[str, tuple[bytes, str]]
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
VERSION = pickle.dumps(1001, 2)
WHAT = named("torch.Tensor")
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}


def legacy(**changes: bytes) -> bytes:
    """A file of torch before 1.6, of which some parts are not what they should be."""
    told = {"magic": MAGIC, "version": VERSION, "system": pickle.dumps(SYSTEM, 2)}
    told |= {"data": pickled().replace(text("cpu") + number(6), text("cpu") + number(6) + b"N")}
    told["data"] = told["data"].replace(text("cpu") + number(2), text("cpu") + number(2) + b"N")
    told |= {"keys": pickle.dumps(["0", "1"], 2)}
    told |= {"bytes": b"".join(struct.pack("<q", len(n) // 4) + n for n in NUMBERS), "behind": b""}
    return b"".join((told | changes).values())


def _legacy() -> Told:
    first, second = NUMBERS
    system = {"big": {"little_endian": False}, "odd": {"little_endian": 1}, "none": {}}
    lengths = {"below-zero": -6, "one-less": 5, "one-more": 7, "of-2-to-the-62": 2**62}
    tail = struct.pack("<q", 2) + second
    cases: Told = {
        "as-it-should-be": (legacy(), HARMLESS),
        "without-views": (legacy(data=pickled()), HARMLESS),
        "storages-in-another-order": (
            legacy(
                keys=pickle.dumps(["1", "0"], 2), bytes=tail + struct.pack("<q", 6) + first
            ),
            HARMLESS,
        ),
        "another-magic-number": (legacy(magic=pickle.dumps(1, 2)), "CG102"),
        "magic-text": (legacy(magic=pickle.dumps("0x1950A86A20F9469CFC6C", 2)), "CG102"),
        "magic-that-runs": (legacy(magic=b"\x80\2" + PAYLOAD + b"."), "CG101"),
        "magic-missing": (legacy(magic=b""), "CG102"),
        "version-that-runs": (legacy(version=b"\x80\2" + PAYLOAD + b"."), "CG101"),
        "another-version": (legacy(version=pickle.dumps(1002, 2)), "CG103"),
        "version-that-is-a-list": (legacy(version=pickle.dumps([1001], 2)), "CG103"),
        "system-that-runs": (legacy(system=b"\x80\2" + PAYLOAD + b"."), "CG101"),
        "system-that-is-a-list": (legacy(system=pickle.dumps([], 2)), "CG103"),
        "data-that-runs": (legacy(data=pickled(PAYLOAD)), "CG101"),
        "data-missing": (legacy(data=b""), "CG103"),
        "keys-that-run": (legacy(keys=b"\x80\2" + PAYLOAD + b"."), "CG101"),
        "keys-missing": (legacy(keys=b""), "CG103"),
        "keys-twice": (legacy(keys=pickle.dumps(["0", "1", "1"], 2)), "CG103"),
        "key-too-few": (legacy(keys=pickle.dumps(["0"], 2)), "CG103"),
        "key-too-many": (legacy(keys=pickle.dumps(["0", "1", "2"], 2)), "CG103"),
        "keys-and-a-number": (legacy(keys=pickle.dumps(["0", "1", 2], 2)), "CG103"),
        "keys-that-are-a-text": (legacy(keys=pickle.dumps("01", 2)), "CG103"),
        "keys-that-are-a-dictionary": (legacy(keys=pickle.dumps({"0": 1, "1": 1}, 2)), "CG103"),
        "bytes-missing": (legacy(bytes=b""), "CG103"),
        "bytes-cut-off": (legacy()[:-1], "CG103"),
        "bytes-behind": (legacy(behind=b"\0"), "CG103"),
        "a-pickle-behind": (legacy(behind=b"\x80\2" + PAYLOAD + b"."), "CG103"),
        "an-archive-behind": (legacy(behind=checkpoint(pickled(PAYLOAD))), "CG103"),
        "only-the-magic-number": (MAGIC, "CG103"),
        "module-source": (
            legacy(data=pickled(b"(" + text("module") + WHAT + text("a") * 2 + b"tQ")),
            "CG104",
        ),
        "many-instructions-as-magic": (legacy(magic=b"\x80\2" + b"N0" * 2000 + MAGIC), "CG104"),
        "many-instructions-as-version": (legacy(version=b"\x80\2(" + b"]" * 2000 + b"l."), "CG104"),
        "many-instructions-as-system": (legacy(system=b"\x80\2(" + b"]" * 2000 + b"l."), "CG104"),
        "many-instructions-as-keys": (legacy(keys=b"\x80\2(" + b"]" * 2000 + b"l."), "CG104"),
    }  # fmt: skip
    for name, value in system.items():
        cases[f"byte-order-{name}"] = (legacy(system=pickle.dumps(value, 2)), "CG103")
    for name, count in lengths.items():
        data = struct.pack("<q", count) + first + tail
        cases[f"length-{name}"] = (legacy(bytes=data), "CG105")
    for protocol in (0, 1, 3, 4, 5):
        keys = pickle.dumps(["0", "1"], protocol)
        cases[f"keys-in-protocol-{protocol}"] = (legacy(keys=keys), HARMLESS)
        system_data = pickle.dumps(SYSTEM, protocol)
        cases[f"system-in-protocol-{protocol}"] = (legacy(system=system_data), HARMLESS)
    return {f"legacy-{name}": told for name, told in cases.items()}


def module(inside: bytes, kind: str = "M") -> bytes:
    """A module of a TorchScript archive with these attributes."""
    return f"c__torch__\n{kind}\n".encode() + b")\x81}(" + inside + b"ub"


def script(data: bytes, *more: Part, constants: bytes = b"\x80\2).") -> bytes:
    """A TorchScript archive."""
    code = Part(b"m/code/__torch__.py", b"class M(Module):\n")
    return archive(*parts(data).values(), Part(b"m/constants.pkl", constants), code, *more)


def _scripts() -> Told:
    weights = STATE[2:-1]
    good = b"\x80\2" + module(weights) + b"."
    circle = b"\x80\2" + module(weights + text("c") + b"h\1").replace(b")\x81", b")\x81q\1") + b"."
    two = b"\x80\2" + module(weights)[:-1] + b"b}" + text("a") + B + b"sb."
    deep = module(text("t") + A)
    for _ in range(300):
        deep = module(text("m") + deep)
    wide = b"N"
    for level in range(20):
        wide = module(text("a") + wide + b"0h%c" % (level + 9) + text("b") + b"h%c" % (level + 9))
    told = {"method": 8, "size": 2**30, "packed": 2}
    bomb = Part(b"m/code/bomb.py", b"\3\0", told, told)
    names = {
        "up": b"m/code/../x.py",
        "pickle": b"m/code.pkl",
        "other": b"m/extra/x",
        "so": b"m/x.so",
    }
    cases: Told = {
        "as-it-should-be": (script(good), HARMLESS),
        "code-that-is-a-bomb": (script(good, bomb), HARMLESS),
        "code-that-is-none": (script(good, Part(b"m/code/x.py", b"\0\xff" * 99)), HARMLESS),
        "module-in-itself": (script(circle), "CG104"),
        "modules-300-deep": (script(b"\x80\2" + deep + b"."), "CG104"),
        "module-with-two-states": (script(two), "CG102"),
        "module-without-state": (script(b"\x80\2c__torch__\nM\n)\x81."), "CG102"),
        "module-that-is-a-number": (script(b"\x80\2K\1."), "CG102"),
        "module-of-posix": (script(b"\x80\2" + PAYLOAD + b"."), "CG101"),
        "constants-that-run": (script(good, constants=b"\x80\2" + PAYLOAD + b"."), "CG101"),
        "constants-with-more-behind": (script(good, constants=b"\x80\2).."), "CG103"),
        "traced-inputs-that-run": (
            script(good, Part(b"m/traced_inputs.pkl", b"\x80\2" + PAYLOAD + b".")),
            "CG101",
        ),
        "classes-of-scripts-without-code": (checkpoint(good), "CG101"),
        "class-named-like-a-script": (
            script(good.replace(b"c__torch__\n", b"c__torch\n")),
            "CG101",
        ),
        "key-with-an-escape": (
            script(b"\x80\2" + module(text("\x1b[2J") + A) + b"."),
            "CG108",
        ),
        "attribute-that-is-a-number": (
            script(b"\x80\2" + module(weights + b"K\1K\2") + b"."),
            HARMLESS,
        ),
    }
    for name, path in names.items():
        cases[f"entry-{name}"] = (script(good, Part(path)), "CG103")
    return {f"script-{name}": told for name, told in cases.items()}


def _neither() -> Told:
    heads = {
        "nothing": b"", "text": b"hello\n", "json": b"[]", "yaml": b"a: b\n",
        "elf": b"\x7fELF\2\1\1", "gzip": b"\x1f\x8b\x08\0", "seven-zip": b"7z\xbc\xaf\x27\x1c",
        "hdf5": b"\x89HDF\r\n\x1a\n",
        "numpy": b"\x93NUMPY\1\0", "rar": b"Rar!\x1a\7\0", "empty-archive": archive(),
        "xz": b"\xfd7zXZ\0", "zero-bytes": bytes(600), "terminal-codes": b"\x1b]0;x\a\x1b[2J",
    }  # fmt: skip
    cases = {f"file-of-{name}": (data, "CG102") for name, data in heads.items()}
    cases["file-of-a-pickle"] = (pickle.dumps({"a": 1}, 2), "CG102")
    cases["file-of-a-pickle-that-runs"] = (b"\x80\2" + PAYLOAD + b".", "CG101")
    return cases


def _heavy() -> dict[str, tuple[Callable[[], bytes], str]]:
    full = b"\x80\2(" + b"]" * 950_000 + b"l."
    three = dict.fromkeys(("system", "data", "keys"), full)
    return {
        "legacy-three-full-pickles": (lambda: legacy(**three), "CG104"),
        "legacy-two-full-pickles": (lambda: legacy(data=full, keys=full), "CG104"),
        "script-full-pickle": (lambda: script(full), "CG102"),
        "script-full-pickle-of-constants": (lambda: script(full, constants=full), "CG104"),
    }


def cases() -> list[Case]:
    """Every hostile file that is no archive of torch.save."""
    small = {**_legacy(), **_scripts(), **_neither()}
    found = [light(name, *told) for name, told in small.items()]
    return found + [Case(name, *told, is_heavy=True) for name, told in _heavy().items()]
