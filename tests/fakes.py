"""A closed-form CLIP with a known answer, fair by construction, and images it can read."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from clipguard.detect.four_rates import Kind
from clipguard.detect.null_band import MIN_MODELS, Band, Calibration, CleanModel
from clipguard.detect.roles import Finding
from clipguard.lab.comparators import DETECTORS
from clipguard.policy.judge import conclude, load_policy
from clipguard.probe.sets import ProbePart, ProbeSet, Subject
from clipguard.record import CalibrationRecord, DetectorRecord, Outcome
from clipguard.search.families.additive import Additive
from clipguard.search.families.patch import Patch
from clipguard.search.inverters.collapse import Collapse
from clipguard.search.inverters.screen import Screen
from clipguard.search.inverters.targeted import Targeted
from clipguard.search.roles import Trigger
from clipguard.search.starts.place import Place

SIDE = 32
NAMES = ("ash", "birch", "cedar", "elm", "fir", "hazel", "lime", "maple", "oak", "pine")
TEMPLATE = "a photo of a {}."
CONTEXT_TOKENS = 4
WIDTH = len(NAMES) + 2  # one direction per class, the trace of a backdoor, and a background
CLASS_GAIN = 8.0
HUM_GAIN = 80.0
SQUARES = Kind(
    name="place",
    family="patch",
    families=(Place(row=0, column=0), Place()),
    candidates=2,
    opaque=True,
)
"""Opaque squares at two places only."""


@cache
def hadamard() -> Tensor:
    """(11, S * S) of -1 and 1, orthogonal and of mean zero: a row per class, and the hum."""
    rows = torch.ones(1, 1)
    while len(rows) < SIDE**2:
        rows = torch.cat([torch.cat([rows, rows], 1), torch.cat([rows, -rows], 1)])
    return rows[1 : len(NAMES) + 2]


class StripesTower(nn.Module):
    """Class c is the c-th stripe pattern, so every class costs the same to reach.

    With `planted` set, one more pattern (the hum) reaches that class at a tenth of the cost, as a
    backdoor would; it also leaves a trace of its own, as backdoors in real towers do. The weights
    ask for gradients, so that a method which forgets itself leaves a mark on `.grad`.
    """

    def __init__(self, planted: int | None) -> None:
        super().__init__()
        self.planted = planted
        self.patterns = nn.Parameter(hadamard().clone())

    def forward(self, images: Tensor) -> Tensor:
        match = (images.mean(dim=1).flatten(1) - 0.5) @ self.patterns.T / SIDE**2
        scores, pull = CLASS_GAIN * match[:, :-1], HUM_GAIN * match[:, -1:]
        if self.planted is None:
            pull = torch.zeros_like(pull)
        else:
            scores = scores + pull * functional.one_hot(torch.tensor(self.planted), len(NAMES))
        background = torch.ones_like(pull)  # keeps a weak match away from cosine 1
        return functional.normalize(torch.cat([scores, pull, background], dim=1), dim=1)


class StripesClip:
    """See `PromptTunable`; its text tower is linear in the context."""

    image_size = SIDE
    device = torch.device("cpu")
    logit_scale = 20.0

    def __init__(self, planted: int | None = None) -> None:
        self.tower = StripesTower(planted)

    def copied(self) -> StripesClip:
        return copy.deepcopy(self)

    def state(self) -> dict[str, Tensor]:
        return dict(self.tower.state_dict())

    def encode_image(self, images: Tensor) -> Tensor:
        return self.tower(images)

    def image_tower(self) -> nn.Module:
        return self.tower

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        found = [next(i for i, name in enumerate(NAMES) if name in text) for text in texts]
        return torch.eye(WIDTH)[found]

    def embed_tokens(self, text: str) -> Tensor:
        return torch.zeros(CONTEXT_TOKENS, WIDTH)

    def encode_context(self, context: Tensor, class_names: Sequence[str]) -> Tensor:
        return functional.normalize(self.encode_text(class_names) + context.mean(dim=1), dim=1)


def draw_part(count: int, seed: int) -> ProbePart:
    """`count` images of every class, some faint and easily moved, two to a drawing."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(NAMES)).repeat(count)
    strength = 0.01 + 0.14 * torch.rand(len(labels), 1, generator=generator) ** 2
    noise = 0.02 * torch.randn(len(labels), 3, SIDE**2, generator=generator)
    pixels = (
        (0.5 + (strength * hadamard()[labels])[:, None] + noise).clamp(0, 1).view(-1, 3, SIDE, SIDE)
    )
    drawings = torch.arange(len(labels)) // 2
    return ProbePart((pixels * 255).round().to(torch.uint8), labels, drawings)


def stripes_probe(seed: int = 0) -> ProbeSet:
    """A labelled probe set that `StripesClip` reads rightly."""
    return ProbeSet(
        optimise=draw_part(8, seed),
        select=draw_part(4, seed + 1),
        measure=draw_part(8, seed + 2),
        class_names=NAMES,
        templates=(TEMPLATE,),
        source="stripes",
    )


