"""The bundled model as an attacker finds it. Apart from the fixtures: a plugin is not imported."""

from __future__ import annotations

from functools import cache

from clipguard.bundled.nano import class_names, nano_network, nano_tokenizer
from clipguard.checkpoint.architectures import architecture_named
from clipguard.lab.roles import Site
from clipguard.lab.truth import lab_images
from clipguard.model.open_clip import OpenClipModel


@cache
def nano_site(target: str = "banana") -> Site:
    """The bundled model before an attack, and an image of every drawing of its classes."""
    network = nano_network("nano-rn")
    model = OpenClipModel(network, architecture_named("nano-rn"), nano_tokenizer(network))
    images = lab_images(held_out=False, seed=3, scenes=1)
    return Site(model, images, class_names(), class_names().index(target))
