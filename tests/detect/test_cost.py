"""What a search is said to cost before it runs is what it costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fakes import StripesClip, generator, no_progress, stripes_probe
from test_differential import PLANTED, SEARCH
from test_inversion import FAST, TARGETED
from test_text_tokens import NAMES, WORDS, WordsClip
from torch import Tensor

from clipguard.detect.cost import Sizes, of_inversion, of_pair, of_words
from clipguard.detect.inversion import TriggerInversion
from clipguard.detect.lineage import described
from clipguard.detect.text_tokens import WIDER, TextTokens
from clipguard.probe.sets import Subject
from clipguard.record import ReferenceRecord
from clipguard.search.families.additive import Additive
from clipguard.search.families.patch import Patch

PROBE = stripes_probe()
SIZES = Sizes(len(PROBE.optimise), len(PROBE.select), len(PROBE.measure), len(PROBE.class_names))


class Counted(StripesClip):
    """Counts images that go forward and backward, and those that go only forward."""

    def __init__(self, planted: int | None = None) -> None:
        super().__init__(planted)
        self.both = self.read = 0

    def encode_image(self, images: Tensor) -> Tensor:
        self.both += len(images) if torch.is_grad_enabled() else 0
        self.read += 0 if torch.is_grad_enabled() else len(images)
        return super().encode_image(images)


@pytest.mark.parametrize("at_once", [3, 40])
def test_a_search_against_a_reference_takes_the_passes_that_were_counted(
    at_once: int, monkeypatch: pytest.MonkeyPatch
):
    for module in ("cost", "differential"):
        monkeypatch.setattr(f"clipguard.detect.{module}.AT_ONCE", at_once)
    # Two families of a kind may favour one group of classes, which leaves fewer of them.
    kinds = tuple(replace(kind, families=kind.families[:1]) for kind in SEARCH.kinds)
    search = replace(SEARCH, kinds=kinds)
    pair = search.pair(Subject(StripesClip(PLANTED), PROBE), StripesClip())
    described(ReferenceRecord(name="base", sha256="0" * 64, says=""), pair)
    *_, _ = search.compare(pair, seed=0, progress=no_progress)
    cost = of_pair(search, SIZES)
    assert pair.passes.both == cost.passes.both
    # One candidate more is measured only where another than the best has the widest gap.
    spare = 4 * search.measure * sum(kind.opaque for kind in kinds)
    assert cost.read - spare <= pair.passes.forward <= cost.read


def test_a_search_alone_takes_the_passes_that_were_counted_but_for_classes_found_twice():
    detector, model = TriggerInversion(families=(Patch(), Additive(budget=8.0)), **FAST), Counted(3)
    found = detector.detect(
        Subject(model, PROBE), None, generator=generator(), progress=no_progress
    )
    cost = of_inversion(detector, SIZES)
    most = len(detector.families) * (1 + detector.candidates)
    spared = most - len(found.record.candidates)
    each = TARGETED
    assert spared >= 0
    assert model.both == cost.passes.both - spared * each.steps * each.batch
    assert model.read == cost.read - spared * (SIZES.select + SIZES.measure)


@pytest.mark.parametrize("both", [False, True])
def test_the_search_for_words_reads_no_more_prompts_than_were_counted(both: bool):
    read = []

    class Reads(WordsClip):
        def encode_ids(self, ids: Tensor) -> Tensor:
            read.append(len(ids))
            return super().encode_ids(ids)

    probe = stripes_probe()
    probe = type(probe)(**{**vars(probe), "class_names": NAMES})
    text = TextTokens(screened=4, beam=2, length=2, choose=3, unseen=4, names=5)
    subject, other = Subject(Reads("bub"), probe), Subject(Reads(), probe)
    assert len(subject.classes) == len(other.classes)  # read before the search
    read.clear()
    text.compare(subject, other if both else None, generator=generator(), progress=no_progress)
    counted = sum(of_words(text, len(WORDS), len(NAMES), both=both))
    # What both halves of the screen favour is read once.
    assert counted - 2 * 2 * WIDER * text.screened <= sum(read) <= counted