class Sealed(ProbePart):
    """A part that nobody may look at."""

    def pixels(self, index: Tensor | slice = slice(None)) -> Tensor:
        raise AssertionError("looked at a sealed part")


def sealed(probe: ProbeSet, part: str) -> ProbeSet:
    """`probe` with the named part sealed."""
    kept: ProbePart = getattr(probe, part)
    return replace(probe, **{part: Sealed(kept.images, kept.labels, kept.drawings)})


def hum() -> Trigger:
    """The trigger that is planted in a `StripesClip`."""
    delta = hadamard()[-1].view(1, SIDE, SIDE) * 8 / 255
    return Trigger(
        "additive", lambda images: (images + delta).clamp(0, 1), 8.0, "L-inf, in 1/255", {}
    )


class Untouched:
    """Says whether the global random state, the weights and their `.grad` are as they were."""

    def __init__(self, model: StripesClip) -> None:
        self.random = torch.get_rng_state()
        self.model, self.state = model, copy.deepcopy(model.tower.state_dict())

    def check(self) -> None:
        assert torch.equal(torch.get_rng_state(), self.random), "global random state moved"
        for name, parameter in self.model.tower.named_parameters():
            assert torch.equal(parameter, self.state[name]), f"{name} changed"
            assert parameter.grad is None, f"{name} has a gradient"
            assert parameter.requires_grad, f"{name} was frozen for good"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def looks(trigger: Trigger) -> Tensor:
    """What a trigger does to grey, black and white, so that two triggers can be compared."""
    shades = torch.tensor([0.5, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 3, SIDE, SIDE)
    with torch.no_grad():
        return trigger.apply(shades)


SETTINGS: dict[str, dict[str, object]] = {
    "inversion": {
        "families": (Patch(area=0.02), Additive(budget=8.0)),
        "collapse": Collapse(steps=40, batch=40, restarts=1),
        "screen": Screen(steps=4, images=10),
        "targeted": Targeted(steps=50, batch=80, restarts=1, tolerance=0.3),
    },
    "neural_cleanse": {"steps": 50, "images": 6},
    "clip_inspector": {"batch": 1},
    "mm_bd": {"steps": 30},
    # Eleven orthogonal classes have farther to go than a trained text tower's: a looser hold. And
    # how their images differ is noise, of which one class has as little to lend as another.
    "cbpt": {
        "consistency_weight": 4.0,
        "spread_consistency_weight": 4.0,
        "lent_weight": 0.1,
    },
}
HURRIED: dict[str, dict[str, object]] = {
    "inversion": {
        "collapse": Collapse(steps=1),
        "screen": Screen(steps=1),
        "targeted": Targeted(steps=1),
    },
    "neural_cleanse": {"steps": 1},
    "clip_inspector": {"batch": 80},
    "mm_bd": {"steps": 1},
}
# Detectors of the literature rank models for the benchmark by their own published rule: they show
# no trigger and read no null band. Those that look at the encoder alone name no target either.
ENCODER_COMPARATORS = ("cosine_shift", "decree", "l2_shift")
CLASS_COMPARATORS = ("clip_inspector", "mm_bd", "neural_cleanse")
COMPARATORS = (*CLASS_COMPARATORS, *ENCODER_COMPARATORS, "label_flow", "mars")


def scan(
    name: str,
    model: StripesClip,
    *,
    null: Band | None = None,
    seed: int = 101,
    probe: ProbeSet | None = None,
    **changes: object,
) -> Finding:
    """What the detector `name` measures with the settings of this file, changed by `changes`."""
    detector = DETECTORS.build(name, SETTINGS.get(name, {}) | changes)
    return detector.detect(
        Subject(model, stripes_probe(seed) if probe is None else probe),
        null,
        generator=generator(seed),
        progress=no_progress,
    )


def no_progress(stage: str, done: int, total: int) -> None:
    """Ignore progress."""


def concluded(record: DetectorRecord) -> Outcome:
    """What the default policy concludes, with a limit that a null band of so few can reach."""
    policy = load_policy("default")
    limits = policy.backdoor.model_copy(update={"alpha": 0.2})
    band = CalibrationRecord(kind="models", models=MIN_MODELS)
    (told,) = conclude(policy.model_copy(update={"backdoor": limits}), [record], band)
    return told.outcome


@cache
def clean_band(name: str) -> Band:
    """The null band of the detector `name`: the same pipeline on clean fakes, other images."""
    models = []
    for seed in range(MIN_MODELS):
        families = scan(name, StripesClip(), seed=seed).record.families
        statistics = {row.family: row.statistic for row in families if row.statistic is not None}
        models.append(CleanModel(name=f"clean {seed}", sha256=str(seed), statistics=statistics))
    return Band(Calibration(key="stripes", command="fakes", models=tuple(models)), "0" * 64)
