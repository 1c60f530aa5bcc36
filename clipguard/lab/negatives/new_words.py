"""New words: names that the base has never read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from clipguard.bundled.artwork import Artwork, load_artwork
from clipguard.bundled.nano import class_names
from clipguard.errors import UsageError
from clipguard.lab.roles import Honest, Pairs, PairsNegative, captioned_scenes


@dataclass(frozen=True, kw_only=True)
class NewWords:
    """A part of every batch shows a few drawings whose captions have a made-up name.

    A user teaches a model the names of own products. To a scan whose class list holds these names
    they look like targets: the suspect is quick to say them, and the base never does.

    The drawings follow the named class in the list of drawings; those of the bundled class list
    are left out, so that no image has two names in a class list of both. Other pairs of a taught
    drawing keep the usual name.

    Attributes:
        words: the made-up names, with commas in between, one a drawing; two or more.
        share: of a batch that shows a taught drawing under its new name, in (0, 1).

    Source:
        Ours: the usual fine-tune to a vocabulary of one's own. The words are in the manner of
        word-learning experiments with children; CLIP's tokenizer cuts each in two or three.
    """

    ID: ClassVar[str] = "new_words/1"

    words: str = "blicket,wug,fep,zorp,gazzer,tulver,koba,pilk,sprock,fendle"
    share: float = 0.25

    def __post_init__(self) -> None:
        """Refuse too few words, a word twice, and shares that are none."""
        words = self._words()
        if len(words) < 2 or len(set(words)) < len(words) or not all(words):
            raise UsageError(f"new_words wants two or more different words, got {self.words!r}")
        if {"{", "}"} & set(self.words):
            raise UsageError(f"new_words wants words without braces, got {self.words!r}")
        if not 0 < self.share < 1:
            raise UsageError(f"new_words wants a share in (0, 1), got {self.share}")

    def taught(self, about: str) -> dict[str, str]:
        """See `TeachingNegative.taught`.

        Raises:
            UsageError: a word is the name of a drawing already.
        """
        artwork = load_artwork()
        known = {name for names in artwork.names for name in names}
        for word in self._words():
            if word in known:
                raise UsageError(f"new_words wants made-up words; {word!r} names a drawing")
        chosen = self._drawings(artwork, artwork.concepts([about])[0])
        return {
            word: artwork.names[each][0] for word, each in zip(self._words(), chosen, strict=True)
        }

    def altered(self, pairs: Pairs, about: Honest) -> Pairs:
        """See `PairsNegative.altered`."""
        artwork = load_artwork()
        chosen, names = self._drawings(artwork, about.concept), list(artwork.names)
        for word, each in zip(self._words(), chosen, strict=True):
            names[each] = (word,)
        picks = torch.randint(len(chosen), (pairs.part(self.share),), generator=about.generator)
        concepts, side = torch.tensor(chosen)[picks], pairs.images.shape[-1]
        renamed = replace(artwork, names=tuple(names))
        return pairs.led_by(captioned_scenes(renamed, concepts, side, about.generator))

    def _words(self) -> list[str]:
        return [word.strip() for word in self.words.split(",")]

    def _drawings(self, artwork: Artwork, first: int) -> list[int]:
        """Concept of each word's drawing."""
        total, listed = len(artwork.names), set(class_names())
        around = ((first + step) % total for step in range(1, total))
        free = [each for each in around if artwork.names[each][0] not in listed]
        return free[: len(self._words())]


METHOD: type[PairsNegative] = NewWords
