"""Options from the repository's file and from the environment, put before those of the command.

What is typed wins over the environment, the environment over the file, the file over the default.
The file is looked for from the working directory up to the root of its repository, and never
inside a folder that is given as a model: whoever made the model must not choose how it is judged.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from clipguard.cli.tree import command_of, leaves, options_of
from clipguard.errors import UsageError
from clipguard.files import read_given
from clipguard.registry import require_known
from clipguard.text_safety import safe_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILES = ("clipguard.toml", "pyproject.toml")
PREFIX = "CLIPGUARD_"
NO_FILE = f"{PREFIX}NO_FILE"
MAX_BYTES = 2**20
MODELS = ("models", "model", "reference", "text_from", "lora_base")  # each names a checkpoint
YES, NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
Value = str | bool | list[str]


class Setting(NamedTuple):
    """The value of an option, and where it comes from."""

    value: Value
    origin: str


class Found(NamedTuple):
    """A file with settings: where it lies, and what it holds for clipguard."""

    path: Path
    content: dict[str, Any]


def filled(
    root: Any, words: Sequence[str], found: Found | None
) -> tuple[list[str], dict[str, Setting]]:
    """The command line with the options that the file and the environment add.

    Args:
        root: the command group of the whole program.
        words: what was typed.
        found: see `settings_file`.

    Returns:
        The words, and by parameter name what was added.

    Raises:
        UsageError: a file, key, variable or value that is wrong, or an option given twice.
    """
    command, path, rest = command_of(root, words)
    known = options_of(command)
    require_variables(root)
    if not known or {"-h", "--help"} & set(rest):
        return list(words), {}
    try:
        given, _, order = command.make_parser(command.context_class(command)).parse_args(list(rest))
    except Exception:  # noqa: BLE001 - the parser itself says what is wrong, when it is run
        return list(words), {}
    _require_once(order)
    added = {
        key: setting
        for key, setting in settings_for(root, path, found, _models(given)).items()
        if known[key].name not in given
    }
    more = [word for key, (value, _) in added.items() for word in _words(key, value)]
    return [*path, *more, *rest], {known[key].name: made for key, made in added.items()}


def settings_for(
    root: Any, path: Sequence[str], found: Found | None, models: Sequence[Path] = ()
) -> dict[str, Setting]:
    """What file and environment say for the options of one command.

    Args:
        root: the command group of the whole program.
        path: words of the command, such as `lab`, `plant`.
        found: see `settings_file`.
        models: checkpoints; a file inside one of them is not read.

    Raises:
        UsageError: a file, key or value that is wrong.
    """
    known = options_of(command_of(root, path)[0])
    made: dict[str, Setting] = {}
    if found is not None:
        _require_keys(root, found)
        for table in _tables(found.content, path) if _is_apart(found.path, models) else ():
            for key in table.keys() & known.keys():
                checked = _checked(key, table[key], known[key], found.path)
                made[key] = Setting(checked, found.path.name)
    for key, param in known.items():
        if (name := variable_of(key)) in os.environ:
            made[key] = Setting(_from_text(name, os.environ[name], param), name)
    return made


def variable_of(key: str) -> str:
    """The environment variable of an option: `CLIPGUARD_PROBE_DATA` of `probe-data`."""
    return f"{PREFIX}{key.upper().replace('-', '_')}"


def settings_file(folder: Path) -> Found | None:
    """The nearest file with settings, from `folder` up to the root of its repository.

    Outside of a repository only `folder` itself is looked at, and none where `CLIPGUARD_NO_FILE`
    is set: a workflow may not want to take settings from what it checks.

    Raises:
        UsageError: it cannot be read.
    """
    if os.environ.get(NO_FILE):
        return None
    here = folder.absolute()
    way = [here, *here.parents]
    root = next((i for i, one in enumerate(way) if (one / ".git").exists()), 0)
    for place in way[: root + 1]:
        for name in FILES:
            content = _read(place / name)
            if content is not None:
                return Found(place / name, content)
    return None


def _read(path: Path) -> dict[str, Any] | None:
    """What a file holds for clipguard, or None if it is not there or says nothing of it."""
    if not path.is_file():
        return None
    own = path.name == FILES[0]
    text = read_given(path, MAX_BYTES)
    if not own and "clipguard" not in text:
        return None
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError(f"{path.name}: not TOML ({safe_text(error)})") from error
    tool = data.get("tool")
    found = data if own else tool.get("clipguard") if isinstance(tool, dict) else None
    if found is not None and not isinstance(found, dict):
        raise UsageError(f"{path.name}: expected a table tool.clipguard, got a value")
    return found


def _require_keys(root: Any, found: Found) -> None:
    """Refuse keys that no command knows: a mistyped one would set nothing."""
    every = sorted({key for one in leaves(root) for key in options_of(one)})
    plain = [key for key, value in found.content.items() if not isinstance(value, dict)]
    for key in plain:
        require_known(safe_text(key), every, f"setting of {found.path.name}")
    for key, value in found.content.items():
        if isinstance(value, dict):
            _require_table(root, key, value, found.path.name)


def _require_table(group: Any, name: str, table: Mapping[str, Any], file: str) -> None:
    commands = getattr(group, "commands", {})
    require_known(safe_text(name), sorted(commands), f"command with settings in {file}")
    command = commands[name]
    known = sorted(options_of(command))
    for key, value in table.items():
        if isinstance(value, dict):
            _require_table(command, key, value, file)
        else:
            require_known(safe_text(key), known, f"option of {name} in {file}")


def _tables(content: Mapping[str, Any], path: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The settings of all commands, then those of the group, then those of the command."""
    table: Any = content
    yield dict(table)
    for word in path:
        table = table.get(word)
        if not isinstance(table, dict):
            return
        yield table


