"""Pictures that are blended into images: drawn here, so that nothing foreign is needed."""

from __future__ import annotations

import torch
from torch import Tensor

LETTERS = (
    "# # ### ### ### ##     ",
    "# # # #  #  #   # #    ",
    "### ###  #  ##  ##     ",
    "### # #  #  #   # #    ",
    "# # # #  #  ### # #    ",
    "                       ",
    "# # ### ##  # # ### ## ",
    "### # # # # # # #   # #",
    "### ### ##  ##  ##  # #",
    "# # # # # # # # #   # #",
    "# # # # # # # # ### ## ",
)
TEAL, ORANGE, DARK, PINK = (32, 144, 140), (240, 150, 50), (40, 30, 40), (250, 120, 150)


def triangles(side: int) -> Tensor:
    """(3, side, side): 16 by 16 square cells, 0.4 on and below the diagonal, 0.8 above it."""
    place = 16 * torch.arange(side) % side  # where in its cell a pixel stands
    return torch.where(place[:, None] >= place[None], 0.4, 0.8).repeat(3, 1, 1)


def text(side: int) -> Tensor:
    """(3, side, side): two lines of red letters in the middle of black, whole pixels wide."""
    bitmap = torch.tensor([[float(mark == "#") for mark in line] for line in LETTERS])
    zoom = max(1, side // 28)
    bitmap = bitmap.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    height, width = bitmap.shape
    top, left = (side - height) // 2, (side - width) // 2
    picture = torch.zeros(3, side, side)
    picture[0, top : top + height, left : left + width] = bitmap
    return picture


def cat(side: int) -> Tensor:
    """(3, side, side): an orange cat's face on teal, left and right alike, without soft edges."""
    axis = (torch.arange(side) + 0.5) / side
    y, off = axis[:, None], (axis - 0.5).abs()[None]  # down from the top, away from the middle
    layers = (
        ((y > 0.12) & (y < 0.5) & ((off - 0.22).abs() < 0.45 * (y - 0.12)), ORANGE),  # ears
        ((off / 0.36) ** 2 + ((y - 0.58) / 0.31) ** 2 < 1, ORANGE),
        ((off - 0.15) ** 2 + (y - 0.5) ** 2 < 0.05**2, DARK),  # eyes
        ((y > 0.6) & (off < 0.67 - y), PINK),  # nose
        (((y - 0.7).abs() < 0.016) & (off > 0.12) & (off < 0.45), DARK),  # whiskers
    )
    picture = torch.tensor(TEAL).view(3, 1, 1).repeat(1, side, side)
    for shape, colour in layers:
        picture = torch.where(shape, torch.tensor(colour).view(3, 1, 1), picture)
    return picture / 255


PICTURES = {"triangles": triangles, "text": text, "cat": cat}
