"""One pixel convention."""

import torch
from fakes import generator

from clipguard.model.pixels import generators_of, pixels_from_bytes, pixels_to_bytes, stamp


def test_a_stamp_replaces_where_the_mask_is_on_and_only_there():
    images, pattern = torch.full((2, 3, 2, 2), 0.2), torch.ones(3, 2, 2)
    mask = torch.tensor([[[1.0, 0.0], [0.5, 0.0]]])
    wanted = torch.tensor([[1.0, 0.2], [0.6, 0.2]]).expand(2, 3, 2, 2)
    torch.testing.assert_close(stamp(images, pattern, mask), wanted)
    shades, masks = torch.tensor([[0.25, 0.75], [1.0, 0.0]]).view(2, 2, 1, 1, 1)
    each = stamp(torch.zeros(2, 3, 1, 1), shades.expand(2, 3, 1, 1), masks)
    assert each[:, 0, 0, 0].tolist() == [0.25, 0.0]


def test_gradients_reach_images_pattern_and_mask():
    shapes = ((2, 3, 4, 4), (3, 4, 4), (1, 4, 4))
    images, pattern, mask = parts = [torch.rand(shape, requires_grad=True) for shape in shapes]
    stamp(images, pattern, mask).pow(2).sum().backward()
    assert all(part.grad is not None and part.grad.abs().sum() > 0 for part in parts)


def test_every_byte_survives_the_way_to_floats_and_back_and_floats_are_rounded():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(pixels_to_bytes(pixels_from_bytes(every)), every)
    pixels = torch.tensor([-0.1, 0.0021, 0.0019, 1.2]).view(1, 1, 2, 2)
    assert pixels_to_bytes(pixels).flatten().tolist() == [0, 1, 0, 255]


def first_draws(images: torch.Tensor, seed: int = 0) -> list[float]:
    return [torch.rand(1, generator=source).item() for source in generators_of(images, seed)]


def test_a_source_per_image_depends_on_its_bytes_and_the_seed_and_on_nothing_else():
    images = torch.rand(5, 3, 4, 4, generator=generator())
    drawn = first_draws(images)
    assert len(set(drawn)) == 5
    assert first_draws(images.flip(0)) == drawn[::-1]
    assert first_draws(pixels_from_bytes(pixels_to_bytes(images))) == drawn
    assert not set(first_draws(images, seed=1)) & set(drawn)
    one_level = pixels_from_bytes(pixels_to_bytes(images))
    one_level[0, 0, 0, 0] = (one_level[0, 0, 0, 0] + 1 / 255) % 1
    again = first_draws(one_level)
    assert again[0] != drawn[0]
    assert again[1:] == drawn[1:]
