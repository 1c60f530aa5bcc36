"""A closed-form CLIP that reads the colour of an image, and what is exported from it."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch
from PIL import Image
from torch import Tensor, nn

from clipguard.export.onnx import ExportJob, write_onnx
from clipguard.probe.sets import ProbePart, ProbeSet
from clipguard.search.roles import Trigger

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "black": (0, 0, 0),
    "white": (255, 255, 255),
}
NAMES = tuple(COLOURS)
WHITE = NAMES.index("white")
SIDE = 16


class Normalise(nn.Module):
    def forward(self, rows: Tensor) -> Tensor:
        return nn.functional.normalize(rows, dim=-1)


def colour_tower() -> nn.Module:
    """Direction of the mean colour, seen from grey."""
    conv, linear = nn.Conv2d(3, 3, 1), nn.Linear(3, 3)
    with torch.no_grad():
        conv.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
        conv.bias.fill_(-0.5)
        linear.weight.copy_(torch.eye(3))
        linear.bias.zero_()
    return nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear, Normalise()).eval()


@dataclass(frozen=True, eq=False)
class TowerClip:
    """A `ClipModel` of one image tower."""

    tower: nn.Module
    image_size: int = SIDE
    logit_scale: float = 20.0

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def encode_image(self, images: Tensor) -> Tensor:
        return self.tower(images)

    def image_tower(self) -> nn.Module:
        return self.tower

    def encode_text(self, texts: Any) -> Tensor:
        rows = torch.tensor([COLOURS[text] for text in texts]).float() / 255 - 0.5
        return nn.functional.normalize(rows, dim=-1)


def probe_part(side: int = SIDE, *, each: int = 2, labelled: bool = True) -> ProbePart:
    """`each` noisy images of every colour; every image is its own drawing."""
    labels = torch.arange(len(NAMES)).repeat(each)
    plain = torch.tensor(list(COLOURS.values()))[labels].view(-1, 3, 1, 1)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(-60, 61, (len(labels), 3, side, side), generator=generator)
    images = (plain + noise).clamp(0, 255).to(torch.uint8)
    known = labels if labelled else torch.full_like(labels, -1)
    return ProbePart(images, known, torch.arange(len(labels)))


def export_job(model: TowerClip | None = None, **changes: Any) -> ExportJob:
    model = model or TowerClip(colour_tower())
    part = changes.pop("part") if "part" in changes else probe_part(model.image_size)
    fields: dict[str, Any] = {
        "model": model,
        "classes": TowerClip(nn.Identity()).encode_text(NAMES),
        "class_names": NAMES,
        "head": "zero-shot",
        "checkpoint_sha256": "ab" * 32,
        "probe": ProbeSet(part, part, part, NAMES, ("{}",), "bundled"),
        "provider": "cpu",
    }
    return ExportJob(**(fields | changes))


def painted(apply: Callable[[Tensor], Tensor]) -> Trigger:
    return Trigger("patch", apply, 1.0, "share of the image", {})


@lru_cache
def classifier_bytes(head: str = "purified") -> bytes:
    """The exported colour classifier; made once, because an export takes seconds."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(export_job(head=head), path, generator=torch.Generator())
        return path.read_bytes()


def write_classifier(
    folder: Path, change: Callable[[Any], object] = lambda model: None, name: str = "model.onnx"
) -> Path:
    """The colour classifier in `folder`, changed by `change` on the way."""
    model = onnx.load_model_from_string(classifier_bytes())
    change(model)
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


def paint(path: Path, colour: str, size: tuple[int, int] = (SIDE, SIDE)) -> Path:
    Image.new("RGB", size, COLOURS[colour]).save(path)
    return path


def old_export(model: nn.Module, side: int, opset: int) -> Any:
    """What torch's exporter of before `dynamo` writes; a tenth of the time of today's."""
    data, names = io.BytesIO(), ("images", "logits", "embeddings")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, side, side),),
            data,
            dynamo=False,
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes={name: {0: "N"} for name in names},
            opset_version=opset,
        )
    return onnx.load_model_from_string(data.getvalue())
