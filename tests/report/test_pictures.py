"""Files beside a report."""

import json
from pathlib import Path

import pytest
import torch
from fakes import NAMES, SIDE, StripesClip, hum, stripes_probe
from PIL import Image
from safetensors import safe_open
from samples import candidate
from torchvision.transforms.functional import pil_to_tensor

from clipguard.model.pixels import pixels_from_bytes, pixels_to_bytes
from clipguard.probe.sets import Subject
from clipguard.report.pictures import Gallery, save_picture, save_trigger
from clipguard.search.families import FAMILIES
from clipguard.search.roles import Trigger

TARGET = 2
FOUND = candidate(NAMES[TARGET], "additive", 0.9)


def pixels(path: Path) -> torch.Tensor:
    return pil_to_tensor(Image.open(path))


def gallery(purified: bool = False, count: int = 4) -> Gallery:
    model = StripesClip(planted=TARGET)
    # this head answers the next class, so that its answers can be told from the other's
    head = (model, model.encode_text(NAMES).roll(1, dims=0)) if purified else None
    return Gallery(Subject(model, stripes_probe()), head, count=count)


def found(seed: int = 0) -> Trigger:
    family = FAMILIES.build("additive")
    return family.trigger(family.start(SIDE, generator=torch.Generator().manual_seed(seed)), 1.0)


def test_a_picture_shows_every_pixel_enlarged_without_smoothing(tmp_path: Path):
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    save_picture(image, tmp_path / "x.png")
    shown = pixels(tmp_path / "x.png")
    assert shown.shape == (3, 192, 192)
    assert torch.equal(shown[:, 1::3, 1::3], pixels_to_bytes(image[None])[0])
    assert torch.equal(shown[:, ::3, ::3], shown[:, 2::3, 2::3])


def test_a_large_picture_keeps_its_size(tmp_path: Path):
    save_picture(torch.zeros(3, 224, 224), tmp_path / "x.png")
    assert pixels(tmp_path / "x.png").shape == (3, 224, 224)


def test_the_record_names_files_that_exist_relative_to_the_report(tmp_path: Path):
    record = save_trigger(1, FOUND, found(), tmp_path, gallery())
    named = [record.file, record.picture]
    named += [name for example in record.examples for name in (example.clean, example.triggered)]
    there = {str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file()}
    assert set(named) == there
    assert len(there) == 2 + 2 * 4
    assert (record.size, record.unit) == (8.0, "L-inf, in 1/255")


def test_the_tensors_and_what_they_are_can_be_read_again(tmp_path: Path):
    trigger = found()
    record = save_trigger(3, FOUND, trigger, tmp_path, gallery())
    with safe_open(tmp_path / record.file, framework="pt") as file:
        told = json.loads(file.metadata()["clipguard"])
        torch.testing.assert_close(file.get_tensor("delta"), trigger.tensors["delta"])
    assert told == {"family": "additive", "size": trigger.size, "unit": trigger.unit}


def test_files_repeat_byte_for_byte(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_trigger(1, FOUND, found(), tmp_path / name, gallery())
    for file in sorted((tmp_path / "a" / "triggers").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / "triggers" / file.name).read_bytes()


def test_a_faint_trigger_is_shown_at_full_contrast(tmp_path: Path):
    save_trigger(1, FOUND, found(), tmp_path, gallery())
    shown = pixels(tmp_path / "triggers" / "1.png")
    assert max(shown.max().item() - 128, 127 - shown.min().item()) >= 126


@pytest.mark.parametrize("purified", [False, True])
def test_examples_say_how_each_image_is_read(tmp_path: Path, purified: bool):
    made = gallery(purified)
    (tmp_path / "triggers").mkdir()
    examples = made.examples("triggers/1", hum(), tmp_path)
    truths = [NAMES[i] for i in stripes_probe().measure.labels[made.index]]
    assert [example.truth for example in examples] == truths
    assert [example.before for example in examples] == truths
    assert {example.after for example in examples} == {NAMES[TARGET]}
    fixed = NAMES[TARGET + 1] if purified else None
    assert {example.purified for example in examples} == {fixed}


def test_examples_show_the_images_they_talk_about(tmp_path: Path):
    made = gallery()
    (tmp_path / "triggers").mkdir()
    first = made.examples("triggers/1", hum(), tmp_path)[0]
    clean = stripes_probe().measure.images[:1]
    step = 192 // SIDE
    assert torch.equal(pixels(tmp_path / first.clean)[:, ::step, ::step], clean[0])
    wanted = pixels_to_bytes(hum().apply(pixels_from_bytes(clean)))[0]
    assert torch.equal(pixels(tmp_path / first.triggered)[:, ::step, ::step], wanted)


@pytest.mark.parametrize("count", [1, 3, 4, 7, 500])
def test_examples_are_spread_over_the_measure_part(count: int):
    index = gallery(count=count).index
    size = len(stripes_probe().measure)
    assert len(index) == len(index.unique()) == min(count, size)
    assert index.max() >= size * (1 - 1 / min(count, size)) * 0.9
    assert index.max() < size
