"""What a graph would take is found before anything runs it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_samples import classifier_bytes, export_job, old_export, paint, write_classifier
from torch import nn

from clipguard.cli.app import main
from clipguard.errors import RefusedError
from clipguard.export.contract import checked
from clipguard.export.graph import MAX_LIVE, MAX_WORK, Graph, cost_of, read_graph
from clipguard.export.onnx import _Fused, _to_onnx
from clipguard.export.roles import Known
from clipguard.export.session import classify, open_session
from clipguard.export.values import step

VIT = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
TOWERS = {
    "vit": ({"vision_cfg": VIT, "quick_gelu": True}, 32),
    "resnet": ({"vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}}, 64),
    "effnet": (
        {
            "vision_cfg": {
                "image_size": 64,
                "timm_model_name": "efficientnet_b0",
                "timm_pool": "avg",
                "timm_proj": "linear",
            }
        },
        64,
    ),
}
TEXT = {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}


def fused(config: dict[str, Any], wide: int = 32) -> nn.Module:
    tower = open_clip.model.CLIP(embed_dim=wide, text_cfg=TEXT, **config).visual.eval()
    return _Fused(tower, torch.randn(5, wide), 20.0).eval()


def all_known(graph: Graph, images: int) -> dict[str, Known]:
    """Every tensor of a graph, as it is known before a run."""
    known = {graph.input: Known((images, *graph.image)), **graph.constants}
    for node in graph.nodes:
        made = step(node, [known[name] if name else None for name in node.inputs]).made
        known.update(zip(node.outputs, made, strict=True))
    return known


def all_run(model: Any, names: list[str], images: int, side: int) -> list[np.ndarray]:
    """The same tensors as onnxruntime computes them, without rewriting the graph."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    there = {output.name for output in whole.graph.output}
    whole.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        whole.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    pixels = np.random.default_rng(0).random((images, 3, side, side), np.float32)
    return session.run(names, {"images": pixels})


def require_same_sizes(model: Any, side: int) -> None:
    graph = read_graph(model.graph, (3, side, side))
    names = [name for node in graph.nodes for name in node.outputs if name]
    for images in (1, 3):
        known = all_known(graph, images)
        for name, found in zip(names, all_run(model, names, images, side), strict=True):
            assert known[name].shape == found.shape, name
            assert known[name].whole == (found.dtype.kind in "bi"), name
            if known[name].value is not None:
                assert np.array_equal(known[name].value, found), name


def test_sizes_of_an_export_are_those_that_onnxruntime_makes():
    require_same_sizes(onnx.load_model_from_string(classifier_bytes()), 16)


@pytest.mark.slow
@pytest.mark.parametrize("exporter", ["today", "old"])
@pytest.mark.parametrize("kind", TOWERS)
def test_sizes_of_every_tower_are_those_that_onnxruntime_makes(kind: str, exporter: str):
    config, side = TOWERS[kind]
    torch.manual_seed(0)
    model = fused(config)
    made = _to_onnx(model, side, 20) if exporter == "today" else old_export(model, side, 17)
    require_same_sizes(made, side)


@pytest.mark.slow
def test_the_bounds_lie_well_above_the_largest_tower_that_fits_into_one_file():
    work = []
    for layers in (1, 2):
        vision = {"image_size": 336, "layers": layers, "width": 1024, "patch_size": 14}
        made = _to_onnx(fused({"vision_cfg": vision}, 768), 336, 20)
        graph = read_graph(made.graph, (3, 336, 336))
        work.append(cost_of(graph, 1).work)
        assert cost_of(graph, 32).live < MAX_LIVE
    vit_l = work[0] + 23 * (work[1] - work[0])
    assert 191e9 < vit_l < MAX_WORK / 2  # 191 billion multiply-adds is what papers give


def constant(name: str, *numbers: float, kind: type = np.int64) -> Any:
    return numpy_helper.from_array(np.array(numbers, kind), name)


def grown(*nodes: Any, **constants: Any) -> Callable[[Any], None]:
    """A change that adds nodes and constants, and a number made of the last node to the logits."""

    def change(model: Any) -> None:
        graph = model.graph
        for node in graph.node:
            node.output[:] = ["plain" if name == "logits" else name for name in node.output]
        graph.initializer.extend(
            value if isinstance(value, TensorProto) else constant(name, *value)
            for name, value in constants.items()
        )
        last = helper.make_node("Cast", [nodes[-1].output[0]], ["number"], to=TensorProto.FLOAT)
        least = helper.make_node("ReduceMax", ["number"], ["most"], keepdims=0)
        end = helper.make_node("Add", ["plain", "most"], ["logits"])
        graph.node.extend([*nodes, last, least, end])

    return change


