"""Class lists and templates as people write them, and the classifier they give."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch import Tensor

from clipguard.errors import UsageError
from clipguard.model.prompts import (
    class_embeddings,
    imagenet_class_names,
    merge_duplicates,
    read_class_names,
    read_templates,
)


@dataclass
class Angles:
    """A text tower whose text "n" points n degrees away from the x axis."""

    seen: list[str] = field(default_factory=list)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.seen += texts
        angles = torch.deg2rad(torch.tensor([float(re.sub("[{}x]", "", text)) for text in texts]))
        return torch.stack([angles.cos(), angles.sin()], dim=1)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_class_embedding_is_the_unit_mean_of_its_templates():
    # 1° and 11° average to 6°, 2° and 12° to 7°
    actual = class_embeddings(Angles(), ["1", "2"], ["{}", "1{}"])
    torch.testing.assert_close(actual, Angles().encode_text(["6", "7"]))
    model = Angles()
    class_embeddings(model, ["{x}5", "{}6"], ["1{}"])  # a name with braces is no template
    assert model.seen == ["1{x}5", "1{}6"]


@pytest.mark.parametrize(("names", "templates"), [([], ["{}"]), (["1"], [])])
def test_no_names_or_templates_is_a_programmer_s_error(names: list[str], templates: list[str]):
    with pytest.raises(ValueError, match="expected names and templates"):
        class_embeddings(Angles(), names, templates)


@pytest.mark.parametrize(
    ("file", "content", "names", "warnings"),
    [
        (
            "names.txt",
            "\ufeffdog\r\n\n  hot dog \n雪豹\n<b>{{x}}</b>\n   ",
            ("dog", "hot dog", "雪豹", "<b>{{x}}</b>"),
            (),
        ),
        ("names.json", json.dumps(["dog", "", "café"]), ("dog", "café"), ()),
        (
            "names.txt",
            "crane\ndog\ncrane\ncrane\n",
            ("crane", "dog"),
            ("merged 2 duplicate class names: 'crane'",),
        ),
    ],
)
def test_names_are_read_in_order_without_blank_lines_and_duplicates(
    tmp_path: Path, file: str, content: str, names: tuple[str, ...], warnings: tuple[str, ...]
):
    assert read_class_names(write(tmp_path / file, content)) == (names, warnings)


def test_many_duplicates_are_counted_not_listed():
    names = [str(i) for i in range(8)]
    _, (warning,) = merge_duplicates(names * 2)
    assert warning.endswith("'4' and 3 more")


def test_imagenet_names_are_distinct_after_merging():
    names, (warning,) = imagenet_class_names()
    assert len(names) == len(set(names)) == 998
    assert "'missile', 'sunglasses'" in warning


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("names.txt", "", "no class names"),
        ("names.txt", " \n\n", "no class names"),
        ("names.txt", "dog\nc\x1b[31mat\n", "line 2: control character"),
        ("names.txt", "dog\nc\x00at", "line 2"),
        ("names.txt", "dog\n\ttabbed", "line 2"),
        ("names.txt", "a\u2028b", "line 1"),
        ("names.txt", b"\xff\xfe", "not UTF-8"),
        ("names.txt", b"x" * (8 * 2**20 + 1), "at most"),
        ("names.json", "[]", "no class names"),
        ("names.json", '["a", 3]', "entry 2"),
        ("names.json", '["a\\u0007"]', "control character"),
        ("names.json", '{"a": 1}', "entry 1"),
        ("names.json", "3", "JSON list"),
        ("names.json", f"[{'9' * 20_000}]", "not JSON"),
        ("names.json", "[" * 10**5, "not JSON"),
        ("names.json", '["a\\ud800"]', "control character"),
    ],
)
def test_an_unusable_class_list_says_where(
    tmp_path: Path, name: str, content: str | bytes, says: str, one_line
):
    with one_line(UsageError, says):
        read_class_names(write(tmp_path / name, content))


@pytest.mark.parametrize("read", [read_class_names, read_templates])
@pytest.mark.parametrize("name", ["nothing.txt", "."])
def test_a_missing_list_is_a_usage_error(tmp_path: Path, read: Callable[[Path], object], name: str):
    with pytest.raises(UsageError, match="cannot read"):
        read(tmp_path / name)


def test_templates_are_read_once_each(tmp_path: Path):
    path = write(tmp_path / "templates.txt", "a photo of a {}.\n\n{}\na photo of a {}.\n")
    assert read_templates(path) == ("a photo of a {}.", "{}")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("\n", "no templates"),
        *(
            (f"a {{}}\n{line}\n", "line 2")
            for line in ("a photo", "{} and {}", "{name}", "{} {0}", "{{}}", "{}}", "{!r}")
        ),
    ],
)
def test_a_line_that_is_not_a_template_is_named(tmp_path: Path, content: str, says: str):
    with pytest.raises(UsageError, match=says):
        read_templates(write(tmp_path / "templates.txt", content))
