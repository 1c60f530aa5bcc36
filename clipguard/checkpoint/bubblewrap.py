"""How a Python of our own is started: alone, or shut in by bubblewrap with what it needs only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

START_S = 10
ALONE = (
    *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
    *("--die-with-parent", "--cap-drop", "ALL"),
)
"""No network, no other process in sight, no rights."""
LIBRARIES = (
    *("/usr/lib", "/usr/lib64", "/usr/local/lib", "/lib", "/lib64", "/nix/store"),
    *("/etc/ld.so.cache", "/etc/alternatives"),
)
"""Where systems keep shared libraries, and Pythons of their own."""


@dataclass(frozen=True)
class Program:
    """A part of clipguard that is run as a process.

    Attributes:
        module: whose `main` is called.
        packages: what it imports that is not of Python, the first of them our own.
    """

    module: str
    packages: tuple[str, ...]


READER = Program("clipguard.checkpoint.child", ("clipguard", "numpy"))


def command(program: Program, *, shut_in: bool) -> list[str]:
    """How the command line of `program` begins; what follows is its task.

    Python is started without its site, which runs what others put there, and finds only `packages`.

    Args:
        program: what to run.
        shut_in: by bubblewrap, see `works`.
    """
    roots = [str(root) for root in _roots(program)]
    line = f"import sys; sys.path += {roots!r}; from {program.module} import main; main()"
    before = _bubblewrap(program) if shut_in else []
    return [*before, _python(), "-I", "-S", "-B", "-X", "utf8", "-c", line]


@lru_cache(maxsize=1)
def works() -> bool:
    """Whether bubblewrap is here, may do what it shall, and Python starts in it."""
    if shutil.which("bwrap") is None:
        return False
    *words, _ = command(READER, shut_in=True)
    try:
        done = subprocess.run(
            [*words, "import ctypes, hashlib, json, zipfile"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=START_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _bubblewrap(program: Program) -> list[str]:
    """A file system of its own, empty but for what Python and the packages are made of.

    No home folder, no temporary folder, no socket, no device and no /proc is in it, and nothing can
    be written. The file to be read comes as an open descriptor.
    """
    user = [] if os.geteuid() == 0 else ["--unshare-user"]
    mounts = [word for path in _needed(program) for word in ("--ro-bind-try", str(path), str(path))]
    return [
        shutil.which("bwrap") or "bwrap",
        *ALONE,
        *user,
        *mounts,
        "--remount-ro",
        "/",
        "--chdir",
        "/",
    ]


def _needed(program: Program) -> Iterator[Path]:
    yield from map(Path, LIBRARIES)
    for name in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep):
        if os.path.isabs(name):
            yield Path(name)
    yield from (Path(sys.base_prefix) / name for name in ("lib", "lib64"))
    yield Path(_python())
    yield Path(_python()).parents[1] / "pyvenv.cfg"  # of an environment that has a copy of Python
    yield from _packages(program)
    for root in _roots(program):
        yield from sorted(root.glob("*.libs"))  # shared libraries of wheels


def _python() -> str:
    """The program itself, not a link to it from an environment, which would be needed as well."""
    return os.path.realpath(sys.executable)


def _roots(program: Program) -> list[Path]:
    return sorted({path.parent for path in _packages(program)})


def _packages(program: Program) -> list[Path]:
    """The folder of each package, the file of a module."""
    specs = [spec for spec in map(find_spec, program.packages) if spec]
    places = [spec.submodule_search_locations or [spec.origin or ""] for spec in specs]
    return [Path(path) for found in places for path in found if path]
