"""Probe sets: three disjoint parts, every class in each."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from clipguard.bundled.nano import class_names
from clipguard.checkpoint.configs import OPENAI, Preprocess
from clipguard.errors import UsageError
from clipguard.model.pixels import pixels_to_bytes
from clipguard.probe import given as probe_module
from clipguard.probe.images import load_image
from clipguard.probe.load import (
    TEMPLATE,
    ProbeSource,
    Scenes,
    bundled_probe,
    class_list_digest,
    load_probe,
)
from clipguard.probe.sets import ProbePart, ProbeSet

SMALL = Scenes(optimise=2, select=1, measure=1)


def parts(probe: ProbeSet) -> tuple[ProbePart, ProbePart, ProbePart]:
    return probe.optimise, probe.select, probe.measure


@pytest.fixture(scope="module")
def bundled() -> ProbeSet:
    return bundled_probe(16, SMALL, seed=3)


class Reader:
    """Reads every bundled scene rightly, or none."""

    image_size = 16
    device = torch.device("cpu")

    def __init__(self, knows: bool, preprocess: Preprocess = OPENAI) -> None:
        self.knows = knows
        self.preprocess = preprocess

    def encode_image(self, images: Tensor) -> Tensor:
        # the select part holds the classes in order, one scene each
        answers = torch.eye(len(images))
        return answers if self.knows else answers.roll(1, dims=0)

    def encode_text(self, texts: list[str]) -> Tensor:
        return torch.eye(len(texts))


def test_the_parts_of_the_bundled_set_share_no_drawing_and_know_every_class(bundled: ProbeSet):
    first, second, third = (set(part.drawings.tolist()) for part in parts(bundled))
    assert len(first | second | third) == len(first) + len(second) + len(third)
    for part, scenes in zip(parts(bundled), (2, 1, 1), strict=True):
        assert Counter(part.labels.tolist()) == dict.fromkeys(range(100), scenes)
        assert part.images.shape == (100 * scenes, 3, 16, 16)
        assert part.images.dtype == torch.uint8
    assert (bundled.labelled, bundled.class_names) == (True, class_names())


def test_the_seed_draws_the_split_and_scenes_that_differ(bundled: ProbeSet):
    part = bundled.optimise
    assert torch.equal(part.drawings[:100], part.drawings[100:])
    assert not (part.images[:100] == part.images[100:]).flatten(1).all(dim=1).any()
    same, other = (bundled_probe(16, SMALL, seed=seed) for seed in (3, 4))
    assert torch.equal(same.measure.images, bundled.measure.images)
    assert not torch.equal(other.measure.drawings, bundled.measure.drawings)


def test_a_model_that_knows_the_bundled_classes_is_asked_about_them(tmp_path: Path):
    probe = load_probe(Reader(knows=True), ProbeSource(), SMALL, seed=0)
    assert (probe.class_names, probe.templates) == (class_names(), (TEMPLATE,))
    assert (probe.labelled, probe.source) == (True, "bundled")
    (tmp_path / "templates.txt").write_text("a sketch of a {}\n{}\n")
    assert load(None, templates=tmp_path / "templates.txt").templates == ("a sketch of a {}", "{}")


def test_any_other_model_is_asked_about_imagenet_without_labels():
    probe = load_probe(Reader(knows=False), ProbeSource(), SMALL, seed=0)
    assert (len(probe.class_names), probe.labelled) == (998, False)
    assert all((part.labels == -1).all() for part in parts(probe))
    assert any("duplicate" in warning for warning in probe.warnings)


def class_file(tmp_path: Path, names: list[str]) -> Path:
    path = tmp_path / "names.txt"
    path.write_text("\n".join(names))
    return path


def test_labels_move_to_another_class_list_that_has_every_class(tmp_path: Path, bundled: ProbeSet):
    names = ["something else", *reversed(class_names())]
    source = ProbeSource(class_names=class_file(tmp_path, names))
    probe = load_probe(Reader(knows=True), source, SMALL, seed=3)
    assert probe.labelled
    for part, before in zip(parts(probe), parts(bundled), strict=True):
        told = [probe.class_names[label] for label in part.labels]
        assert told == [bundled.class_names[label] for label in before.labels]


def test_labels_are_dropped_when_one_class_is_missing(tmp_path: Path):
    names = class_file(tmp_path, [*class_names()[1:], "zebra crossing"])
    probe = load(None, class_names=names)
    assert all((part.labels == -1).all() for part in parts(probe))
    assert not probe.labelled


def picture(path: Path, level: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), (level, 10, 10)).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """12 cats, 7 dogs, 3 owls; the red of a picture says what it is."""
    for start, name, count in ((0, "cat", 12), (100, "dog", 7), (200, "owl", 3)):
        for i in range(count):
            picture(tmp_path / "photos" / name / f"{i}.png", start + i)
    return tmp_path / "photos"


def load(folder: Path | None, seed: int = 0, **source: Path) -> ProbeSet:
    return load_probe(Reader(knows=True), ProbeSource(images=folder, **source), SMALL, seed=seed)


def test_a_folder_of_folders_is_a_labelled_probe_set(folder: Path):
    (folder / "cat" / "readme.txt").write_text("hello")
    probe = load(folder)
    assert (probe.class_names, probe.labelled) == (("cat", "dog", "owl"), True)
    assert re.fullmatch("photos:[0-9a-f]{12}", probe.source)
    assert (probe.skipped, probe.warnings) == (0, ())
    for part in parts(probe):
        assert (part.images[:, 0, 0, 0] // 100).tolist() == part.labels.tolist()
        assert part.images.shape[1:] == (3, 16, 16)
    for label, count in enumerate((12, 7, 3)):
        shares = [int((part.labels == label).sum()) for part in parts(probe)]
        assert sum(shares) == count
        assert max(shares) - min(shares) <= 1
    reds = torch.cat([part.images[:, 0, 0, 0] for part in parts(probe)])
    drawings = torch.cat([part.drawings for part in parts(probe)])
    assert len(reds) == len(reds.unique()) == len(drawings.unique()) == 22


def test_a_corrupt_image_is_skipped_and_counted(folder: Path):
    (folder / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    (folder / "dog" / "empty.jpg").touch()
    (folder / "dog" / "folder.png").mkdir()
    probe = load(folder)
    assert (probe.skipped, len(probe.warnings)) == (3, 1)
    assert sum(len(part) for part in parts(probe)) == 22


def test_a_class_outside_the_given_list_has_no_label(folder: Path, tmp_path: Path):
    probe = load(folder, class_names=class_file(tmp_path, ["Owl", "CAT", "fish"]))
    assert probe.class_names == ("Owl", "CAT", "fish")
    assert not probe.labelled
    counts = Counter(torch.cat([part.labels for part in parts(probe)]).tolist())
    assert counts == {1: 12, -1: 7, 0: 3}


def test_a_flat_folder_serves_without_labels(tmp_path: Path):
    for i in range(9):
        picture(tmp_path / "flat" / f"{i}.PNG", i)
    names = class_file(tmp_path, ["cat", "dog"])
    probe = load(tmp_path / "flat", class_names=names)
    assert [len(part) for part in parts(probe)] == [3, 3, 3]
    assert not probe.labelled
    with pytest.raises(UsageError, match="--classnames"):
        load(tmp_path / "flat")


def test_folders_that_give_no_probe_set_are_refused(folder: Path, tmp_path: Path):
    shutil.copytree(folder / "cat", tmp_path / "single" / "cat")
    for name in ("cat", "dog"):
        (tmp_path / "broken" / name).mkdir(parents=True)
        (tmp_path / "broken" / name / "x.png").write_bytes(b"no image")
    (tmp_path / "nothing").mkdir()
    names = {"class_names": class_file(tmp_path, ["owl"])}
    for given, source, says in (
        (tmp_path / "single", {}, "one class, 'cat'"),
        (tmp_path / "single" / "cat", {}, "images alone"),
        (None, names, "at least two classes"),
        (tmp_path / "broken", {}, "none of 2 images"),
        (tmp_path / "nothing", {}, "no images in"),
        (tmp_path / "none", {}, "no folder"),
    ):
        with pytest.raises(UsageError, match=says):
            load(given, **source)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["0", "1", "2"], True),
        (["class_0", "Class-1", "label 2"], True),
        (["n01440764", "n01443537", "n01484850"], True),
        (["cat", "dog", "747"], False),
    ],
)
def test_folders_that_are_called_by_a_number_are_told_and_a_mapping_names_them(
    tmp_path: Path, names: list[str], told: bool
):
    for i, name in enumerate(names):
        for j in range(4):
            picture(tmp_path / "photos" / name / f"{j}.png", 10 * i + j)
    assert any(repr(names[0]) in warning for warning in load(tmp_path / "photos").warnings) is told
    (tmp_path / "map.json").write_text(json.dumps(dict(zip(names, "abc", strict=True))))
    named = load(tmp_path / "photos", class_names=tmp_path / "map.json")
    assert (named.class_names, named.labelled, named.warnings) == (("a", "b", "c"), True, ())
    for part in parts(named):
        assert (part.images[:, 0, 0, 0] // 10).tolist() == part.labels.tolist()


def test_hidden_and_system_folders_are_no_classes(folder: Path):
    for stray in (".ipynb_checkpoints/a.png", "__MACOSX/b.png", "cat/._0.png", "@eaDir/c.png"):
        picture(folder / stray, 250)
    probe = load(folder)
    assert probe.class_names == ("cat", "dog", "owl")
    assert sum(len(part) for part in parts(probe)) == 22
    assert "__MACOSX" in probe.warnings[0]


def test_images_that_are_not_read_are_counted(folder: Path, tmp_path: Path):
    for name in ("cat/photo.HEIC", "dog/photo.avif", "dog/notes.txt"):
        (folder / name).write_bytes(b"anything")
    assert any("2 images" in warning and ".heic" in warning for warning in load(folder).warnings)
    (tmp_path / "phone" / "cat").mkdir(parents=True)
    (tmp_path / "phone" / "cat" / "0.heic").write_bytes(b"anything")
    with pytest.raises(UsageError, match=r"1 images.*\.heic"):
        load(tmp_path / "phone")


@pytest.mark.parametrize("twin", ["Cat", "CAT", " cat", "cat "])
def test_folders_that_a_tokenizer_cannot_tell_apart_are_one_class(folder: Path, twin: str):
    picture(folder / twin / "x.png", 50)
    probe = load(folder)
    assert len(probe.class_names) == 3
    assert Counter(torch.cat([part.labels for part in parts(probe)]).tolist())[0] == 13
    assert any("merged" in warning for warning in probe.warnings)


def test_no_image_is_in_two_parts_or_in_two_classes(folder: Path):
    for i in range(5):
        shutil.copy(folder / "cat" / "0.png", folder / "cat" / f"copy-{i}.png")
    for name in ("dog", "owl"):  # of two classes at once
        picture(folder / name / "both.bmp", 250)
    probe = load(folder)
    reds = torch.cat([part.images[:, 0, 0, 0] for part in parts(probe)])
    assert len(reds) == len(reds.unique()) == 22
    assert [re.findall(r"\d+", warning)[0] for warning in probe.warnings] == ["5", "2"]


@pytest.mark.parametrize(("limit", "told"), [(10, 1), (22, 0)])
def test_a_huge_folder_is_sampled(folder: Path, monkeypatch, limit: int, told: int):
    monkeypatch.setattr(probe_module, "MAX_IMAGES", limit)
    probe = load(folder)
    assert sum(len(part) for part in parts(probe)) == limit
    assert len(probe.warnings) == told


def test_the_source_names_images_and_classes_and_neither_their_order_nor_their_place(
    folder: Path, tmp_path: Path
):
    first, same, other = (load(folder, seed) for seed in (1, 1, 2))
    assert torch.equal(first.measure.images, same.measure.images)
    assert not torch.equal(first.measure.images, other.measure.images)
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "photos")
    assert first.source == other.source == load(copy).source
    (copy / "owl" / "0.png").rename(copy / "cat" / "moved.png")
    assert load(copy).source != first.source
    picture(folder / "owl" / "0.png", 255)
    assert load(folder).source != first.source


@pytest.mark.parametrize("name", ["cat\nfish", "cat\x1b[2J", "cat\udcff", "cat\u2028"])
def test_a_folder_name_that_no_class_list_may_hold_is_refused(folder: Path, name: str, one_line):
    shutil.copytree(folder / "cat", folder / name)
    with one_line(UsageError, r"'cat\\u\{"):
        load(folder)
    given = class_file(folder.parent, ["cat", "dog"])  # needs no class in a folder name
    assert load(folder, class_names=given).class_names == ("cat", "dog")


def test_a_folder_is_resized_by_the_rule_of_the_model(tmp_path: Path):
    for name, gradient in (("cat", Image.radial_gradient), ("dog", Image.linear_gradient)):
        (tmp_path / name).mkdir()
        gradient("L").resize((40, 20)).save(tmp_path / name / "x.png")
    rule = {"interpolation": "bilinear", "resize_mode": "squash"}
    model = Reader(knows=True, preprocess=Preprocess(**rule))
    probe = load_probe(model, ProbeSource(images=tmp_path), SMALL, seed=0)
    found = torch.cat([part.images for part in parts(probe)])
    labels = torch.cat([part.labels for part in parts(probe)])
    for label, name in enumerate(("cat", "dog")):
        wanted, usual = (
            pixels_to_bytes(torch.from_numpy(load_image(tmp_path / name / "x.png", 16, **how)))
            for how in (rule, {})
        )
        assert not torch.equal(wanted, usual)
        assert torch.equal(found[labels == label][0], wanted)


def test_the_digest_of_a_class_list_depends_on_names_and_order():
    digests = {class_list_digest(names) for names in (["a", "b"], ["b", "a"], ["ab"], ["a"])}
    assert len(digests) == 4