def node(operator: str, inputs: str, output: str, **settings: Any) -> Any:
    return helper.make_node(operator, inputs.split(), [output], **settings)


BIG = 30_000
SQUARE = node("Expand", "one size", "c0")
PIXEL = [node("ReduceMax", "images", "pixel", keepdims=0), node("Cast", "pixel", "whole", to=7)]
AT_SEVEN = [
    node("Shape", "images", "sizes", start=0, end=1),
    node("Equal", "sizes seven", "is_seven"),
    node("Where", "is_seven huge one", "wanted"),
    node("Expand", "one wanted", "x"),
]


def chain(count: int) -> list[Any]:
    return [node("MatMul", f"c{i} c{i}", f"c{i + 1}") for i in range(count)]


def held(count: int) -> list[Any]:
    """Tensors of which each waits for the last."""
    names = [f"big{i}" for i in range(count)]
    tensors = [node("Expand", "one size", name) for name in names]
    return [*tensors, node("Concat", " ".join(names), "x", axis=0)]


def short_constant(model: Any) -> None:
    model.graph.initializer[0].dims[0] = 10**9


def renamed(name: str) -> Callable[[Any], None]:
    return lambda model: setattr(model.graph.node[0], "name", name)


def twice(model: Any) -> None:
    model.graph.node.append(model.graph.node[0])


def backwards(model: Any) -> None:
    nodes = [*model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(reversed(nodes))


def nested(model: Any) -> None:
    branch = helper.make_graph([], "branch", [], [])
    model.graph.node[0].attribute.append(helper.make_attribute("then", branch))


def no_output(model: Any) -> None:
    model.graph.node.append(helper.make_node("Constant", [], [], value_int=1))


def old_operators(model: Any) -> None:
    model.opset_import[0].version = 9


HOSTILE = {
    "expand": grown(node("Expand", "one size", "x"), one=[1], size=[BIG, BIG]),
    "constant of shape": grown(node("ConstantOfShape", "size", "x"), size=[BIG, BIG]),
    "range": grown(node("Range", "low high one", "x"), low=[0], high=[10**9], one=[1]),
    "pad": grown(node("Pad", "images pads", "x"), pads=[0, 0, BIG, BIG, 0, 0, 0, 0]),
    "gather": grown(node("Gather", "images many", "x", axis=0), many=[0] * 10**6),
    "outer product": grown(
        node("Range", "low high one", "a"),
        node("Unsqueeze", "a one", "b"),
        node("Mul", "a b", "x"),
        **{"low": [0], "high": [BIG], "one": [1]},
    ),
    "many products": grown(SQUARE, *chain(200), one=[1], size=[3000, 3000]),
    "large kernel": grown(
        node("Expand", "one size", "w"),
        node("Conv", "images w", "x"),
        one=[1],
        size=[9**7, 3, 9, 9],
    ),
    "large window": grown(
        node("AveragePool", "images", "x", kernel_shape=[4000, 4000], pads=[6000] * 4)
    ),
    "many at once": grown(*held(500), one=[1], size=[1000, 1000]),
    "size from a pixel": grown(*PIXEL, node("Expand", "one whole", "x"), one=[1]),
    "division by a pixel": grown(*PIXEL, node("Div", "one whole", "x"), one=[1]),
    "remainder by a size less one": grown(
        node("Shape", "images", "s", start=0, end=1),
        node("Sub", "s one", "zero"),
        node("Mod", "one zero", "x"),
        one=[1],
    ),
    "nine axes": grown(node("Reshape", "images size", "x"), size=[1, 1, 1, 1, 1, 1, 1, 3, -1]),
    "huge axis": grown(node("Expand", "one size", "x"), one=[1], size=[2**40]),
    "negative size": grown(node("Expand", "one size", "x"), one=[1], size=[-5]),
    "no stride": grown(node("MaxPool", "images", "x", kernel_shape=[1, 1], strides=[0, 0])),
    "text for a number": grown(node("Concat", "images images", "x", axis="one")),
    "nothing to read": grown(node("Relu", "nowhere", "x")),
    "short constant": short_constant,
    "escape in a name": renamed("\x1b[31mx"),
    "line in a name": renamed("x\n::error::pwned"),
    "long name": renamed("x" * 10_000),
    "one name twice": twice,
    "not in order": backwards,
    "nested graph": nested,
    "old operators": old_operators,
    "constant without a name": no_output,
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_no_image_tower_is_does_not_reach_onnxruntime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, one_line: Any
):
    path = write_classifier(tmp_path, HOSTILE[case])
    monkeypatch.setattr("onnxruntime.InferenceSession", None)
    begun = time.monotonic()
    with one_line(RefusedError, "is not a classifier that clipguard exported"):
        open_session(path, "cpu")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("text", [b"clipguard.scope", b"images", b"MatMul"])
def test_text_that_is_no_text_is_refused(tmp_path: Path, text: bytes, one_line: Any):
    data = classifier_bytes()
    assert text in data
    (tmp_path / "a.onnx").write_bytes(data.replace(text, b"\xff" * len(text)))
    with one_line(RefusedError, "is not a classifier"):
        open_session(tmp_path / "a.onnx", "cpu")


@settings(deadline=None, max_examples=200)
@given(changes=st.dictionaries(st.integers(0, len(classifier_bytes()) - 1), st.integers(0, 255)))
def test_no_byte_breaks_the_check(changes: dict[int, int]):
    data = bytearray(classifier_bytes())
    for place, value in changes.items():
        data[place] = value
    with contextlib.suppress(ValueError, LookupError, TypeError, AttributeError, ArithmeticError):
        graph, _, _ = checked(bytes(data))
        cost_of(graph, 3)


def test_a_graph_that_grows_for_one_number_of_images_is_refused_for_that_number(tmp_path: Path):
    change = grown(*AT_SEVEN, seven=[7], huge=[10**9], one=[1])
    session = open_session(write_classifier(tmp_path, change), "cpu")
    assert classify(session, np.zeros((3, 3, 16, 16), np.float32)).shape == (3, 5)
    with pytest.raises(RefusedError, match="numbers at once"):
        classify(session, np.zeros((7, 3, 16, 16), np.float32))


def test_a_batch_that_is_too_large_is_run_in_parts(tmp_path: Path):
    one, many = (open_session(write_classifier(tmp_path), "cpu") for _ in range(2))
    object.__setattr__(one, "batch", 1)
    images = np.random.default_rng(0).random((5, 3, 16, 16), np.float32)
    np.testing.assert_allclose(classify(one, images), classify(many, images), rtol=1e-5)


def test_memory_decides_how_many_images_are_run_at_once(tmp_path: Path):
    each = MAX_LIVE // 10
    change = grown(
        node("Shape", "images", "n", start=0, end=1),
        node("Concat", "n each", "size", axis=0),
        node("Expand", "one size", "x"),
        each=[each],
        one=[1],
    )
    assert open_session(write_classifier(tmp_path, change), "cpu").batch == 4


def run_predict(folder: Path, home: Path) -> subprocess.CompletedProcess[str]:
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), str(home))
    keep = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "clipguard", "predict", "model.onnx", "a.png"],
        cwd=folder,
        env={**keep, **places, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )


