from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import helper
from onnx_samples import paint, write_classifier
from PIL import Image

import clipguard
from clipguard.cli.app import main
from clipguard.probe.images import class_names_digest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    write_classifier(tmp_path)
    return tmp_path


def rename(model, names):
    kept = {p.key: p.value for p in model.metadata_props}
    kept["clipguard.class_names"] = json.dumps(names)
    kept["clipguard.class_names_sha256"] = class_names_digest(names)
    helper.set_model_props(model, kept)


def test_the_table_names_the_best_classes_the_provider_and_the_scope(folder, capsys):
    paint(folder / "photo.png", "blue")
    assert main(["predict", "model.onnx", "photo.png", "--top", "2", "--require-ep", "cpu"]) == 0
    out, err = capsys.readouterr()
    rows = [re.split("[│┃]", line) for line in out.splitlines() if re.search("[│┃]", line)]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells[:2] == [["image", "class", "probability"], ["photo.png", "blue", "100.0%"]]
    assert len(cells) == 3  # heading and two classes
    assert "read: 1, skipped: 0, on CPUExecutionProvider" in out
    assert "repairs the zero-shot classifier of this class list only" in out
    assert err == ""


def test_a_folder_is_read_in_order_and_deeply_and_json_holds_all_of_it(folder, capsys):
    (folder / "in" / "deep").mkdir(parents=True)
    paint(folder / "in" / "b.png", "red")
    paint(folder / "in" / "a.JPG", "green")
    paint(folder / "in" / "deep" / "c.png", "white")
    (folder / "in" / "notes.txt").write_text("no image")
    assert main(["predict", "model.onnx", "in", "--json", "--top", "1"]) == 0
    document = json.loads(capsys.readouterr().out)
    read = [(entry["file"], entry["top"][0]["class"]) for entry in document["images"]]
    assert read == [("in/a.JPG", "green"), ("in/b.png", "red"), ("in/deep/c.png", "white")]
    assert document["images"][0]["top"][0]["probability"] > 0.99
    assert (document["provider"], document["head"]) == ("CPUExecutionProvider", "purified")
    assert document["skipped"] == []


def test_more_images_than_one_batch_keep_their_order(folder, capsys):
    for number in range(70):
        paint(folder / f"{number:02}.png", ("red", "green", "blue")[number % 3])
    assert main(["predict", "model.onnx", ".", "--json", "--top", "1"]) == 0
    images = json.loads(capsys.readouterr().out)["images"]
    assert [e["file"] for e in images] == [f"{n:02}.png" for n in range(70)]
    wanted = [("red", "green", "blue")[n % 3] for n in range(70)]
    assert [e["top"][0]["class"] for e in images] == wanted


@pytest.mark.parametrize(("mode", "seen"), [("shortest", "red"), ("squash", "white")])
def test_images_are_resized_by_the_rule_in_the_file(folder, capsys, mode, seen):
    def change(model):
        kept = {p.key: p.value for p in model.metadata_props}
        helper.set_model_props(model, kept | {"clipguard.resize_mode": mode})

    write_classifier(folder, change)
    photo = Image.new("RGB", (160, 16), "white")
    photo.paste("red", (70, 0, 90, 16))  # all that a centre crop sees
    photo.save(folder / "wide.png")
    assert main(["predict", "model.onnx", "wide.png", "--json", "--top", "1"]) == 0
    entry = json.loads(capsys.readouterr().out)["images"][0]
    assert entry["top"][0]["class"] == seen


def test_a_corrupt_image_is_skipped_told_and_counted(folder, capsys):
    (folder / "in").mkdir()
    paint(folder / "in" / "good.png", "black")
    (folder / "in" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert main(["predict", "model.onnx", "in"]) == 0
    out, err = capsys.readouterr()
    assert "read: 1, skipped: 1, on CPUExecutionProvider" in out
    assert err.startswith("skipped: expected an image in in/bad.png")
    assert err.count("\n") == 1


def test_no_readable_image_is_a_usage_error(folder, capsys):
    (folder / "empty").mkdir()
    assert main(["predict", "model.onnx", "empty"]) == 2
    assert "got 0 broken and none else" in capsys.readouterr().err
    (folder / "bad.png").write_bytes(b"")
    assert main(["predict", "model.onnx", "bad.png"]) == 2
    assert "got 1 broken and none else" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.onnx", "photo.png"], 2, "expected an ONNX file, found none at missing.onnx"),
        (["model.onnx", "missing.png"], 2, "found nothing at missing.png"),
        (["photo.png", "photo.png"], 4, "photo.png is not a classifier that clipguard exported"),
        (["model.onnx", "photo.png", "--require-ep", "tpu"], 2, "no execution provider named"),
        (["model.onnx", "photo.png", "--require-ep", "cuda"], 6, "wanted onnxruntime to run on"),
    ],
)
def test_every_failure_is_one_line_with_its_exit_code(
    folder, capsys, monkeypatch, arguments, code, message
):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    paint(folder / "photo.png", "red")
    assert main(["predict", *arguments]) == code
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("\n")) == ("", 1)


def test_names_from_outside_neither_steer_the_terminal_nor_become_markup(folder, capsys):
    names = ["[bold]red[/x]", "\x1b[2Jgreen", "blue", "black", "white"]
    write_classifier(folder, lambda model: rename(model, names))
    paint(folder / "[link=evil]a.png", "red")
    paint(folder / "b.png", "green")
    assert main(["predict", "model.onnx", ".", "--top", "1"]) == 0
    out = capsys.readouterr().out
    assert "[bold]red[/x]" in out
    assert "[link=evil]a.png" in out
    assert r"\u{1b}[2Jgreen" in out
    assert "\x1b[2J" not in out


def test_it_runs_where_torch_cannot_be_imported(folder):
    paint(folder / "photo.png", "green")
    block = "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None; "
    run = "from clipguard.cli.app import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", block + run, "predict", "model.onnx", "photo.png"],
        env={**os.environ, "PYTHONPATH": str(Path(clipguard.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "green" in done.stdout
