"""Hostile heads and ONNX graphs: what `scan` and `export` write, changed by a stranger."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx_samples import classifier_bytes
from safetensors.torch import save

DEEP = "[" * 100_000
ESCAPE = "\x1b[2J"
METADATA = b'{"__metadata__":{"clipguard":1}}'


def heads() -> dict[str, bytes]:
    """Heads of a purified classifier."""
    told: dict[str, Any] = {"schema_version": "clipguard.head/1", "class_names": ["a", "b"]}
    told |= {"checkpoint_sha256": "ab" * 32, "caveat": "none"}
    rows = torch.eye(2)

    def head(metadata: object = told, classes: torch.Tensor = rows, name: str = "classes") -> bytes:
        text = metadata if isinstance(metadata, str) else json.dumps(metadata)
        return save({name: classes}, metadata={"clipguard": text})

    return {
        "empty": b"",
        "text": b"head",
        "no-metadata": save({"classes": rows}),
        "metadata-not-json": head("{"),
        "metadata-100-thousand-levels": head(DEEP),
        "metadata-that-is-a-list": head([]),
        "metadata-of-numbers": len(METADATA).to_bytes(8, "little") + METADATA,
        "names-that-are-a-text": head({**told, "class_names": "ab"}),
        "names-that-are-numbers": head({**told, "class_names": [1, 2]}),
        "name-twice": head({**told, "class_names": ["a", "a"]}),
        "one-name-less": head({**told, "class_names": ["a"]}),
        "no-names": head({**told, "class_names": []}, torch.zeros(0, 2)),
        "another-schema": head({**told, "schema_version": "clipguard.head/99"}),
        "no-tensor": head(name="context"),
        "tensor-of-three-dimensions": head(classes=torch.ones(2, 1, 1)),
        "rows-that-are-no-units": head(classes=2 * rows),
        "rows-not-a-number": head(classes=rows * float("nan")),
        "rows-of-infinity": head(classes=rows * float("inf")),
    }


def graphs() -> dict[str, bytes]:
    """ONNX files that are no export of ours."""

    def changed(change: Callable[[Any], object]) -> bytes:
        model = onnx.load_model_from_string(classifier_bytes())
        change(model)
        return bytes(model.SerializeToString())

    def named(key: str, value: str) -> bytes:
        def change(model: Any) -> None:
            for prop in model.metadata_props:
                if prop.key == f"clipguard.{key}":
                    prop.value = value

        return changed(change)

    def outside(place: str) -> bytes:
        def change(model: Any) -> None:
            tensor = model.graph.initializer[0]
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=place)

        return changed(change)

    def node(kind: str, domain: str = "", **settings: Any) -> bytes:
        made = onnx.helper.make_node(kind, ["images"], ["more"], domain=domain, **settings)
        return changed(lambda model: model.graph.node.append(made))

    data = classifier_bytes()
    inner = onnx.helper.make_graph([], "inner", [], [])
    function = onnx.helper.make_function("f", "F", ["a"], ["b"], [], [])
    return {
        "empty": b"",
        "text": b"onnx",
        "cut-off": data[: len(data) // 2],
        "nested-groups": b"\x3a\xff\xff\xff\x7f" * 100,
        "property-that-is-no-text": data.replace(b"clipguard.scope", b"clipguard.scop\xff"),
        "operator-that-is-no-text": data.replace(b"Conv", b"Con\xff"),
        "operator-of-a-vendor": node("Add", "com.microsoft"),
        "loop": node("Loop", body=inner),
        "branch": node("If", then_branch=inner, else_branch=inner),
        "random-numbers": node("RandomNormalLike"),
        "constant-of-any-shape": node("ConstantOfShape"),
        "function": changed(lambda model: model.functions.append(function)),
        "weights-in-another-folder": outside("../secret.bin"),
        "weights-at-the-root": outside("/etc/passwd"),
        "another-input": changed(lambda m: setattr(m.graph.input[0], "name", "x")),
        "no-output": changed(lambda m: m.graph.ClearField("output")),
        "no-properties": changed(lambda m: m.ClearField("metadata_props")),
        "no-operator-set": changed(lambda m: m.ClearField("opset_import")),
        "names-that-do-not-fit": named("class_names", '["x"]'),
        "names-not-json": named("class_names", "["),
        "names-100-thousand-levels": named("class_names", DEEP),
        "rule-with-an-escape": named("resize_mode", ESCAPE),
    }