def test_predict_leaves_nothing_in_the_home_and_temporary_folders(tmp_path: Path):
    (home := tmp_path / "home").mkdir()
    write_classifier(tmp_path)
    paint(tmp_path / "a.png", "red")
    done = run_predict(tmp_path, home)
    assert (done.returncode, done.stderr) == (0, "")
    assert [*home.rglob("*")] == []


def test_onnxruntimes_own_log_is_not_shown(tmp_path: Path):
    """A step that fails while it runs, which onnxruntime logs with the name of its node."""
    failing = node("Gather", "one beyond", "x")
    failing.name = "::error file=a::pwned"
    change = grown(*PIXEL, node("Add", "whole large", "beyond"), failing, one=[1], large=[1000])
    write_classifier(tmp_path, change)
    paint(tmp_path / "a.png", "red")
    done = run_predict(tmp_path, tmp_path)
    assert done.returncode in (4, 5)
    assert done.stderr.startswith("error: ")
    assert (done.stderr.count("\n"), "::" in done.stderr) == (1, False)


def test_an_export_that_breaks_the_bounds_is_not_kept(tmp_path: Path, monkeypatch: Any):
    monkeypatch.setattr("clipguard.export.graph.MAX_WORK", 1000)
    from clipguard.export.onnx import write_onnx

    with pytest.raises(RefusedError):
        write_onnx(export_job(), tmp_path / "model.onnx", generator=torch.Generator())
    assert [*tmp_path.iterdir()] == []
    assert main(["predict", str(write_classifier(tmp_path)), str(tmp_path), "--sandbox=none"]) == 4
