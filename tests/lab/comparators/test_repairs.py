"""Repairs of the literature, on the bundled models with a few images and steps."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from fakes import generator, no_progress, sealed
from open_clip.model import CLIP
from torch import Tensor, nn

from clipguard.bundled.nano import nano_network
from clipguard.errors import InconclusiveError
from clipguard.lab.comparators.repairs import REPAIRS
from clipguard.lab.comparators.repairs._role import Patient
from clipguard.lab.comparators.repairs._training import train, watched
from clipguard.lab.comparators.repairs.cleanclip import augmented, edited
from clipguard.lab.comparators.repairs.invertune import far
from clipguard.lab.comparators.repairs.par import roughened
from clipguard.lab.comparators.repairs.tbar import SCALES
from clipguard.model.nano import nano_model
from clipguard.probe.load import Scenes, bundled_probe
from clipguard.probe.rates import classify
from clipguard.probe.sets import ProbeSet, Subject
from clipguard.purify.realign import Backdoor
from clipguard.search.families.additive import Additive

FEW = {"steps": 1, "batch": 4}


@cache
def images() -> ProbeSet:
    return bundled_probe(64, Scenes(optimise=1, select=1, measure=1), seed=3)


def patient(base: str = "nano-rn", reference: CLIP | None = None) -> Patient:
    network, family = nano_network(base), Additive()
    model = nano_model(network, base)
    trigger = family.trigger(family.start(64, generator=generator()), 1.0)
    subject = Subject(model, sealed(images(), "measure"))
    return Patient(network, subject, Backdoor([trigger], 36), reference)


def repaired(name: str, one: Patient, **settings: object) -> Tensor | None:
    method = REPAIRS.build(name, settings)
    return method.repair(one, generator=generator(), progress=no_progress)


def moved(one: CLIP, prefix: str, base: str = "nano-rn") -> bool:
    """Whether any weight whose name begins with `prefix` differs from the bundled ones."""
    before = nano_network(base).state_dict()
    after = {key: value for key, value in one.state_dict().items() if key.startswith(prefix)}
    return any(not torch.equal(value, before[key]) for key, value in after.items())


@pytest.mark.parametrize("name", ["cleanclip", "par"])
def test_training_on_pairs_moves_both_towers_and_no_statistics(name: str):
    one = patient()
    assert repaired(name, one, **FEW) is None
    assert moved(one.network, "visual.conv1")
    assert moved(one.network, "transformer")
    assert not moved(one.network, "visual.bn1.running_mean")
    assert not any(weight.requires_grad for weight in one.network.parameters())


def test_training_descends_freezes_again_and_decays_matrices_only():
    part, told = nn.Linear(2, 1), []
    with torch.no_grad():
        part.weight.fill_(1.0)
        part.bias.fill_(1.0)
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.0]])

    def loss(step: int) -> Tensor:
        told.append(step)
        return (part(rows) - torch.tensor([[3.0], [1.0]])).square().sum()

    train(part, loss, steps=60, learning_rate=0.2, weight_decay=1.0, progress=no_progress)
    assert told == list(range(60))
    assert loss(60).item() < 0.5
    assert part.weight[0, 1].item() < 0.1  # nothing but the decay moves it
    assert not part.weight.requires_grad


def test_interpolation_takes_the_mean_of_all_weights_and_wants_a_base():
    base = nano_network("nano-rn-1")
    one = patient(reference=base)
    assert repaired("interpolation", one, share=0.25) is None
    mine, theirs = nano_network("nano-rn").state_dict(), base.state_dict()
    for key in ("visual.conv1.weight", "text_projection"):
        wanted = 0.75 * mine[key] + 0.25 * theirs[key]
        torch.testing.assert_close(one.network.state_dict()[key], wanted)
    with pytest.raises(InconclusiveError):
        repaired("interpolation", patient())


def test_prompts_on_clean_images_leave_the_weights():
    one = patient()
    classes = repaired("coop", one, steps=2)
    assert classes is not None
    torch.testing.assert_close(classes.norm(dim=1), torch.ones(100))
    assert not torch.equal(classes, one.classes())
    assert not moved(one.network, "")


def test_tbar_subtracts_one_of_its_scales_of_what_learns_the_trigger():
    one = patient()
    before = {name: value.clone() for name, value in one.network.visual.named_parameters()}
    repaired("tbar", one, **FEW)
    key = "conv1.weight"
    change = before[key] - dict(one.network.visual.named_parameters())[key]
    # AdamW's first step, in its warm-up, moves a weight by the rate, up or down
    assert any(
        torch.isclose(change.abs().median(), torch.tensor(s * 1e-3), rtol=0.1) for s in SCALES
    )
    assert not moved(one.network, "transformer")


def test_invertune_moves_the_image_tower_of_a_resnet_only():
    one = patient()
    repaired("invertune", one, **FEW)
    assert moved(one.network, "visual.layer1")
    assert not moved(one.network, "transformer")
    with pytest.raises(InconclusiveError):
        repaired("invertune", patient("nano-vit"))


def test_two_clusters_of_numbers():
    values = torch.tensor([[0.1, 0.2, 5.0], [0.0, 4.0, 0.3]])
    assert far(values).tolist() == [[0, 0, 1], [0, 1, 0]]


def test_augmentations_stay_pixels_and_leave_the_global_random_state():
    part, state = images().optimise.pixels(slice(0, 8)), torch.get_rng_state()
    draws = generator()
    for made in (augmented(part, draws), *(roughened(part, draws) for _ in range(8))):
        assert made.shape == part.shape
        assert made.min() >= 0
        assert made.max() <= 1
    assert not torch.equal(augmented(part, draws), part)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_edited_caption_has_no_new_word():
    draws, caption = generator(), "a photo of a small cactus"
    made = {edited(caption, draws) for _ in range(30)}
    assert len(made) > 5
    assert all(set(text.split()) <= set(caption.split()) for text in made)
    assert edited("cactus", draws) == "cactus"


@pytest.mark.parametrize("base", ["nano-rn", "nano-vit"])
def test_visual_prompts_leave_the_weights_and_push_features_away(base: str):
    shown, likeness = images().measure.pixels(slice(0, 8)), []
    part = images().select
    for repulsion in (0.0, 20.0):
        one = patient(base)
        before = one.subject.model.encode_image(shown).detach()
        assert repaired("rvpt", one, steps=12, batch=8, repulsion=repulsion) is None
        after = one.subject.model.encode_image(shown)
        likeness.append((before * after).sum(dim=1).mean().item())
        assert not moved(one.network, "", base)
        assert not after.requires_grad
        if not repulsion:  # then only the classes pull
            read = classify(one.subject.model.encode_image(part.pixels()), one.classes())
            assert (read == part.labels).float().mean() > 0.9
    assert likeness[1] < likeness[0] < 0.999
    hidden = replace(part, labels=torch.full_like(part.labels, -1))
    subject = replace(one.subject, probe=replace(one.subject.probe, select=hidden))
    for name in ("rvpt", "coop"):
        with pytest.raises(InconclusiveError, match="classes"):
            repaired(name, replace(one, subject=subject))


def test_prompts_are_taken_out_behind_their_layer_and_a_share_of_the_layers_has_none():
    one = patient("nano-vit")
    blocks = list(one.network.visual.transformer.resblocks)
    repaired("rvpt", one, **FEW, shallow=0.5, tokens=3)
    with watched(blocks) as seen:
        one.subject.model.encode_image(images().measure.pixels(slice(0, 2)))
    assert {output.shape for output in seen} == {(2, 65, 128)}
    assert [len(block._forward_pre_hooks) for block in blocks] == [0, 0, 1, 1]
