"""Bundled drawings and the scenes composed from them: labelled images without limit.

A drawing is one concept in one style. A scene is a drawing, randomly placed on a random
background under random light; two scenes of one drawing are not independent, so intervals over
scenes resample drawings (`stats.cluster_bootstrap`).
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.functional import pil_to_tensor

from clipguard.resources import asset

SEEN_STYLES = ("noto", "twemoji", "fluent")
HELD_OUT_STYLES = ("openmoji",)
SIDE = 64
COLUMNS = 32

AT_ONCE = 32
"""Scenes that are rendered together."""


@dataclass(frozen=True, eq=False)
class Artwork:
    """Drawings of the same concepts in several styles.

    Attributes:
        sprites: (styles, concepts, 4, 64, 64) uint8, colour premultiplied by opacity.
        styles: name of each style.
        names: the names of each concept, the usual one first.
    """

    sprites: Tensor
    styles: tuple[str, ...]
    names: tuple[tuple[str, ...], ...]

    def concepts(self, class_names: Sequence[str]) -> list[int]:
        """Index of the concept whose usual name is each of `class_names`.

        Raises:
            ValueError: a name that no drawing has.
        """
        known = {names[0]: i for i, names in enumerate(self.names)}
        missing = [name for name in class_names if name not in known]
        if missing:
            raise ValueError(f"no bundled drawing is named {missing[0]!r}")
        return [known[name] for name in class_names]


@lru_cache(maxsize=2)
def load_artwork(held_out: bool = False) -> Artwork:
    """The bundled drawings: the three styles of training, or the held-out style alone."""
    file = "artwork-openmoji.zip" if held_out else "artwork.zip"
    styles = HELD_OUT_STYLES if held_out else SEEN_STYLES
    with zipfile.ZipFile(asset(file)) as archive:
        index = json.loads(archive.read("index.json"))
        sheets = [Image.open(io.BytesIO(archive.read(f"{style}.webp"))) for style in styles]
        sprites = torch.stack([_cells(sheet, len(index)) for sheet in sheets])
    return Artwork(sprites, styles, tuple(tuple(row["names"]) for row in index))


def _cells(sheet: Image.Image, count: int) -> Tensor:
    pixels: Tensor = pil_to_tensor(sheet.convert("RGBA").convert("RGBa"))
    rows = pixels.shape[1] // SIDE
    grid = pixels.view(4, rows, SIDE, COLUMNS, SIDE).permute(1, 3, 0, 2, 4)
    return grid.reshape(-1, 4, SIDE, SIDE)[:count].contiguous()


def compose(sprites: Tensor, *, side: int, generator: torch.Generator) -> Tensor:
    """Compose one scene from each drawing.

    Args:
        sprites: (B, 4, 64, 64) uint8, premultiplied.
        side: S, side of the images to make, in pixels.
        generator: draws place, size, turn, flip, background and light.

    Returns:
        (B, 3, S, S) in [0, 1], on the 8-bit grid that a file would hold.
    """
    count = len(sprites)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    angle, size = uniform(-0.35, 0.35), uniform(0.65, 1.0)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    shift = uniform(-0.18, 0.18, 2)
    cos, sin = angle.cos() / size, angle.sin() / size
    theta = torch.stack(
        [
            torch.stack([cos * flip, sin, -shift[:, 0] / size], dim=1),
            torch.stack([-sin * flip, cos, -shift[:, 1] / size], dim=1),
        ],
        dim=1,
    )
    ends, direction = uniform(0, 1, 2, 3), uniform(0, 6.2832)
    clouds = uniform(-0.15, 0.15, 3, 5, 5)
    gain = uniform(0.8, 1.2, 1, 1, 1) * uniform(0.93, 1.07, 3, 1, 1)
    light = uniform(-0.06, 0.06, 1, 1, 1)
    made = torch.empty(count, 3, side, side)
    for start in range(0, count, AT_ONCE):  # a few at a time, or large images take gigabytes
        i = slice(start, start + AT_ONCE)
        layer = _placed(sprites[i], theta[i], side)
        scene = layer[:, :3] + (1 - layer[:, 3:]) * _ground(ends[i], direction[i], clouds[i], side)
        made[i] = ((scene * gain[i] + light[i]).clamp(0, 1) * 255).round() / 255
    return made


def _placed(sprites: Tensor, theta: Tensor, side: int) -> Tensor:
    """(B, 4, S, S): each drawing at its place."""
    grid = functional.affine_grid(theta, [len(sprites), 4, side, side], align_corners=False)
    return functional.grid_sample(sprites.float() / 255, grid, align_corners=False)


def _ground(ends: Tensor, direction: Tensor, clouds: Tensor, side: int) -> Tensor:
    """(B, 3, S, S): a ramp from one colour to another, with clouds."""
    axis = torch.linspace(-1, 1, side)
    ramp = axis.view(1, 1, -1) * direction.cos().view(-1, 1, 1)
    ramp = (ramp + axis.view(1, -1, 1) * direction.sin().view(-1, 1, 1)).clamp(-1, 1) / 2 + 0.5
    near, far = ends[:, 0, :, None, None], ends[:, 1, :, None, None]
    ground = near + (far - near) * ramp[:, None]
    return ground + functional.interpolate(clouds, size=(side, side), mode="bicubic")
