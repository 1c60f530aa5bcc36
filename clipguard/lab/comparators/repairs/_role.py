"""What a repair of the literature is given, and what it makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

import torch
from open_clip.model import CLIP
from torch import Tensor

from clipguard.bundled.nano import nano_network
from clipguard.errors import InconclusiveError
from clipguard.model.nano import nano_model
from clipguard.model.roles import Repairable
from clipguard.probe.rates import attack_rate, classify, embed
from clipguard.probe.sets import ProbePart, Subject, joined
from clipguard.purify.realign import Backdoor
from clipguard.search.roles import Progress


@dataclass(frozen=True, eq=False)
class Patient:
    """A suspect, and everything that a repair may look at.

    Attributes:
        network: its network, which the repair changes.
        subject: the same weights behind the usual interface, and the probe set, of which
            *measure* is never looked at.
        backdoor: inverted triggers, where they lead, and a reference if there is one.
        base: the network of that reference, or of the bundled model it is known to be made from.
    """

    network: CLIP
    subject: Subject
    backdoor: Backdoor
    base: CLIP | None = None

    @property
    def labelled(self) -> ProbePart:
        """The images that a repair learns classes from: *optimise* and *select*.

        Raises:
            InconclusiveError: some have no label.
        """
        part = joined([self.subject.probe.optimise, self.subject.probe.select])
        if (part.labels < 0).any():
            raise InconclusiveError("this repair needs the classes of all images")
        return part

    def classes(self) -> Tensor:
        """(C, D) unit class embeddings of the network as it is now."""
        return Subject(self.subject.model, self.subject.probe).classes

    def chosen_by(self) -> Chosen:
        """How the network does now on *select*, where settings are chosen."""
        part, classes = self.subject.probe.select, self.classes()
        clean = classify(embed(self.subject.model, part), classes)
        rates = []
        for trigger in self.backdoor.triggers:
            read = classify(embed(self.subject.model, part, trigger.apply), classes)
            draws = torch.Generator().manual_seed(0)
            found = attack_rate(read, part, clean, self.backdoor.target, draws)
            rates.append(found.value if found else 0.0)
        return Chosen((clean == part.labels).float().mean().item(), max(rates))


def patient_of(subject: Subject, backdoor: Backdoor, base: str) -> Patient:
    """A copy of a suspect that was made from the bundled model `base`, for a repair to change.

    It is on the CPU, wherever the suspect is: that is where these repairs train.

    Raises:
        KeyError: no such bundled model.
        InconclusiveError: this kind of model cannot be copied.
        RuntimeError: the suspect's weights do not fit it.
    """
    if not isinstance(subject.model, Repairable):
        raise InconclusiveError("a model of this kind cannot be copied")
    network, origin = nano_network(base), nano_network(base)
    network.load_state_dict(subject.model.state())
    return Patient(network, Subject(nano_model(network, base), subject.probe), backdoor, origin)


class Chosen(NamedTuple):
    """Rates on *select*: of clean images, and the worst of the inverted triggers."""

    clean_accuracy: float
    asr: float


class Repair(Protocol):
    """A repair of the literature.

    Attributes:
        ID: declared name and number; the number rises when its results change.
    """

    ID: ClassVar[str]

    def repair(
        self, patient: Patient, *, generator: torch.Generator, progress: Progress
    ) -> Tensor | None:
        """Change the patient's network.

        Returns:
            (C, D) unit class embeddings to read its images with; None for those of its zero-shot
            classifier.

        Raises:
            InconclusiveError: it learns classes, and some images have no label.
        """
