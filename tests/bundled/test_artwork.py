"""Bundled drawings and the scenes composed from them."""

import pytest
import torch
from fakes import generator

from clipguard.bundled.artwork import HELD_OUT_STYLES, SEEN_STYLES, Artwork, compose, load_artwork
from clipguard.bundled.nano import class_names


@pytest.fixture(scope="module")
def seen() -> Artwork:
    return load_artwork()


def test_every_concept_is_drawn_in_every_style_and_each_drawing_differs(seen: Artwork):
    held_out = load_artwork(held_out=True)
    assert (seen.styles, held_out.styles) == (SEEN_STYLES, HELD_OUT_STYLES)
    assert seen.names == held_out.names
    for artwork in (seen, held_out):
        shape = (len(artwork.styles), len(artwork.names), 4, 64, 64)
        assert artwork.sprites.shape == shape
        opacity = artwork.sprites[:, :, 3].flatten(2).float().mean(dim=2)
        assert opacity.min() > 1, "a drawing is empty"
    for style in seen.sprites:
        assert len(style.flatten(1).unique(dim=0)) == len(seen.names)
        assert not (style == held_out.sprites[0]).flatten(1).all(dim=1).any()


def test_colours_are_premultiplied_by_opacity(seen: Artwork):
    colour, opacity = seen.sprites[:, :, :3].int(), seen.sprites[:, :, 3:].int()
    assert (colour <= opacity + 1).all()


def test_every_bundled_class_has_a_drawing_of_its_own(seen: Artwork):
    concepts = seen.concepts(class_names())
    assert len(set(concepts)) == 100
    assert [seen.names[i][0] for i in concepts] == list(class_names())
    with pytest.raises(ValueError, match="spaceship of theseus"):
        seen.concepts(["banana", "spaceship of theseus"])


@pytest.mark.parametrize("side", [16, 96])
def test_a_scene_holds_8_bit_pixels_in_range_at_any_size(seen: Artwork, side: int):
    scenes = compose(seen.sprites[0, :6], side=side, generator=generator())
    assert scenes.shape == (6, 3, side, side)
    assert torch.equal(scenes, ((scenes * 255).round() / 255).clamp(0, 1))


def test_the_generator_alone_draws_scenes_that_vary_in_place_and_background(seen: Artwork):
    before = torch.get_rng_state()
    sprites = seen.sprites[0, :1].expand(20, -1, -1, -1)
    first, same, other = (
        compose(sprites, side=32, generator=generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert first.std(dim=0).mean() > 0.1
    assert torch.equal(torch.get_rng_state(), before)


def test_the_drawing_shows_on_its_scene(seen: Artwork):
    drawn = seen.sprites[0, :8]
    with_it, without = (
        compose(sprites, side=64, generator=generator()) for sprites in (drawn, drawn * 0)
    )
    changed = ((with_it - without).abs().amax(dim=1) > 0.02).float().mean(dim=(1, 2))
    assert 0.03 < changed.min() <= changed.max() < 1
