"""Hostile files that are no checkpoints: policies, lists of names, records, configs and others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hostile_exports import graphs, heads
from samples import passing

from clipguard.checkpoint.formats import config_from
from clipguard.detect.null_band import read_null_band
from clipguard.errors import REFUSED, USAGE
from clipguard.export.session import open_session
from clipguard.model.prompts import read_class_names, read_templates
from clipguard.policy.document import load_policy
from clipguard.purify.files import load_head
from clipguard.record.schema import dumps, read_record
from clipguard.resources import asset, shipped

DEEP = b"[" * 100_000
ESCAPE = "\x1b[2J"
DIGITS = "9" * 20_000
POLICY = (shipped("policies") / "default.yaml").read_text(encoding="utf-8")
RECORD = dumps(passing())
BAND = next(asset("calibration").glob("*.json")).read_text(encoding="utf-8")
CONFIG: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 9, "width": 8, "heads": 1, "layers": 1},
}


@dataclass(frozen=True)
class Kind:
    """Files of one kind.

    Attributes:
        file: their name.
        read: what reads them.
        code: exit code of those that are refused.
        cases: their contents, by name.
    """

    file: str
    read: Callable[[Path], object]
    code: int
    cases: Callable[[], dict[str, bytes]]


def _encoded(cases: dict[str, str | bytes]) -> dict[str, bytes]:
    return {
        name: text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        for name, text in cases.items()
    }


@cache
def _policies() -> dict[str, bytes]:
    score = next(line for line in POLICY.splitlines() if "max_score:" in line)

    def with_score(value: str) -> str:
        return POLICY.replace(score, f"{score.partition(':')[0]}: {value}", 1)

    nested = "".join(f"{' ' * depth}a:\n" for depth in range(200))
    bomb = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{n - 1}, *{n - 1}]\n" for n in range(1, 40))
    return _encoded(
        {
            "empty": "",
            "list": "- a\n- b\n",
            "text": "policy",
            "number": "1",
            "no-text": b"\xff\xfe\0",
            "utf-16": POLICY.encode("utf-16"),
            "nul": POLICY + "\0",
            "half-a-pair": POLICY + "a: \ud800\n",
            "70-kilobytes": POLICY + "#" * 70_000,
            "two-documents": POLICY + "---\n" + POLICY,
            "directive": "%YAML 9.9\n---\n" + POLICY,
            "python-object": with_score("!!python/object/apply:posix.mkdir [code-was-run]"),
            "tag": with_score("!!float '0.5'"),
            "anchor": with_score("&a 0.5"),
            "alias-bomb": bomb.replace("*0", "*a"),
            "merge-key": POLICY + "<<: {version: 2}\n",
            "key-twice": POLICY + "\nversion: 2\n",
            "deep-list": "a: " + "[" * 20_000,
            "deep-mapping": nested,
            "key-that-is-a-list": POLICY + "? [a, b]\n: 1\n",
            "key-with-an-escape": POLICY + f'"{ESCAPE}": 1\n',
            "not-a-number": with_score(".nan"),
            "infinity": with_score(".inf"),
            "negative": with_score("-1"),
            "true": with_score("true"),
            "20-thousand-digits": with_score(DIGITS),
            "hexadecimal-digits": with_score("0x" + "f" * 20_000),
            "exponent": with_score("1e999999"),
            "base-60": with_score("1:" * 300 + "1"),
            "date": with_score("2026-99-99"),
        }
    )


@cache
def _names() -> dict[str, bytes]:
    return _encoded(
        {
            "empty": "",
            "blank-lines": "\n \n\t\n",
            "no-text": b"cat\n\xff\xfe\n",
            "utf-16": "cat\ndog\n".encode("utf-16"),
            "nul": "cat\0\n",
            "escape": f"cat\n{ESCAPE}\n",
            "line-separator": "cat\u2028::error::x\n",
            "half-a-pair": "\ud800\n",
            "50-megabytes": b"a\n" * (25 * 2**20),
        }
    )


@cache
def _json_names() -> dict[str, bytes]:
    return _encoded(
        {
            "not-json": "cat, dog",
            "object": '{"cat": 1}',
            "number": "1",
            "list-of-lists": '[["cat"]]',
            "list-of-numbers": "[1, 2]",
            "empty-list": "[]",
            "not-a-number": "[NaN]",
            "20-thousand-digits": f"[{DIGITS}]",
            "100-thousand-levels": DEEP,
            "half-a-pair": '["\\ud800"]',
            "line-end": '["cat\\n::error::x"]',
            "two-lists": '["cat"]["dog"]',
            "no-text": b'["\xff"]',
        }
    )


@cache
def _templates() -> dict[str, bytes]:
    return _encoded(
        {
            "empty": "",
            "no-place": "a photo",
            "two-places": "{} {}",
            "attribute": "{0.__class__}",
            "nested": "{{}}",
            "open": "a {} {",
            "escape": f"{ESCAPE} {{}}",
            "nul": "\0 {}",
        }
    )


@cache
def _records() -> dict[str, bytes]:
    data = json.loads(RECORD)

    def changed(**keys: object) -> str:
        return json.dumps({**data, **keys})

    return _encoded(
        {
            "empty": "",
            "not-json": "{",
            "list": "[]",
            "null": "null",
            "100-thousand-levels": DEEP,
            "100-thousand-objects": b'{"a":' * 100_000,
            "key-twice": RECORD.replace("{", '{"schema_version": "x",', 1),
            "not-a-number": RECORD.replace("{", '{"more": NaN,', 1),
            "infinity": RECORD.replace("{", '{"more": -Infinity,', 1),
            "20-thousand-digits": RECORD.replace("{", '{"more": ' + DIGITS + ",", 1),
            "byte-order-mark": b"\xef\xbb\xbf" + RECORD.encode(),
            "utf-16": RECORD.encode("utf-16"),
            "17-megabytes": RECORD + " " * (17 * 2**20),
            "no-schema": json.dumps({k: v for k, v in data.items() if k != "schema_version"}),
            "schema-of-the-future": changed(schema_version="clipguard.audit/99"),
            "schema-that-is-a-list": changed(schema_version=["clipguard.audit/2"]),
            "schema-with-an-escape": changed(schema_version=ESCAPE),
            "another-tool": changed(tool=1),
            "checkpoint-that-is-a-text": changed(checkpoint="model.pt"),
            "unknown-key-with-an-escape": changed(**{ESCAPE: 1}),
        }
    )


@cache
def _configs() -> dict[str, bytes]:
    def part(name: str, **keys: object) -> str:
        return json.dumps({**CONFIG, name: {**CONFIG[name], **keys}})

    def prepared(**keys: object) -> str:
        return json.dumps({"model_cfg": CONFIG, "preprocess_cfg": keys})

    return _encoded(
        {
            "empty": "",
            "list": "[]",
            "100-thousand-levels": DEEP,
            "no-text": b"\xff",
            "no-parts": "{}",
            "parts-that-are-lists": '{"embed_dim": 8, "vision_cfg": [], "text_cfg": []}',
            "image-size-of-2-to-the-40": part("vision_cfg", image_size=2**40),
            "image-size-of-20-thousand-digits": json.dumps(CONFIG).replace("16", DIGITS),
            "image-size-that-is-true": part("vision_cfg", image_size=True),
            "image-size-below-zero": part("vision_cfg", image_size=-16),
            "image-size-not-a-number": part("vision_cfg", image_size=float("nan")),
            "two-image-sizes": part("vision_cfg", image_size=[16, 32]),
            "five-layers": part("vision_cfg", layers=[1] * 5),
            "layers-that-are-text": part("vision_cfg", layers=ESCAPE),
            "patch-of-zero": part("vision_cfg", patch_size=0),
            "width-that-is-a-list": part("vision_cfg", width=[8]),
            "context-of-30-thousand": part("text_cfg", context_length=30_000),
            "vocabulary-of-2-to-the-62": part("text_cfg", vocab_size=2**62),
            "heads-of-zero": part("text_cfg", heads=0),
            "embedding-of-zero": json.dumps({**CONFIG, "embed_dim": 0}),
            "mean-of-two-channels": prepared(mean=[0.5, 0.5]),
            "mean-not-a-number": prepared(mean=[float("nan")] * 3),
            "deviation-of-zero": prepared(std=[0, 0, 0]),
            "preprocessing-that-is-a-list": json.dumps(
                {"model_cfg": CONFIG, "preprocess_cfg": [1]}
            ),
        }
    )


@cache
def _bands() -> dict[str, bytes]:
    data = json.loads(BAND)
    return _encoded(
        {
            "empty": "",
            "list": "[]",
            "100-thousand-levels": DEEP,
            "not-a-number": BAND.replace(": ", ": NaN, ", 1),
            "no-models": json.dumps({**data, "models": []}),
            "models-that-are-texts": json.dumps({**data, "models": [ESCAPE]}),
            "unknown-key": json.dumps({**data, ESCAPE: 1}),
            "17-megabytes": BAND + " " * (17 * 2**20),
        }
    )


def _head(path: Path) -> object:
    return load_head(path, "ab" * 32)


KINDS = {
    "policy": Kind("policy.yaml", load_policy, USAGE, _policies),
    "names": Kind("names.txt", read_class_names, USAGE, _names),
    "names-json": Kind("names.json", read_class_names, USAGE, _json_names),
    "templates": Kind("templates.txt", read_templates, USAGE, _templates),
    "record": Kind("audit.json", read_record, USAGE, _records),
    "config": Kind("open_clip_config.json", config_from, USAGE, _configs),
    "calibration": Kind("band.json", read_null_band, USAGE, _bands),
    "head": Kind("head.safetensors", _head, REFUSED, cache(heads)),
    "onnx": Kind("model.onnx", open_session, REFUSED, cache(graphs)),
}
