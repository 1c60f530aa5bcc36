"""The bundled model as an attacker finds it. Apart from the fixtures: a plugin is not imported."""

from __future__ import annotations

from functools import cache

from clipguard.bundled.nano import class_names, nano_network
from clipguard.lab.roles import Site
from clipguard.lab.truth import lab_images
from clipguard.model.nano import nano_model


@cache
def nano_site(target: str = "banana") -> Site:
    """The bundled model before an attack, and an image of every drawing of its classes."""
    model = nano_model(nano_network("nano-rn"), "nano-rn")
    images = lab_images(held_out=False, seed=3, scenes=1)
    return Site(model, images, class_names(), class_names().index(target))
