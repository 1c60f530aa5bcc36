"""The model wrapper must compute exactly what open_clip computes, from raw pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import open_clip
import pytest
import torch
from tiny_clip import TINY, network, tiny_config, write_config
from torch import Tensor

from clipguard.checkpoint.architectures import Architecture
from clipguard.checkpoint.load import Checkpoint, load_checkpoint
from clipguard.errors import UsageError
from clipguard.model.network import with_a_copy
from clipguard.model.open_clip import OpenClipModel, build_model
from clipguard.model.roles import PromptTunable

CPU = torch.device("cpu")
CONFIG = tiny_config(vocab_size=49408)
EOS = {"vocab_size": 49408, "pool_type": "eos", "eos_id": 49407}
ROPE = "eva02_tiny_patch14_224"
NAMES = ["dog", "St. Bernard", "hot air balloon!", "café au lait", "snow\u2009leopard"]


def wrapped(folder: Path, config: dict[str, object], **preprocess: object) -> OpenClipModel:
    torch.save(network(config).state_dict(), folder / "model.pt")
    write_config(folder / "open_clip_config.json", config, **preprocess)
    return build_model(load_checkpoint(folder), CPU)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> OpenClipModel:
    return wrapped(tmp_path_factory.mktemp("tiny"), CONFIG)


@pytest.mark.parametrize(
    ("config", "shared"),
    [
        (CONFIG, True),
        (tiny_config(**EOS), True),
        ({**CONFIG, "custom_text": True}, True),
        ({**tiny_config(vocab_size=49408, no_causal_mask=True), "custom_text": True}, True),
        ({**CONFIG, "vision_cfg": {"timm_model_name": "test_vit", "image_size": 160}}, True),
        ({**CONFIG, "vision_cfg": {"timm_model_name": ROPE, "image_size": 224}}, False),
    ],
    ids=["clip", "eos", "custom", "not causal", "timm", "rope"],
)
def test_a_network_around_the_checkpoints_own_tensors_is_the_one_that_is_built(
    config: dict[str, Any], shared: bool, tmp_path: Path
):
    made = network(config)
    state, side = made.state_dict(), config["vision_cfg"]["image_size"]
    checkpoint = Checkpoint(Mock(), dict(state), Architecture("tiny", config))
    built, copied = build_model(checkpoint, CPU)._network, with_a_copy(checkpoint)
    assert built.state_dict().keys() == copied.state_dict().keys()
    others = dict(copied.named_buffers())
    for name, buffer in built.named_buffers():
        assert torch.equal(buffer, others[name]), name
    assert (built.logit_scale.data_ptr() == state["logit_scale"].data_ptr()) is shared
    pixels, texts = torch.rand(2, 3, side, side), tokens(NAMES)
    for one, other in zip(built(pixels, texts), made(pixels, texts), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def tokens(texts: list[str]) -> Tensor:
    return open_clip.SimpleTokenizer(context_length=16)(texts)


OWN = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
OPENAI = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}


VISION = {"image_size": 64, "layers": 1, "width": 32, "patch_size": 32, "head_width": 16}


@pytest.mark.parametrize(
    ("changes", "given", "used"),
    [({}, {}, OPENAI), ({}, OWN, OWN), ({"vision_cfg": VISION}, OWN, OWN)],
    ids=["usual", "own", "transformer"],
)
def test_images_are_encoded_as_open_clip_does_after_the_right_normalisation(
    changes: dict[str, object],
    given: dict[str, object],
    used: dict[str, object],
    tmp_path: Path,
    images: Tensor,
):
    config = {**CONFIG, **changes}
    model, plain = wrapped(tmp_path, config, **given), network(config)
    mean, std = (torch.tensor(used[key]).view(3, 1, 1) for key in ("mean", "std"))
    expected = plain.encode_image((images - mean) / std, normalize=True)
    torch.testing.assert_close(model.encode_image(images), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(model.image_tower()(images), expected, atol=1e-5, rtol=0)
    assert (expected[0] - expected[1]).norm() > 1e-3  # or the comparison would say nothing


@pytest.mark.parametrize(
    "changes",
    [{}, {"custom_text": True}, {"custom_text": True, "text_cfg": tiny_config(**EOS)["text_cfg"]}],
    ids=["built in", "separate", "with an end mark of its own"],
)
def test_text_cut_behind_its_last_end_mark_and_its_context_equal_uncut_text(
    changes: dict[str, object], tmp_path: Path
):
    config = {**CONFIG, **changes}
    model, plain = wrapped(tmp_path, config), network(config)
    texts = [f"a photo of a {name}." for name in NAMES] + ["", "word " * 40, "a <end_of_text> b"]
    expected = plain.encode_text(tokens(texts), normalize=True)
    torch.testing.assert_close(model.encode_text(texts), expected, atol=1e-5, rtol=0)
    context = model.embed_tokens("a photo of a").expand(len(NAMES), -1, -1)
    actual = model.encode_context(context, NAMES)
    torch.testing.assert_close(actual, expected[: len(NAMES)], atol=1e-5, rtol=0)


def test_long_lists_are_encoded_in_batches_with_the_same_result(model: OpenClipModel):
    texts = [f"thing number {i}" for i in range(300)]
    one_by_one = torch.cat([model.encode_text(texts[i : i + 50]) for i in range(0, 300, 50)])
    torch.testing.assert_close(model.encode_text(texts), one_by_one, atol=1e-5, rtol=0)
    assert not one_by_one.requires_grad


def test_tokens_are_read_as_the_text_that_they_stand_for(model: OpenClipModel):
    text = "a hot-air balloon!"
    ids = model.token_ids(text)
    assert model.text_of(ids) == "a hot - air balloon ! "
    expected = model.encode_text([text])
    encoded = model.encode_ids(torch.tensor([ids] * 300))
    torch.testing.assert_close(encoded, expected.expand(300, -1), atol=1e-5, rtol=0)
    assert not encoded.requires_grad
    assert torch.equal(model.vocabulary(), torch.arange(49406))
    with pytest.raises(UsageError, match="got 15 tokens"):
        model.encode_ids(torch.ones(2, 15, dtype=torch.long))


def test_gradients_reach_images_and_context_but_no_weight(model: OpenClipModel, images: Tensor):
    images.requires_grad_()
    context = model.embed_tokens("a photo of a").repeat(2, 1, 1).requires_grad_()
    score = model.encode_image(images) @ model.encode_context(context, ["dog", "cat"]).T
    score[:, 0].sum().backward()
    assert images.grad.abs().sum() > 1e-3
    assert context.grad[0].abs().sum() > 0
    assert all(p.grad is None and not p.requires_grad for p in model.image_tower().parameters())
    assert not any(module.training for module in model.image_tower().modules())


def test_each_class_is_read_with_its_own_context_and_a_name_that_does_not_fit_is_named(
    model: OpenClipModel,
):
    context = torch.stack([model.embed_tokens("a photo of a"), model.embed_tokens("a bad old big")])
    longest = "one two three four five six seven eight nine"
    expected = model.encode_text(["a photo of a dog.", f"a bad old big {longest}."])
    actual = model.encode_context(context, ["dog", longest])
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    with pytest.raises(UsageError, match=r"'one two .*at most 10 fit"):
        model.encode_context(context, ["dog", f"{longest} ten"])


def test_shapes_that_do_not_fit_are_a_programmer_s_error(model: OpenClipModel, images: Tensor):
    with pytest.raises(ValueError, match=r"\(B, 3, 64, 64\)"):
        model.encode_image(images[..., :32])
    with pytest.raises(ValueError, match=r"\(2, K, E\)"):
        model.encode_context(torch.zeros(1, 4, 32), ["dog", "cat"])


@pytest.mark.parametrize(
    "config", [TINY, tiny_config(vocab_size=49408, hf_tokenizer_name="someone/something")]
)
def test_a_tokenizer_that_is_not_known_is_neither_guessed_nor_fetched(
    config: dict[str, object], tmp_path: Path
):
    with pytest.raises(UsageError, match="no tokenizer"):
        wrapped(tmp_path, config)


def test_a_model_states_what_it_is_and_leaves_the_global_random_state_alone(tmp_path: Path):
    before = torch.get_rng_state()
    model: PromptTunable = wrapped(tmp_path, CONFIG)
    model.encode_text(NAMES)
    model.encode_image(torch.zeros(1, 3, 64, 64))
    assert torch.equal(before, torch.get_rng_state())
    stated = (model.image_size, model.device, model.logit_scale)
    assert stated == (64, CPU, pytest.approx(1 / 0.07))


@pytest.mark.parametrize(
    "text",
    [
        {"no_causal_mask": True, "pool_type": "last"},
        {"pool_type": "last"},
        {"embed_cls": True},
        {"no_causal_mask": True},
    ],
)
def test_a_text_tower_that_reads_elsewhere_is_not_cut_and_takes_no_context(
    text: dict[str, object], tmp_path: Path
):
    config = {**tiny_config(vocab_size=49408, **text), "custom_text": True}
    model, plain = wrapped(tmp_path, config), network(config)
    expected = plain.encode_text(tokens(NAMES), normalize=True)
    torch.testing.assert_close(model.encode_text(NAMES), expected, atol=1e-5, rtol=0)
    with pytest.raises(UsageError, match="context"):
        model.encode_context(torch.zeros(1, 4, 32), ["dog"])
