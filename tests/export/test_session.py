from __future__ import annotations

import hashlib
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_samples import COLOURS, NAMES, SIDE, paint, write_classifier
from open_clip.transform import image_transform
from PIL import Image

from clipguard.errors import ExportError, RefusedError, UsageError
from clipguard.export import session as onnx_runtime
from clipguard.export.session import classify, open_session
from clipguard.probe.images import class_names_digest, load_image
from clipguard.probe.load import class_list_digest

DOCS = Path(__file__).parents[2] / "docs" / "onnx.md"


def set_property(model, key, value):
    next(p for p in model.metadata_props if p.key == f"clipguard.{key}").value = value


def drop_property(model, key):
    kept = {p.key: p.value for p in model.metadata_props if p.key != f"clipguard.{key}"}
    helper.set_model_props(model, kept)


def few_names(model):
    set_property(model, "class_names", '["a", "b"]')
    set_property(model, "class_names_sha256", class_names_digest(["a", "b"]))


def external(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../weights.bin")


def external_in_attribute(model):
    tensor = helper.make_tensor("hidden", TensorProto.FLOAT, [1], [0.0])
    tensor.external_data.add(key="location", value="/etc/hostname")
    model.graph.node.append(helper.make_node("Constant", [], ["unused"], value=tensor))


def custom_operator(model):
    model.opset_import.append(helper.make_opsetid("evil.domain", 1))
    model.graph.node[0].domain = "evil.domain"


BRANCH = helper.make_graph([], "branch", [], [])
OPSET, RELU = [helper.make_opsetid("", 20)], helper.make_node("Relu", ["a"], ["b"])
FUNCTION = helper.make_function("", "Mine", ["a"], ["b"], [RELU], OPSET)


def resized(*sides, elem_type=TensorProto.FLOAT):
    def change(model):
        kind = model.graph.input[0].type.tensor_type
        kind.elem_type = elem_type
        for axis, side in enumerate(sides):
            kind.shape.dim[axis].dim_value = side

    return change


def grown(op_type, **attributes):
    def change(model):
        model.graph.node.append(helper.make_node(op_type, [], ["big"], **attributes))

    return change


HOSTILE = {
    "other output": (lambda m: setattr(m.graph.output[0], "name", "scores\x1b[2J"), "the outputs"),
    "static batch": (resized(4, 3, 16, 16), "dynamic N"),
    "oblong": (resized(0, 3, 16, 32), "dynamic N"),
    "huge": (resized(0, 3, 10**6, 10**6), "dynamic N"),
    "half": (resized(elem_type=TensorProto.FLOAT16), "float32"),
    "external": (external, "external data"),
    "external, hidden": (external_in_attribute, "external data"),
    "nested": (grown("If", then_branch=BRANCH, else_branch=BRANCH), "operators"),
    "function": (lambda m: m.functions.append(FUNCTION), "functions"),
    "custom": (custom_operator, "standard operators"),
    "no opset": (lambda m: m.ClearField("opset_import"), "standard operators"),
    "no scope": (lambda m: drop_property(m, "scope"), "clipguard.scope"),
    "no names": (lambda m: set_property(m, "class_names", "[1, 2]"), "list of names"),
    "deep names": (lambda m: set_property(m, "class_names", "[" * 10**5), "list of names"),
    "renamed": (lambda m: set_property(m, "class_names", '["a"]'), "digest"),
    "few names": (few_names, "one per class, got [0, 5]"),
    "resize mode": (lambda m: set_property(m, "resize_mode", "stretch\x1b"), "resize_mode"),
    "interpolation": (lambda m: set_property(m, "interpolation", "lanczos"), "interpolation"),
    "random": (grown("RandomNormal", shape=[10**9]), "operators of an image tower"),
    "unknown operator": (
        lambda m: setattr(m.graph.node[0], "op_type", "NoSuchOperator"),
        "operators of an image tower",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_file_that_breaks_the_contract_is_refused_in_one_clear_line(tmp_path, case, one_line):
    change, reason = HOSTILE[case]
    with one_line(RefusedError, re.escape(reason)):
        open_session(write_classifier(tmp_path, change), "cpu")


@pytest.mark.parametrize("data", [b"", b"hello, this is text", b"\x80\x04}.", bytes(101)])
def test_bytes_that_are_not_onnx_or_too_many_are_refused(tmp_path, monkeypatch, data):
    monkeypatch.setattr(onnx_runtime, "MAX_BYTES", 100)
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(RefusedError, match="at most 100" if len(data) > 100 else "no.*classifier"):
        open_session(tmp_path / "model.onnx", "cpu")


def test_a_missing_file_and_an_unknown_provider_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match=r"found none at .*nowhere\.onnx"):
        open_session(tmp_path / "nowhere.onnx")
    with pytest.raises(UsageError, match="'tpu'"):
        open_session(write_classifier(tmp_path), "tpu")


def test_wanted_cuda_is_an_error_when_onnxruntime_runs_on_the_cpu(tmp_path, monkeypatch):
    path = write_classifier(tmp_path)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [onnx_runtime.CPU])
    assert open_session(path, None).provider == "CPUExecutionProvider"
    with pytest.raises(ExportError, match="CUDA, got CPU"):
        open_session(path, "cuda")


def test_a_session_reads_each_colour_at_any_batch_size(tmp_path):
    session = open_session(write_classifier(tmp_path), "cpu")
    assert (session.class_names, session.image_size, session.opset) == (NAMES, SIDE, 20)
    plain = np.array(list(COLOURS.values()), np.float32).reshape(5, 3, 1, 1) / 255
    images = np.broadcast_to(plain, (5, 3, SIDE, SIDE))
    for batch in (1, 3, 5):
        logits = classify(session, np.ascontiguousarray(images[:batch]))
        assert logits.argmax(axis=1).tolist() == list(range(batch))
        assert logits.max(axis=1) == pytest.approx(20)  # cosine 1 times the logit scale


def test_a_file_that_computes_no_numbers_is_refused(tmp_path):
    def change(model):
        head = next(t for t in model.graph.initializer if list(t.dims) == [3, 5])
        head.CopyFrom(onnx.numpy_helper.from_array(np.full((3, 5), np.nan, np.float32), head.name))

    session = open_session(write_classifier(tmp_path, change), "cpu")
    with pytest.raises(RefusedError, match=r"expected finite logits of shape \(1, 5\)"):
        classify(session, np.zeros((1, 3, SIDE, SIDE), np.float32))


def test_the_digest_is_that_of_names_joined_by_newlines_and_the_one_in_the_report():
    names, wanted = ["cat", "größer", "dog"], hashlib.sha256("cat\ngrößer\ndog".encode())
    assert class_names_digest(names) == class_list_digest(names) == wanted.hexdigest()


@pytest.mark.parametrize("size", [(40, 25), (9, 13), (16, 16), (301, 37)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize_mode", ["shortest", "longest", "squash"])
def test_every_resize_rule_is_that_of_open_clip(tmp_path, size, interpolation, resize_mode):
    rule = {"resize_mode": resize_mode, "interpolation": interpolation}
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    plain = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    wanted = image_transform(SIDE, is_train=False, **plain, **rule)(Image.fromarray(noise))
    got = load_image(tmp_path / "noise.png", SIDE, **rule)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, wanted.numpy())


@pytest.mark.parametrize("rule", [{"resize_mode": "crop"}, {"interpolation": "lanczos"}])
def test_an_unknown_resize_rule_is_not_blamed_on_the_image(tmp_path, rule):
    with pytest.raises(ValueError, match="no resize rule"):
        load_image(paint(tmp_path / "red.png", "red"), SIDE, **rule)


@pytest.mark.parametrize(
    ("mode", "colour", "wanted"), [("RGBA", (255, 0, 0, 0), 1), ("L", 51, 0.2)]
)
def test_transparent_pixels_are_white_and_grey_images_have_three_channels(
    tmp_path, mode, colour, wanted
):
    Image.new(mode, (20, 20), colour).save(tmp_path / "image.png")
    found = load_image(tmp_path / "image.png", SIDE)
    assert found == pytest.approx(np.full((3, SIDE, SIDE), wanted))


DEEP = {
    "16-bit grey": (np.full((20, 20), 13107, np.uint16), "PNG"),
    "16-bit grey TIFF": (np.full((20, 20), 13107, np.uint16), "TIFF"),
    "big-endian TIFF": (np.full((20, 20), 13107, ">u2"), "TIFF"),
    "16-bit PGM": (np.full((20, 20), 13107, np.int32), "PPM"),
    "numbers from 0 to 1": (np.full((20, 20), 0.2, np.float32), "TIFF"),
}


@pytest.mark.parametrize("kind", DEEP)
def test_deep_images_are_scaled_to_8_bits(tmp_path, kind):
    values, form = DEEP[kind]
    Image.fromarray(values).save(tmp_path / "deep.img", form)
    assert load_image(tmp_path / "deep.img", SIDE) == pytest.approx(0.2, abs=0.002)


@pytest.mark.parametrize(
    "values",
    [
        np.full((9, 9), 200, np.float32),
        np.full((9, 9), -0.1, np.float32),
        np.full((9, 9), np.nan, np.float32),
        np.full((9, 9), 70_000, np.int32),
    ],
)
def test_numbers_of_an_unknown_scale_are_no_image(tmp_path, values, one_line):
    Image.fromarray(values).save(tmp_path / "deep.tif")
    with one_line(UsageError, "what is white"):
        load_image(tmp_path / "deep.tif", SIDE)


def test_the_exif_mark_turns_the_image_upright(tmp_path):
    image, exif = Image.new("RGB", (SIDE, SIDE), "black"), Image.Exif()
    image.paste("white", (0, 0, SIDE, SIDE // 2))
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "turned.png", exif=exif)
    halves = np.split(load_image(tmp_path / "turned.png", SIDE), 2, axis=1)
    assert [half.mean() for half in halves] == [0, 1]


def chunk(kind: bytes, data: bytes) -> bytes:
    crc = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + crc


def png_of_size(width: int, height: int) -> bytes:
    """A few bytes that claim to be a large image."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
BROKEN = {
    "bomb": (png_of_size(100_000, 100_000), "exceeds limit"),
    "large": (png_of_size(10_000, 9_000), "10000 x 9000 pixels, at most"),
    "cut": (png_of_size(4, 4), "truncated"),
    "text": (b"not an image\x1b[2J", "cannot identify image file"),
    "empty": (b"", "cannot identify image file"),
    "program, which Pillow would hand to another process": (EPS, "cannot identify image file"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_no_image_or_too_large_is_one_printable_line(tmp_path, case, one_line):
    data, reason = BROKEN[case]
    (path := tmp_path / "photo\x1b[31m.png").write_bytes(data)
    with one_line(UsageError, reason):
        load_image(path, SIDE)


def test_a_thin_strip_is_refused_before_it_is_enlarged(tmp_path):
    Image.new("L", (60_000, 1)).save(tmp_path / "strip.png")
    with pytest.raises(UsageError, match="13440000 x 224 pixels, at most"):
        load_image(tmp_path / "strip.png", 224)


def test_the_documented_example_runs_without_torch(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[1]
    assert not re.search("torch|clipguard import|open_clip", code)
    write_classifier(tmp_path)
    paint(tmp_path / "photo.jpg", "green", (30, 20))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/onnx.md", "exec"), {})
    assert capsys.readouterr().out.startswith("green: 20.00\n")
