"""The manifest of a zoo: victims whose truth is known, each in a folder of its own."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from clipguard.errors import UsageError
from clipguard.files import write_atomic
from clipguard.record import Sha256
from clipguard.record.schema import first_problem
from clipguard.text_safety import safe_text

SCHEMA_VERSION: Final = "clipguard.zoo/1"
FILE = "zoo.json"
SIZE_LIMIT = 16_000_000
TRUTH_LIMIT = 1_000_000
_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)

EntryId = Annotated[str, Field(pattern="^[0-9a-f]{16}$")]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One victim, and the truth about it.

    Attributes:
        id: 16 hex digits; names its files.
        kind: poisoned, clean, or negative (a hard negative: honest, but suspicious to look at).
        split: the part of the zoo it belongs to.
        base: base parent, the clean instance it was made from.
        architecture: of that base.
        attack: registered name, `none` for an honest model.
        negative: registered name of the hard negative, if it is one.
        about: class name that the hard negative is about, if it is one.
        settings: of the attack or hard negative.
        target: class name that the attacker wants, if there is an attacker.
        seed: it was made with.
        planted: false where the attack did not reach its ASR or cost too much accuracy.
        asr: at planting, by the attack's own measure of success.
        ca_loss: clean accuracy lost against the twin at planting.
        twin: id of its clean twin, for a poisoned victim.
        path: folder with `model.pt`, relative to the zoo.
        sha256: digest of `model.pt`; None while it is not built.
        truth_sha256: digest of `victim.json`; None while it is not built.
    """

    __pydantic_config__ = _STRICT

    id: EntryId
    kind: Literal["poisoned", "clean", "negative"]
    split: Literal["calibration", "test"]
    base: Name
    architecture: Name
    attack: Name
    negative: Name | None
    settings: dict[str, Any]
    target: Name | None
    seed: int
    planted: bool
    asr: Share | None
    ca_loss: Annotated[float, Field(ge=-1, le=1)] | None
    twin: EntryId | None
    path: Name
    sha256: Sha256 | None
    about: Name | None = None
    truth_sha256: Sha256 | None = None

    def to_json(self) -> dict[str, Any]:
        """What stands in the manifest; `from_json` reads it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: object) -> Entry:
        """Read one entry of a manifest.

        Raises:
            UsageError: a missing, unknown or impossible field.
        """
        entry = _checked(TypeAdapter(Entry), data)
        if (entry.kind == "negative") != (entry.negative is not None):
            raise UsageError("negative: names the hard negative of such an entry, and of no other")
        if entry.about is not None and entry.kind != "negative":
            raise UsageError("about: stands with a hard negative, and with nothing else")
        if (entry.kind == "poisoned") != (entry.attack != "none"):
            raise UsageError("attack: must be none where nothing was planted, and only there")
        return entry


@dataclass(frozen=True, kw_only=True)
class Zoo:
    """All entries of a zoo, built or not.

    Attributes:
        entries: with distinct ids.
        preset: how it was ordered.
        digest: of which models it holds, and of their weights.
    """

    entries: tuple[Entry, ...]
    preset: str
    digest: str

    def built(self) -> tuple[Entry, ...]:
        """Entries whose model is there."""
        return tuple(entry for entry in self.entries if entry.sha256 is not None)

    def by_id(self) -> Mapping[str, Entry]:
        """Entries by their id."""
        return {entry.id: entry for entry in self.entries}


@dataclass(frozen=True, kw_only=True)
class _Manifest:
    """The file: everything but the entries themselves checked at once."""

    __pydantic_config__ = _STRICT

    schema_version: Literal["clipguard.zoo/1"]
    preset: Name
    digest: Name
    entries: list[dict[str, Any]]


def read_zoo(folder: Path) -> Zoo:
    """Read the manifest of the zoo in `folder`.

    Raises:
        UsageError: no manifest, not one of this version, an impossible entry, an id or a path
            that stands twice, a twin that does not exist, or a path that leads out of the zoo.
    """
    shown = safe_text(folder / FILE, 400)
    try:
        data = json.loads(read_zoo_file(folder, FILE, SIZE_LIMIT).decode("utf-8"))
        # Python reads NaN and lone surrogates, which no table could be written with.
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode("utf-8")
        manifest = _checked(TypeAdapter(_Manifest), data)
        zoo = Zoo(
            entries=tuple(_entry(row, folder) for row in manifest.entries),
            preset=manifest.preset,
            digest=manifest.digest,
        )
        _require_consistent(zoo)
        return zoo
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"cannot read {shown}: {reason}; give the folder of a zoo") from error
    except (UsageError, ValueError, RuntimeError) as error:
        raise UsageError(f"{shown} is no {SCHEMA_VERSION} manifest: {safe_text(error)}") from error


def read_zoo_file(folder: Path, path: str, limit: int) -> bytes:
    """A file of a zoo that may come from a stranger.

    Args:
        folder: the zoo.
        path: of the file in it.
        limit: bytes that it may have.

    Raises:
        UsageError: it leads out of the zoo, is no ordinary file (one that never ends, say), or is
            too large.
        OSError: it is not there or cannot be read.
    """
    file = folder / path
    if not file.resolve().is_relative_to(folder.resolve()):
        raise UsageError("it leads out of the zoo")
    found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise UsageError("it is no ordinary file")
    if found.st_size > limit:
        raise UsageError(f"it is larger than it may be ({limit // 10**6} MB)")
    return file.read_bytes()


def read_truth(folder: Path, path: str) -> tuple[dict[str, Any], str]:
    """What `victim.json` says of a model, and the digest of the file.

    Args:
        folder: the zoo.
        path: folder of the model in it.

    Raises:
        UsageError: none there, one that leads out of the zoo or is no plain file, too large, or
            not a JSON object.
    """
    shown = safe_text(f"{path}/victim.json", 400)
    try:
        data = read_zoo_file(folder, f"{path}/victim.json", TRUTH_LIMIT)
        truth = json.loads(data)
        json.dumps(truth, allow_nan=False)  # Python reads NaN, which is no JSON to print
    except OSError as error:
        raise UsageError(f"cannot read {shown}: {error.strerror}") from error
    except UsageError as error:
        raise UsageError(f"{shown}: {error}") from error
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"{shown} is no JSON: {safe_text(error)}") from error
    if not isinstance(truth, dict):
        raise UsageError(f"{shown} is no JSON object")
    return truth, hashlib.sha256(data).hexdigest()


def write_zoo(folder: Path, zoo: Zoo) -> None:
    """Write the manifest, whole or not at all.

    Raises:
        UsageError: it cannot be written.
    """
    head = {"schema_version": SCHEMA_VERSION, "preset": zoo.preset, "digest": zoo.digest}
    entries = [entry.to_json() for entry in zoo.entries]
    text = json.dumps({**head, "entries": entries}, indent=1, allow_nan=False)
    write_atomic(folder / FILE, text + "\n")


def _entry(data: dict[str, Any], folder: Path) -> Entry:
    """One entry, whose files are inside the zoo also where links lead elsewhere."""
    try:
        entry = Entry.from_json(data)
    except UsageError as error:
        raise UsageError(f"entry {safe_text(data.get('id'), 20)}: {error}") from error
    if not (folder / entry.path / "model.pt").resolve().is_relative_to(folder.resolve()):
        raise UsageError(f"entry {entry.id}: path {safe_text(entry.path)!r} leads out of the zoo")
    return entry


def _require_consistent(zoo: Zoo) -> None:
    known = zoo.by_id()
    if len(known) < len(zoo.entries):
        raise UsageError("an id stands twice")
    if len({Path(entry.path) for entry in zoo.entries}) < len(zoo.entries):
        raise UsageError("a path stands twice")
    for entry in zoo.entries:
        if entry.twin is not None and (
            entry.twin not in known or known[entry.twin].kind != "clean"
        ):
            raise UsageError(f"entry {entry.id}: its twin {entry.twin} is no clean entry")


_Kind = TypeVar("_Kind")


def _checked(adapter: TypeAdapter[_Kind], data: object) -> _Kind:
    """`data` as what `adapter` describes, in one line where it is something else."""
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        raise UsageError(first_problem(error)) from error
