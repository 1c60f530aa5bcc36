"""Which files of a folder are the model; all others that a loader may take are looked at, too.

Pure Python: torch is never imported here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipguard.checkpoint.layouts import read_layout
from clipguard.checkpoint.source import opened
from clipguard.checkpoint.unwrap import named
from clipguard.errors import RefusedError, UsageError
from clipguard.files import read_json_given, require_path
from clipguard.text_safety import safe_text

INDEX = ".index.json"
PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
    "model.pt",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".ckpt"})
READ_ELSEWHERE = frozenset(
    {
        "open_clip_config.json",
        "config.json",
        "preprocessor_config.json",
        "processor_config.json",
        "tokenizer.json",
        "spiece.model",
        "tokenizer_config.json",
        "adapter_config.json",
    }
)
OF_A_TRAINER = re.compile(
    r"(training_args|optimizer|scheduler|scaler)\.(bin|pt)|rng_state(_\d+)?\.pth"
)
"""Names of what trainers save beside a model, which nobody who loads the model opens."""
OF_OTHERS = re.compile(r"(flax|tf)_model.*\.(msgpack|h5)")
"""Names under which transformers takes the weights of a folder for Flax and for TensorFlow."""
MAX_FILES = 10_000
MAX_INDEX_BYTES = 16 * 2**20
MAX_SHARDS = 1000
MAX_NAME = 200


@dataclass(frozen=True)
class ModelFiles:
    """The files that are one model.

    Attributes:
        weights: those with its weights.
        where: name of a tensor to the name of its file, as an index says; else empty.
        notes: rule id and text: which files were read, which were not.
        others: files and indices beside them that may be other models.
    """

    weights: tuple[Path, ...]
    where: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    others: tuple[Path, ...] = ()

    def require_indexed(self, key: str, file: str) -> None:
        """Refuse a tensor that lies in another file than the index says.

        Raises:
            RefusedError: it does (CG107).
        """
        if self.where and self.where.get(key) != file:
            told = safe_text(self.where.get(key, "no file"))
            raise RefusedError(
                f"CG107 tensor {safe_text(key)} is in {safe_text(file)}; the index says {told}"
            )


def refusal_of(file: Path) -> str | None:
    """Why a weights file is refused, by this very process; None if it is not."""
    try:
        with opened(file) as source:
            read_layout(source)
    except RefusedError as error:
        return str(error)
    return None


def files_of(path: Path, refusal: Callable[[Path], str | None] = refusal_of) -> ModelFiles:
    """The files of a model, after every other weights file beside them was looked at.

    Args:
        path: a weights file, an index of several, or a folder.
        refusal: looks at one file, and says why it is refused.

    Raises:
        UsageError: nothing there, or a folder without one clear model.
        RefusedError: an index that lies, or a file beside the model that could do harm; the
            message starts with its name.
    """
    if path.is_dir():
        found = sorted(path.iterdir())
        if len(found) > MAX_FILES:
            raise UsageError(f"{safe_text(path)} holds {len(found)} files; give the weights file")
        chosen = _chosen(path, found)
        model = _model(chosen)
        note, refused = _looked_at(model, found, refusal)
        others = _others(chosen, model, found)
        others = tuple(file for file in others if file not in refused)
        return ModelFiles(model.weights, model.where, (note,), others)
    require_path(path)
    return _model(path)


def digest_of(parts: Sequence[tuple[str, str]]) -> str:
    """One digest of a model: that of its file, or of the sorted lines `NAME SHA256` of several.

    Args:
        parts: name and hexadecimal SHA-256 of each file.
    """
    if len(parts) == 1:
        return parts[0][1]
    lines = "".join(f"{name} {sha256}\n" for name, sha256 in sorted(parts))
    return hashlib.sha256(lines.encode()).hexdigest()


def _chosen(folder: Path, found: Sequence[Path]) -> Path:
    for name in PREFERRED:
        if (folder / name).is_file():
            return folder / name
    weights = [file for file in found if is_weights(file)]
    indices = [file for file in found if file.name.endswith(INDEX) and file.is_file()]
    best = indices or weights
    if len(best) != 1:
        names = _named(best) or "none"
        raise UsageError(
            f"expected one weights file in {safe_text(folder)}, found {names}; "
            "give the path of the weights file itself"
        )
    return best[0]


def is_weights(file: Path) -> bool:
    """Whether a file is called as weights are that torch or safetensors can hold."""
    return file.suffix.lower() in SUFFIXES and file.is_file()


def _model(path: Path) -> ModelFiles:
    if not path.name.endswith(INDEX):
        return ModelFiles((path,))
    shown = safe_text(path.name)
    raw: Any = read_json_given(path, MAX_INDEX_BYTES)
    where = raw.get("weight_map") if isinstance(raw, dict) else None
    if not isinstance(where, dict) or not where:
        raise RefusedError(f"{shown}: CG103 expected a weight_map of names to files")
    names = {name for name in where.values() if isinstance(name, str)}
    if len(names) > MAX_SHARDS or not all(isinstance(name, str) for name in where.values()):
        raise RefusedError(f"{shown}: CG103 expected names of at most {MAX_SHARDS} files")
    for name in sorted(names):
        plain = name == Path(name).name and "\\" not in name and name.isprintable()
        if not plain or len(name) > MAX_NAME or Path(name).suffix.lower() not in SUFFIXES:
            raise RefusedError(
                f"{shown}: CG103 {safe_text(name)} is no name of a weights file beside it"
            )
        if not (path.parent / name).is_file():
            raise RefusedError(f"{shown}: CG103 {safe_text(name)} is missing")
    return ModelFiles(tuple(path.parent / name for name in sorted(names)), where)


def _others(chosen: Path, model: ModelFiles, found: Sequence[Path]) -> tuple[Path, ...]:
    """What may be another model: indices, and weights files that none of them names."""
    beside = [file for file in found if file != chosen and file not in model.weights]
    indices = [file for file in beside if file.name.endswith(INDEX) and file.is_file()]
    parts: set[Path] = set()
    for index in indices:
        with suppress(RefusedError, UsageError):  # whoever compares it says what is wrong with it
            parts |= {*_model(index).weights}
    weights = [file for file in beside if is_weights(file) and file not in parts]
    foreign = [file for file in beside if OF_OTHERS.fullmatch(file.name) and file.is_file()]
    return (*indices, *weights, *foreign)


def _looked_at(
    model: ModelFiles, found: Sequence[Path], refusal: Callable[[Path], str | None]
) -> tuple[str, list[Path]]:
    """Refuse a folder for other weights that a loader may take.

    Returns:
        A note on what was read, and what of a trainer is refused, which refuses nothing else.
    """
    beside = [file for file in found if file not in model.weights]
    looked = [file for file in beside if is_weights(file)]
    rest = [f for f in beside if f not in looked and f.name not in READ_ELSEWHERE]
    rest = [file for file in rest if not file.name.endswith(INDEX)]
    told = [f"CG110 read: {_named(model.weights)}"]
    refused: list[Path] = []
    if looked:
        told.append(f"inspected: {_named(looked)}")
    if rest:
        told.append(f"not looked at: {_named(sorted(rest, key=_is_text))}")
    note = "; ".join(told)
    for file in looked:
        why = refusal(file)
        name = f"{safe_text(file.name)}: "
        if why is not None and OF_A_TRAINER.fullmatch(file.name):
            note += f"; never load {name}{why.removeprefix(name)}"
            refused.append(file)
        elif why is not None:
            raise RefusedError(
                f"{name}{why.removeprefix(name)}; whoever loads this folder may load that file "
                f"({note})"
            )
    return note, refused


def _is_text(file: Path) -> bool:
    """What does no harm by itself is named last."""
    return file.suffix.lower() in (".json", ".md", ".txt") or file.name.startswith(".")


def _named(files: Sequence[Path]) -> str:
    return named([f"{file.name}/" if file.is_dir() else file.name for file in files])
