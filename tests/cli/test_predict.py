from __future__ import annotations

import json
import re

import pytest
from onnx import helper
from onnx_samples import paint, write_classifier
from PIL import Image
from processes import run_python

from clipguard.cli.app import main
from clipguard.probe.images import class_names_digest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    write_classifier(tmp_path)
    return tmp_path


def predicted(capsys, *arguments):
    """What `predict --json` says, and the best class of every image."""
    assert main(["predict", "model.onnx", *arguments, "--json", "--top", "1"]) == 0
    document = json.loads(capsys.readouterr().out)
    return document, [(image["file"], image["top"][0]["class"]) for image in document["images"]]


def properties(**changes):
    """A change of a model's properties."""

    def change(model):
        kept = {p.key: p.value for p in model.metadata_props}
        helper.set_model_props(model, kept | {f"clipguard.{k}": v for k, v in changes.items()})

    return change


def test_the_table_names_the_best_classes_the_provider_and_the_scope(folder, capsys):
    paint(folder / "photo.png", "blue")
    assert main(["predict", "model.onnx", "photo.png", "--top", "2", "--require-ep", "cpu"]) == 0
    out, err = capsys.readouterr()
    rows = [re.split("[│┃]", line) for line in out.splitlines() if re.search("[│┃]", line)]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells[:2] == [["image", "class", "probability"], ["photo.png", "blue", "100.0%"]]
    assert (len(cells), err) == (3, "")  # heading and two classes
    assert "read: 1, skipped: 0, on CPUExecutionProvider" in out
    assert "zero-shot classifier of this class list only" in out


def test_a_folder_is_read_in_order_and_deeply_and_json_holds_all_of_it(folder, capsys):
    (folder / "in" / "deep").mkdir(parents=True)
    for name, colour in (("b.png", "red"), ("a.JPG", "green"), ("deep/c.png", "white")):
        paint(folder / "in" / name, colour)
    (folder / "in" / "notes.txt").write_text("no image")
    document, read = predicted(capsys, "in")
    assert read == [("in/a.JPG", "green"), ("in/b.png", "red"), ("in/deep/c.png", "white")]
    assert document["images"][0]["top"][0]["probability"] > 0.99
    assert (document["provider"], document["head"]) == ("CPUExecutionProvider", "purified")
    assert document["skipped"] == []


def test_more_images_than_one_batch_keep_their_order(folder, capsys):
    wanted = [(f"{n:02}.png", ("red", "green", "blue")[n % 3]) for n in range(70)]
    for name, colour in wanted:
        paint(folder / name, colour)
    assert predicted(capsys, ".")[1] == wanted


@pytest.mark.parametrize(("mode", "seen"), [("shortest", "red"), ("squash", "white")])
def test_images_are_resized_by_the_rule_in_the_file(folder, capsys, mode, seen):
    write_classifier(folder, properties(resize_mode=mode))
    photo = Image.new("RGB", (160, 16), "white")
    photo.paste("red", (70, 0, 90, 16))  # all that a centre crop sees
    photo.save(folder / "wide.png")
    assert predicted(capsys, "wide.png")[1] == [("wide.png", seen)]


def test_a_corrupt_image_is_skipped_told_and_counted(folder, capsys):
    (folder / "in").mkdir()
    paint(folder / "in" / "good.png", "black")
    (folder / "in" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    assert main(["predict", "model.onnx", "in"]) == 0
    out, err = capsys.readouterr()
    assert "read: 1, skipped: 1, on CPUExecutionProvider" in out
    assert err.startswith("skipped: expected an image in in/bad.png")
    assert err.count("\n") == 1
    assert main(["predict", "model.onnx", "in/bad.png"]) == 2
    assert "got 1 broken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.onnx", "photo.png"], 2, "missing.onnx"),
        (["model.onnx", "missing.png"], 2, "missing.png"),
        (["model.onnx", "empty"], 2, "got 0 broken"),
        (["photo.png", "photo.png"], 4, "photo.png is not"),
        (["model.onnx", "photo.png", "--require-ep", "tpu"], 2, "tpu"),
        (["model.onnx", "photo.png", "--require-ep", "cuda"], 6, "CUDA"),
    ],
)
def test_every_failure_is_one_line_with_its_exit_code(
    folder, refused, monkeypatch, arguments, code, message
):
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    paint(folder / "photo.png", "red")
    (folder / "empty").mkdir()
    assert message in refused(code, "predict", *arguments)


def test_names_from_outside_neither_steer_the_terminal_nor_become_markup(folder, capsys):
    names = ["[bold]red[/x]", "\x1b[2Jgreen", "blue", "black", "white"]
    given = {"class_names": json.dumps(names), "class_names_sha256": class_names_digest(names)}
    write_classifier(folder, properties(**given))
    paint(folder / "[link=evil]a.png", "red")
    paint(folder / "b.png", "green")
    assert main(["predict", "model.onnx", ".", "--top", "1"]) == 0
    out = capsys.readouterr().out
    assert "\x1b[2J" not in out
    for name in ("[bold]red[/x]", "[link=evil]a.png", r"\u{1b}[2Jgreen"):
        assert name in out


def test_it_runs_where_torch_cannot_be_imported(folder):
    paint(folder / "photo.png", "green")
    block = "import sys; sys.modules['torch'] = sys.modules['torchvision'] = None; "
    run = "from clipguard.cli.app import main; sys.exit(main(sys.argv[1:]))"
    words = ("predict", "model.onnx", "photo.png")
    done = run_python("-c", block + run, *words, code=0, cwd=folder)
    assert (done.stderr, "green" in done.stdout) == ("", True)
