"""Images that somebody has, wherever they lie: what each is called, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
UNREAD_SUFFIXES = {".avif", ".heic", ".heif", ".jp2", ".jxl"}
"""Images whose decoders are not used; they are counted."""
Told = Literal["name", "index", "caption", "nothing"]
"""What is said of an image: its class by name, by its place in the class list, or a sentence."""


class Item(NamedTuple):
    """One image.

    Attributes:
        said: class name, folder, index or caption, as `Items.told` says; empty if nothing is.
        read: gives the file, or the bytes of it.
    """

    said: str
    read: Callable[[], Path | bytes]


@dataclass(frozen=True, eq=False, kw_only=True)
class Items:
    """All images of a source.

    Attributes:
        items: in an order that does not depend on the machine.
        told: what is said of them.
        names: the class list that came with them, if one did.
        warnings: what was left out.
    """

    items: tuple[Item, ...]
    told: Told
    names: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
