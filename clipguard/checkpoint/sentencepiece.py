"""A spiece.model, as SigLIP ships it, told as a tokenizer.json. Pure Python; no library reads it.

The file is a protocol buffer: numbered fields, each a number or bytes, in messages in messages.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

from clipguard.errors import UsageError

PIECES, TRAINER, NORMALIZER = 1, 2, 3
PIECE, SCORE, KIND = 1, 2, 3
MODEL_TYPE, BYTE_FALLBACK = 3, 35
CHARSMAP, DUMMY_PREFIX, NO_EXTRA_BLANKS = 2, 3, 4
UNIGRAM = 1
UNKNOWN, CONTROL = 2, 3
END = "</s>"
BLANK = "▁"
MAX_PIECES = 500_000
BROKEN = "not a spiece.model of a unigram vocabulary; save the tokenizer as tokenizer.json"


def as_tokenizer_json(data: bytes) -> str:
    """The tokenizer.json that splits texts as this spiece.model does, with `</s>` behind each.

    Args:
        data: the whole file.

    Raises:
        UsageError: damaged, no unigram vocabulary, or one without `</s>`.
    """
    try:
        found = _fields(data)
        pieces = [_piece(value) for value in found.get(PIECES, [])]
        trainer, normal = (_fields(_last(found, key, b"")) for key in (TRAINER, NORMALIZER))
        names = [name for name, _, _ in pieces]
        unknown = [i for i, (_, _, kind) in enumerate(pieces) if kind == UNKNOWN]
        if _last(trainer, MODEL_TYPE, UNIGRAM) != UNIGRAM or len(unknown) != 1:
            raise ValueError("no unigram vocabulary")
        told = {
            "version": "1.0",
            "added_tokens": [
                _special(i, name) for i, (name, _, kind) in enumerate(pieces) if kind == CONTROL
            ],
            "normalizer": _normalizer(normal),
            "pre_tokenizer": {
                "type": "Metaspace",
                "replacement": BLANK,
                "prepend_scheme": "always" if _last(normal, DUMMY_PREFIX, 1) else "never",
                "split": False,
            },
            "post_processor": _end_behind(names.index(END)),
            "model": {
                "type": "Unigram",
                "unk_id": unknown[0],
                "vocab": [[name, score] for name, score, _ in pieces],
                "byte_fallback": bool(_last(trainer, BYTE_FALLBACK, 0)),
            },
        }
        return json.dumps(told, allow_nan=False)
    except (ValueError, IndexError, TypeError, struct.error) as error:
        raise UsageError(BROKEN) from error


def _fields(data: bytes) -> dict[int, list[Any]]:
    """Every field of one message by its number: whole numbers, and bytes."""
    found: dict[int, list[Any]] = {}
    for number, value in _walk(data):
        values = found.setdefault(number, [])
        values.append(value)
        if len(values) > MAX_PIECES:
            raise ValueError("more pieces than a vocabulary has")
    return found


def _walk(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 0:
            number, at = _varint(data, at)
            yield tag >> 3, number
            continue
        size = 4 if kind == 5 else 8
        if kind == 2:
            size, at = _varint(data, at)
        elif kind not in (1, 5):
            raise ValueError("an unknown kind of field")
        if at + size > len(data):
            raise ValueError("a field reaches outside the file")
        yield tag >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        value |= (data[at + i] & 127) << (7 * i)
        if data[at + i] < 128:
            return value, at + i + 1
    raise ValueError("a number without end")


def _last(fields: dict[int, list[Any]], key: int, default: Any) -> Any:
    return fields.get(key, [default])[-1]


def _piece(data: bytes) -> tuple[str, float, int]:
    fields = _fields(data)
    (score,) = struct.unpack("<f", _last(fields, SCORE, bytes(4)))
    return _last(fields, PIECE, b"").decode("utf-8"), score, _last(fields, KIND, 1)


def _special(number: int, name: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": name, "special": True, **flags}


def _normalizer(fields: dict[int, list[Any]]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    charsmap = _last(fields, CHARSMAP, b"")
    if charsmap:
        told = base64.b64encode(charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": told})
    if _last(fields, NO_EXTRA_BLANKS, 1):
        steps.append({"type": "Strip", "strip_left": True, "strip_right": True})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    return {"type": "Sequence", "normalizers": steps}


def _end_behind(number: int) -> dict[str, Any]:
    text = {"Sequence": {"id": "A", "type_id": 0}}
    end = {"SpecialToken": {"id": END, "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [text, end],
        "pair": [text, end, second, end],
        "special_tokens": {END: {"id": END, "ids": [number], "tokens": [END]}},
    }
