"""The folder is the registry: every module of a method folder is one method."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import json
import math
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from clipguard.errors import UsageError

Role = TypeVar("Role")
LONG = 40  # names, of which a message with a suggestion lists none


@dataclass(frozen=True)
class MethodFolder(Generic[Role]):
    """A package in which every module without a leading underscore is one method.

    A method module ends with `METHOD: type[Role] = ItsClass`, where the class is a frozen
    dataclass whose fields are the method's settings.

    Attributes:
        package: dotted name of the package.
        what: what a method of this folder is called in messages.
        others: dotted names of modules elsewhere that are methods of the same role.
    """

    package: str
    what: str
    others: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """All method names, sorted, without importing any of them."""
        path = importlib.import_module(self.package).__path__
        modules = [m for m in pkgutil.iter_modules(path) if not m.ispkg]
        here = [m.name for m in modules if not m.name.startswith("_")]
        return sorted([*here, *(other.rpartition(".")[2] for other in self.others)])

    def build(self, name: str, settings: Mapping[str, object] | None = None) -> Role:
        """Make the method `name` with its defaults, changed by `settings`.

        Raises:
            UsageError: unknown method or unknown setting (the message lists what exists), or a
                value of another kind than the default.
        """
        require_known(name, self.names(), self.what)
        others = {other.rpartition(".")[2]: other for other in self.others}
        module = others.get(name, f"{self.package}.{name}")
        method: Any = importlib.import_module(module).METHOD
        settings = settings or {}
        defaults = {field.name: field.default for field in dataclasses.fields(method)}
        for key, value in settings.items():
            require_known(key, list(defaults), f"setting of {name}")
            _require_kind(f"{name} wants {key} as", defaults[key], value)
        built: Role = method(**settings)
        return built


def _require_kind(wants: str, default: object, value: object) -> None:
    """Refuse what is not of the default's kind; where that is None, the method itself decides."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    finite = number and math.isfinite(value)  # type: ignore[arg-type]
    kinds: tuple[tuple[type, str, bool], ...] = (
        (bool, "true or false", isinstance(value, bool)),
        (int, "a whole number", finite and isinstance(value, int)),
        (float, "a number", finite),
        (str, "a text", isinstance(value, str)),
    )
    for kind, what, fits in kinds:
        if isinstance(default, kind):
            if not fits:
                raise UsageError(f"{wants} {what}, got {value!r}")
            return


def require_known(name: str, known: Sequence[str], what: str) -> None:
    """Refuse a `name` that is not `known`, with a suggestion.

    Raises:
        UsageError: unknown; the message lists what exists.
    """
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f", did you mean {close[0]!r}?" if close else ""
        listed = f"{len(known)} names" if hint and len(known) > LONG else ", ".join(known)
        raise UsageError(f"no {what} named {name!r}{hint} (known: {listed})")


def name_of(method: object) -> str:
    """What a method is called: the first half of its declared `ID`, as `patch` of `patch/2`."""
    declared: str = type(method).ID  # type: ignore[attr-defined]
    return declared.partition("/")[0]


def identity(method: object) -> Any:
    """Everything that decides the results of a method, as plain data.

    The declared `ID`, whose number rises when the results of the method change, and all settings,
    with the methods inside it. Names of classes and modules are no part of it.

    Args:
        method: a method, a plain value, or a sequence or mapping of such.
    """
    if dataclasses.is_dataclass(method) and not isinstance(method, type):
        settings = {
            field.name: identity(getattr(method, field.name))
            for field in dataclasses.fields(method)
        }
        return {"id": getattr(type(method), "ID", None), "settings": settings}
    if isinstance(method, Mapping):
        return {str(key): identity(value) for key, value in method.items()}
    if isinstance(method, Sequence) and not isinstance(method, str):
        return [identity(value) for value in method]
    if isinstance(method, float) and method.is_integer():
        return int(method)  # 1 and 1.0 are one setting
    return method


def digest_of(told: object) -> str:
    """64 hex digits of anything that `identity` can tell.

    Raises:
        TypeError: it holds something that is neither a method nor a plain value.
    """
    text = json.dumps(identity(told), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
