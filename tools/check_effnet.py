"""Name photographs that nobody here drew, with the bundled `effnet`, among ImageNet's 1 000 names.

    pip install '.[lab]' scikit-image scikit-learn
    python tools/check_effnet.py

The photographs are the colour ones that ship in those two packages and show something with an
obvious ImageNet name; nothing was trained on them. Exit code 1 when fewer than four of the five
are right in the top five.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import open_clip
import torch

from clipguard.bundled.nano import nano_network
from clipguard.model.nano import nano_model
from clipguard.model.prompts import class_embeddings
from clipguard.probe.images import load_image
from clipguard.probe.load import TEMPLATE

PHOTOGRAPHS = {
    ("skimage", "data/chelsea.png"): {"tabby cat", "tiger cat", "Egyptian Mau"},
    ("skimage", "data/coffee.png"): {"espresso", "coffee mug", "tea cup"},
    ("skimage", "data/rocket.jpg"): {"missile", "space shuttle"},
    ("skimage", "data/motorcycle_left.png"): {"moped", "vespa"},
    ("sklearn", "datasets/images/china.jpg"): {"palace", "monastery", "bell tower", "stupa"},
}
"""Package and file to the names that are right: a pagoda of the Summer Palace is a palace and a
tower, a rocket on its pad has no other names there. Left out, because none of the 1 000 names
fits: the astronaut, a dahlia, a galaxy field, a retina, stained tissue."""
ENOUGH = 4
TOP = 5


def photograph(package: str, name: str) -> Path | None:
    """The file in an installed package, which is not imported; None where it is missing."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0], name)
    return path if path.is_file() else None


@torch.no_grad()
def top_names() -> dict[str, list[tuple[str, float]]]:
    """The five most likely names of every photograph that is installed, with their cosines."""
    model = nano_model(nano_network("effnet"), "effnet")
    names = list(dict.fromkeys(open_clip.IMAGENET_CLASSNAMES))  # "missile" is there twice
    classes = class_embeddings(model, names, (TEMPLATE,))
    found = {}
    for package, name in PHOTOGRAPHS:
        path = photograph(package, name)
        if path is None:
            continue
        rule = model.preprocess
        image = torch.from_numpy(
            load_image(
                path,
                model.image_size,
                resize_mode=rule.resize_mode,
                interpolation=rule.interpolation,
            )
        )[None]
        cosines, rows = (model.encode_image(image)[0] @ classes.T).topk(TOP)
        found[name] = [(names[i], v) for i, v in zip(rows.tolist(), cosines.tolist(), strict=True)]
    return found


def is_right(name: str, top: list[tuple[str, float]]) -> bool:
    """Whether a right name is among the top five."""
    [right] = [names for (_, file), names in PHOTOGRAPHS.items() if file == name]
    return any(guess in right for guess, _ in top)


def main() -> int:
    found = top_names()
    for name, top in found.items():
        mark = "right" if is_right(name, top) else "wrong"
        print(f"{mark}  {name}: " + ", ".join(f"{guess} {value:.2f}" for guess, value in top))
    hits = sum(is_right(name, top) for name, top in found.items())
    print(f"{hits} of {len(found)} right in the top {TOP}; {len(PHOTOGRAPHS)} photographs wanted")
    return 0 if len(found) == len(PHOTOGRAPHS) and hits >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
