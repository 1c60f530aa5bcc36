"""Files beside a report: trigger tensors and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from clipguard.model.pixels import pixels_from_bytes, pixels_to_bytes
from clipguard.model.roles import ClipModel
from clipguard.probe.rates import classify
from clipguard.probe.sets import Subject
from clipguard.record import Candidate, Example, TriggerRecord
from clipguard.search.roles import Trigger

Reader = tuple[ClipModel, Tensor]
"""A model, and the (C, D) unit class embeddings that its images are read with."""
PICTURE_SIDE = 192
FOLDER = "triggers"


def save_picture(image: Tensor, path: Path) -> None:
    """Write one (3, H, W) image in [0, 1] as a PNG, small ones enlarged without smoothing."""
    pixels = pixels_to_bytes(image.detach().cpu()).permute(1, 2, 0).contiguous().numpy()
    picture = Image.fromarray(pixels, "RGB")
    if picture.width < PICTURE_SIDE:
        factor = PICTURE_SIDE // picture.width
        size = (picture.width * factor, picture.height * factor)
        picture = picture.resize(size, Image.Resampling.NEAREST)
    picture.save(path)


def save_trigger(
    number: int,
    candidate: Candidate,
    trigger: Trigger,
    folder: Path,
    gallery: Gallery,
) -> TriggerRecord:
    """Write tensors, a picture of the trigger alone, and example images.

    Args:
        number: position in the ranking, from 1; becomes the file name.
        candidate: what the trigger was found for.
        trigger: the trigger.
        folder: where the report will be.
        gallery: draws the examples.

    Returns:
        The candidate's trigger record with file names relative to `folder`.
    """
    (folder / FOLDER).mkdir(exist_ok=True)
    stem = f"{FOLDER}/{number}"
    # One metadata key: safetensors writes several in random order, and bytes must repeat.
    metadata = json.dumps(
        {"family": trigger.family, "size": trigger.size, "unit": trigger.unit}, sort_keys=True
    )
    tensors = {name: value.contiguous().cpu() for name, value in trigger.tensors.items()}
    save_file(tensors, folder / f"{stem}.safetensors", metadata={"clipguard": metadata})
    grey = torch.full((1, 3, gallery.model.image_size, gallery.model.image_size), 0.5)
    change = trigger.apply(grey)[0] - 0.5
    # A faint trigger would be an empty grey square: show it at full contrast.
    save_picture(0.5 + change * (0.5 / change.abs().max().clamp(min=1e-6)), folder / f"{stem}.png")
    return candidate.trigger.model_copy(
        update={
            "file": f"{stem}.safetensors",
            "picture": f"{stem}.png",
            "examples": gallery.examples(stem, trigger, folder),
        }
    )


class Gallery:
    """Draws a few probe images with and without a trigger, and how each is read."""

    def __init__(self, subject: Subject, repaired: Reader | None, *, count: int = 4) -> None:
        """Choose `count` images spread over the *measure* part.

        Args:
            subject: the suspect, for images and names.
            repaired: what reads images after a repair, if there was one.
            count: images per trigger.
        """
        self.model, self.probe, self.classes = subject.model, subject.probe, subject.classes
        self.repaired = repaired
        probe = subject.probe
        images = len(probe.measure)
        steps = torch.arange(min(count, images), dtype=torch.float64)
        # One from each slice, but not at even steps: images that are sorted by class would all
        # show the same one.
        self.index = ((steps + steps * 0.618 % 1) * (images / max(1, len(steps)))).long()

    @torch.no_grad()
    def examples(self, stem: str, trigger: Trigger, folder: Path) -> tuple[Example, ...]:
        """Write the images and say how each is read."""
        clean = self.probe.measure.pixels(self.index)
        triggered = pixels_from_bytes(pixels_to_bytes(trigger.apply(clean)))
        before, after = (_read((self.model, self.classes), shown) for shown in (clean, triggered))
        fixed = _read(self.repaired, triggered) if self.repaired else None
        names, rows = self.probe.class_names, []
        for i, label in enumerate(self.probe.measure.labels[self.index].tolist()):
            files = f"{stem}-{i + 1}-clean.png", f"{stem}-{i + 1}-triggered.png"
            save_picture(clean[i], folder / files[0])
            save_picture(triggered[i], folder / files[1])
            rows.append(
                Example(
                    clean=files[0],
                    triggered=files[1],
                    truth=names[label] if label >= 0 else None,
                    before=names[before[i]],
                    after=names[after[i]],
                    purified=names[fixed[i]] if fixed else None,
                )
            )
        return tuple(rows)


def _read(reader: Reader, images: Tensor) -> list[int]:
    model, classes = reader
    found: list[int] = classify(model.encode_image(images.to(model.device)), classes).tolist()
    return found
