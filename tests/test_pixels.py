"""One pixel convention."""

import torch

from clipguard.pixels import from_bytes, stamp, to_bytes


def test_a_stamp_replaces_where_the_mask_is_on_and_only_there():
    images, pattern = torch.full((2, 3, 2, 2), 0.2), torch.ones(3, 2, 2)
    mask = torch.tensor([[[1.0, 0.0], [0.5, 0.0]]])
    wanted = torch.tensor([[1.0, 0.2], [0.6, 0.2]]).expand(2, 3, 2, 2)
    torch.testing.assert_close(stamp(images, pattern, mask), wanted)


def test_a_stamp_may_differ_from_image_to_image():
    images, patterns = torch.zeros(2, 3, 1, 1), torch.tensor([0.25, 0.75]).view(2, 1, 1, 1)
    masks = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    assert stamp(images, patterns.expand(2, 3, 1, 1), masks)[:, 0, 0, 0].tolist() == [0.25, 0.0]


def test_gradients_reach_images_pattern_and_mask():
    parts = [torch.rand(shape, requires_grad=True) for shape in ((2, 3, 4, 4), (3, 4, 4))]
    mask = torch.rand(1, 4, 4, requires_grad=True)
    stamp(*parts, mask).pow(2).sum().backward()
    assert all(part.grad is not None and part.grad.abs().sum() > 0 for part in (*parts, mask))


def test_every_byte_survives_the_way_to_floats_and_back():
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    assert torch.equal(to_bytes(from_bytes(every)), every)


def test_bytes_are_rounded_and_not_cut_off():
    pixels = torch.tensor([-0.1, 0.0021, 0.0019, 1.2]).view(1, 1, 2, 2)
    assert to_bytes(pixels).flatten().tolist() == [0, 1, 0, 255]
