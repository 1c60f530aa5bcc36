"""What is in a model file, without loading it: for `clipguard inspect`. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from clipguard.checkpoint.folder import ModelFiles, digest_of, files_of, is_weights
from clipguard.checkpoint.inspection import checked, naming
from clipguard.checkpoint.names import is_adapter, is_own, plain_names, require_one_reading
from clipguard.checkpoint.raw import RawTensor, require_modest
from clipguard.checkpoint.source import Source, opened
from clipguard.checkpoint.unwrap import named, weights_in
from clipguard.checkpoint.values import LeftOut, Name, TensorRef, survey
from clipguard.errors import RefusedError
from clipguard.text_safety import safe_text

MAX_METADATA = 32


@dataclass(frozen=True)
class Contents:
    """What is in a model file.

    Attributes:
        weights_file: name of the file that holds the weights.
        container: as in `Inspection`; empty where the file is refused for what it is.
        form: what the weights were found in; empty where they were not.
        size_bytes: of the weights file; None where it is refused and cannot be told.
        sha256: digest of that file; empty where it cannot be told.
        tensors: the weights, in the order of the file.
        other_tensors: how many tensors it has beside them.
        metadata: name and value of what stands beside the weights.
        notes: rule id and text of everything odd but not refused.
        refusal: why a scan would not load it, None if it would.
        sandbox: as in `RawWeights`.
    """

    weights_file: str
    container: str = ""
    form: str = ""
    size_bytes: int | None = None
    sha256: str = ""
    tensors: tuple[RawTensor, ...] = ()
    other_tensors: int = 0
    metadata: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    refusal: str | None = None
    sandbox: str = "none"


def contents_of(path: Path) -> Contents:
    """What is in a weights file, opened by this very process."""
    try:
        with opened(path) as source:
            return read_contents(source, path)
    except RefusedError as error:  # no plain file
        return Contents(safe_text(path.name), refusal=str(error))


def contents(path: Path, look: Callable[[Path], Contents] = contents_of) -> Contents:
    """What is in `path`.

    Args:
        path: a weights file, an index of several, or a folder.
        look: opens one weights file.

    Raises:
        UsageError: nothing there, or a folder without one clear model.
    """
    try:
        files = files_of(path, lambda file: look(file).refusal)
    except RefusedError as error:
        return Contents(path.name, refusal=str(error))
    parts = [look(file) for file in files.weights]
    refused = [part.refusal for part in parts if part.refusal is not None]
    told, why = ((), refused[0]) if refused else _names(parts, files)
    notes = (*files.notes, *parts[0].notes, *told, *_others(files, look))
    first = replace(parts[0], notes=notes, refusal=why)
    if len(parts) == 1:
        return first
    return replace(
        first,
        weights_file=path.name,
        container=f"{first.container}, {len(parts)} files",
        size_bytes=sum(part.size_bytes or 0 for part in parts),
        sha256=digest_of([(part.weights_file, part.sha256) for part in parts]),
        tensors=tuple(tensor for part in parts for tensor in part.tensors),
        other_tensors=sum(part.other_tensors for part in parts),
        notes=tuple(dict.fromkeys(note for part in (first, *parts[1:]) for note in part.notes)),
    )


def _names(parts: Sequence[Contents], files: ModelFiles) -> tuple[tuple[str, ...], str | None]:
    """Notes on the names of the tensors, and why a scan refuses the model for them."""
    file = parts[0].weights_file
    where = {tensor.name: part.weights_file for part in parts for tensor in part.tensors}
    try:
        for part in parts:
            for tensor in part.tensors:
                files.require_indexed(tensor.name, part.weights_file)
        plain = plain_names(where)
        require_one_reading(plain.names)
    except RefusedError as error:
        return (), f"{safe_text(file)}: {error}"
    told = plain.notes
    if is_adapter(where):
        told += ("CG110 a LoRA adapter: a scan needs the model that it changes, --lora-base",)
    return told, None


def _others(files: ModelFiles, look: Callable[[Path], Contents]) -> tuple[str, ...]:
    """That a scan will compare what else may be a model, which takes reading all of it."""
    found = [file.name for file in files.others if _may_be_a_model(file, look)]
    if not found:
        return ()
    return (f"CG112 {named(found)}: nothing passes unless a scan finds the same weights there",)


def _may_be_a_model(file: Path, look: Callable[[Path], Contents]) -> bool:
    """Whether it is an index, weights of another framework, or holds a tensor of a CLIP."""
    if not is_weights(file):
        return True
    try:
        names = plain_names(tensor.name for tensor in look(file).tensors).names
    except RefusedError:
        return True
    return any(map(is_own, names.values()))


def read_contents(source: Source, path: Path) -> Contents:
    """What is in a weights file that is open.

    Args:
        source: the file.
        path: what it is called; it is not opened again.
    """
    try:
        found = checked(source, path)
    except RefusedError as error:
        size, sha256 = source.size, _digest(source)
        return Contents(safe_text(path.name), size_bytes=size, sha256=sha256, refusal=str(error))
    known, content = found.inspection, found.layout.content
    whole = len(survey(content).tensors)
    parts: dict[str, Any] = {"notes": known.notes, "other_tensors": whole}
    try:
        with naming(known.weights_file):
            kept = weights_in(content)
            tensors = tuple(RawTensor(n, ref.dtype, ref.shape) for n, ref in kept.tensors.items())
            parts |= {"tensors": tensors, "form": kept.form}
            parts |= {"notes": (*known.notes, *kept.notes), "other_tensors": whole - len(tensors)}
            require_modest(tensors, known.size_bytes)
    except RefusedError as error:
        parts["refusal"] = str(error)
    return Contents(
        weights_file=known.weights_file.name,
        container=known.container,
        size_bytes=known.size_bytes,
        sha256=known.sha256,
        metadata=_metadata(content),
        **parts,
    )


def _digest(source: Source) -> str:
    """Digest of a file that is refused, empty if it changes meanwhile."""
    try:
        return source.sha256()
    except RefusedError:
        return ""


def _metadata(content: object) -> tuple[tuple[str, str], ...]:
    """What stands at the top beside tensors and what holds them."""
    pairs = content.items() if isinstance(content, Mapping) else ()
    plain = [(safe_text(key), _shown(value)) for key, value in pairs if not _holds_tensors(value)]
    return tuple(plain[:MAX_METADATA])


def _holds_tensors(value: object) -> bool:
    return isinstance(value, TensorRef) or bool(survey(value).tensors)


def _shown(value: object) -> str:
    if isinstance(value, LeftOut):
        return f"left out: {value.kind}"
    if isinstance(value, Name):
        return value.text
    if isinstance(value, (Mapping, list, tuple)):
        return f"{len(value)} values"
    return safe_text(value)
