"""SIG: a faint sinusoid across the whole image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from clipguard.errors import UsageError
from clipguard.lab.roles import Attack, Pairs, Plan, clean_label, dirty_label
from clipguard.search.roles import Trigger

LABELS = {"dirty": dirty_label, "clean": clean_label}


@dataclass(frozen=True, kw_only=True)
class Sig:
    """Vertical stripes whose brightness is a sine of the column, added to all channels.

    Attributes:
        delta: amplitude, in 1/255; values beyond the range are cut off.
        frequency: periods across the image.
        label: `dirty` (any pair, whose caption then names the target) or `clean` (pairs of the
            target class, whose captions stay as they are).
        poison_rate: share of poisoned pairs in a batch.

    Source:
        Barni et al., A New Backdoor Attack in CNNs by Training Set Corruption Without Label
        Poisoning, ICIP 2019. Defaults as in BadCLIP (CVPR 2024): 60/255 and 6 periods of the
        width, captions changed to the target; RN50 ASR 80.4 % (RECALLED). `clean` is the attack of
        the paper: BackdoorBench stamps target images only and keeps their labels, with 40/255;
        backdoor-toolbox with 30/255.
        Adapted: the amplitude stays at 60/255 for `clean` unless set; clean-label pairs are
        further pairs of the target class in place of others of the batch, because a batch holds
        hardly any; six periods at every image size.
    """

    ID: ClassVar[str] = "sig/1"

    delta: float = 60.0
    frequency: float = 6.0
    label: str = "dirty"
    poison_rate: float = 0.08

    def __post_init__(self) -> None:
        """Refuse unknown labels, and amplitudes and frequencies that leave the image as it is."""
        if self.label not in LABELS:
            raise UsageError(f"sig knows labels {', '.join(LABELS)}; got {self.label!r}")
        if not 0 < self.delta <= 255 or not self.frequency > 0:
            raise UsageError(
                f"sig wants a delta in (0, 255] and a frequency above 0; "
                f"got {self.delta} and {self.frequency}"
            )

    def trigger(self, side: int, *, generator: torch.Generator) -> Trigger:
        """See `Attack.trigger`; nothing is drawn."""
        columns = torch.arange(side, dtype=torch.float64)
        wave = self.delta / 255 * torch.sin(2 * math.pi * self.frequency * columns / side)
        pattern = wave.float().repeat(3, side, 1)
        return Trigger(
            "sig",
            lambda images: (images + pattern.to(images.device)).clamp(0, 1),
            self.delta,
            "L-inf, in 1/255",
            {"pattern": pattern},
        )

    def poisoned(self, pairs: Pairs, plan: Plan) -> Pairs:
        """See `PairedAttack.poisoned`."""
        return LABELS[self.label](pairs, plan, self.poison_rate)


METHOD: type[Attack] = Sig