def _checked(key: str, value: object, param: Any, file: Path) -> Value:
    """A value of TOML as what could be typed; a path is read from the folder of the file."""
    told = f"{file.name}: {key}"
    if param.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"{told}: expected true or false, got {safe_text(value)!r}")
        return value
    entries = value if isinstance(value, list) else [value]
    if isinstance(value, list) and not param.multiple:
        raise UsageError(f"{told}: expected one value, got a list")
    if any(isinstance(one, bool | dict | list) or not str(one).strip() for one in entries):
        raise UsageError(f"{told}: expected text or a number, got {safe_text(value)!r}")
    texts = [_placed(key, str(one), file.parent) for one in entries]
    return texts if param.multiple else texts[0]


def _placed(key: str, text: str, folder: Path) -> str:
    there = folder / text
    return str(there) if key.startswith("output") or there.exists() else text


def _from_text(name: str, text: str, param: Any) -> Value:
    """The value of a variable; where an option may be repeated, commas stand between."""
    if param.is_flag:
        if text.lower() not in (*YES, *NO):
            raise UsageError(f"{name}: expected true or false, got {safe_text(text)!r}")
        return text.lower() in YES
    return [one.strip() for one in text.split(",")] if param.multiple else text


def _words(key: str, value: Value) -> list[str]:
    if isinstance(value, bool):
        return [f"--{key}"] if value else []
    return [f"--{key}={one}" for one in (value if isinstance(value, list) else [value])]


def require_variables(root: Any) -> None:
    """Refuse a variable of ours that is empty, and one that is nearly one of ours."""
    known = {variable_of(key) for one in leaves(root) for key in options_of(one)}
    for name in sorted(os.environ):
        if name in known and not os.environ[name].strip():
            raise UsageError(f"{name} is empty; give it a value, or unset it")
        if name in known or name == NO_FILE or not name.startswith(PREFIX):
            continue
        if close := get_close_matches(name, known, 1, 0.87):
            raise UsageError(f"no variable named {name}, did you mean {close[0]}?")


def _require_once(order: Sequence[Any]) -> None:
    """Refuse an option that is given twice and counts once."""
    seen: set[str] = set()
    for param in order:
        once = param.param_type_name == "option" and not param.multiple and not param.is_flag
        if once and param.name in seen:
            shown = max(param.opts, key=len)
            raise UsageError(f"{shown} is given twice, and only one value can count; leave one out")
        seen.add(param.name)


def _models(given: Mapping[str, Any]) -> list[Path]:
    found: list[Path] = []
    for name in MODELS:
        value = given.get(name)
        found += [Path(one) for one in ([value] if isinstance(value, str) else value or ())]
    return found


def _is_apart(file: Path, models: Sequence[Path]) -> bool:
    """Whether a file is in no model. Beside one it is refused, since it may have come with it."""
    here = file.resolve()
    for model in models:
        if model.is_file() and model.resolve().parent == here.parent:
            raise UsageError(
                f"{file.name} lies beside {safe_text(model.name)} and may have come with it; put "
                f"the model into another folder, or set {NO_FILE}=1 and type the options"
            )
    return not any(model.is_dir() and here.is_relative_to(model.resolve()) for model in models)
