"""Shapes that fit two architectures: which one is taken, and what may pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from samples import judged, passing

from clipguard.audit.architecture import settled
from clipguard.audit.options import Options
from clipguard.audit.watch import Watch
from clipguard.bundled.nano import nano_network
from clipguard.checkpoint.architectures import Architecture, architecture_named
from clipguard.checkpoint.load import Checkpoint, load_checkpoint
from clipguard.detect.lineage import open_reference
from clipguard.policy.judge import load_policy
from clipguard.record import ArchitectureRecord, Decision, ToldBy

OPTIONS = Options(policy=load_policy("default"), device="cpu")
TRUE = architecture_named("nano-vit")


def rival(**vision: Any) -> Architecture:
    """The true architecture, with a change of its image tower that no shape shows."""
    config = {**TRUE.config, "vision_cfg": {**TRUE.config["vision_cfg"], **vision}}
    return Architecture("rival", config, TRUE.preprocess)


OTHER_HEADS = rival(head_width=128)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    path = tmp_path_factory.mktemp("vit") / "model.pt"
    torch.save(nano_network("nano-vit").state_dict(), path)
    return load_checkpoint(path)


def unclear(loaded: Checkpoint, first: Architecture, other: Architecture, by: ToldBy) -> Checkpoint:
    both = replace(loaded, architecture=other, rivals=(first,))
    return both.chosen(first, ArchitectureRecord(by=by, rivals=(other.name,)))


def settle(
    loaded: Checkpoint, reference: Checkpoint | None = None, budget_s: float | None = None
) -> tuple[str, ArchitectureRecord, bool]:
    """Name of the architecture, how it was told, and whether there is a note about it."""
    found = settled(loaded, reference, OPTIONS, 3, Watch(budget_s, lambda *_: None))
    choice = found.record.architecture_choice
    assert choice is not None
    assert found.record.architecture == found.architecture.name
    return found.architecture.name, choice, any("CG111" in note for note in found.record.notes)


@pytest.mark.parametrize("first", [TRUE, OTHER_HEADS])
def test_where_nothing_tells_it_the_images_do(loaded: Checkpoint, first: Architecture):
    other = OTHER_HEADS if first is TRUE else TRUE
    name, choice, noted = settle(unclear(loaded, first, other, "default"))
    assert (name, choice.by, choice.rivals, noted) == ("nano-vit", "images", ("rival",), False)
    assert choice.only_chosen > choice.only_rival + 10
    assert choice.images == 200


def test_equal_readers_leave_the_usual_one_with_a_note(loaded: Checkpoint):
    quick = Architecture("rival", {**TRUE.config, "quick_gelu": True}, TRUE.preprocess)
    name, choice, noted = settle(unclear(loaded, TRUE, quick, "default"))
    assert (name, choice.by, noted) == ("nano-vit", "default", True)


@pytest.mark.parametrize("by", ["--arch", "config"])
def test_what_the_user_says_counts_with_a_note_where_it_reads_worse(loaded: Checkpoint, by: ToldBy):
    name, choice, noted = settle(unclear(loaded, OTHER_HEADS, TRUE, by))
    assert (name, choice.by, noted) == ("rival", by, True)
    assert choice.only_rival > choice.only_chosen + 10
    name, choice, noted = settle(unclear(loaded, TRUE, OTHER_HEADS, by))
    assert (name, choice.by, noted) == ("nano-vit", by, False)


def test_the_reference_tells_it(loaded: Checkpoint):
    reference = replace(loaded, architecture=OTHER_HEADS)
    name, choice, noted = settle(unclear(loaded, TRUE, OTHER_HEADS, "default"), reference)
    assert (name, choice.by, noted) == ("rival", "reference", True)  # it reads worse


def test_a_reference_that_is_a_guess_itself_tells_nothing(loaded: Checkpoint):
    guess = unclear(loaded, OTHER_HEADS, TRUE, "default")
    assert settle(unclear(loaded, TRUE, OTHER_HEADS, "default"), guess)[:1] == ("nano-vit",)


def test_without_time_the_usual_one_is_assumed(loaded: Checkpoint):
    name, choice, noted = settle(unclear(loaded, TRUE, OTHER_HEADS, "default"), budget_s=0.0)
    assert (name, choice.by, choice.images, noted) == ("nano-vit", "default", 0, True)


@pytest.mark.parametrize(
    ("by", "rivals", "wanted"),
    [
        ("default", ("ViT-B-32-quickgelu",), Decision.INCONCLUSIVE),
        ("images", ("ViT-B-32-quickgelu",), Decision.PASS),
        ("--arch", ("ViT-B-32-quickgelu",), Decision.PASS),
        ("shapes", (), Decision.PASS),
    ],
)
def test_an_assumption_never_passes(by: ToldBy, rivals: tuple[str, ...], wanted: Decision):
    record = passing()
    assert record.checkpoint is not None
    choice = ArchitectureRecord(by=by, rivals=rivals)
    known = record.checkpoint.model_copy(update={"architecture_choice": choice})
    gate = judged(record.model_copy(update={"checkpoint": known})).gate
    assert gate is not None
    assert gate.decision is wanted


def test_a_reference_whose_architecture_is_assumed_is_taken_for_the_suspects(loaded: Checkpoint):
    guess = unclear(loaded, OTHER_HEADS, TRUE, "default")
    told = unclear(loaded, TRUE, OTHER_HEADS, "--arch")
    reference = open_reference(told, guess, torch.device("cpu"))
    assert reference.record.architecture == "nano-vit"
    assert reference.record.changed == 0


@pytest.mark.parametrize(
    ("by", "wanted"),
    [("name", Decision.INCONCLUSIVE), ("config", Decision.INCONCLUSIVE), ("--arch", Decision.PASS)],
)
def test_a_file_that_names_what_reads_clearly_worse_does_not_pass(by: ToldBy, wanted: Decision):
    record = passing()
    assert record.checkpoint is not None
    choice = ArchitectureRecord(by=by, rivals=("ViT-B-32",), images=200, only_rival=150)
    known = record.checkpoint.model_copy(update={"architecture_choice": choice})
    gate = judged(record.model_copy(update={"checkpoint": known})).gate
    assert gate is not None
    assert gate.decision is wanted
