"""What this machine has left: memory and disk."""

from __future__ import annotations

import shutil
from pathlib import Path

MEMORY = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")
STATUS = Path("/proc/self/status")
FORGET = Path("/proc/self/clear_refs")


def free_memory() -> int | None:
    """Bytes that this process may still take, or None where the system does not say.

    A container's own limit counts where it is lower than what the machine has.
    """
    known = [room for room in (_of_machine(), _of_group()) if room is not None]
    return min(known, default=None)


def peak_memory() -> int | None:
    """Most bytes that this process held since its start, or since `forget_peak`.

    None where the system does not say.
    """
    return _kilobytes(STATUS, "VmHWM:")


def forget_peak() -> bool:
    """Let `peak_memory` count from here on; whether the system agreed."""
    try:
        FORGET.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def free_disk(place: Path) -> int:
    """Bytes that can be written at `place`, which may not be there yet."""
    there = next(one for one in (place, *place.absolute().parents) if one.exists())
    return shutil.disk_usage(there).free


def _of_machine() -> int | None:
    return _kilobytes(MEMORY, "MemAvailable:")


def _kilobytes(file: Path, key: str) -> int | None:
    try:
        found = file.read_text(encoding="ascii").partition(key)[2].split()
    except (OSError, ValueError):
        return None
    return int(found[0]) * 1024 if found and found[0].isdigit() else None


def _of_group() -> int | None:
    """What the control group of a container leaves; its caches can be given back."""
    try:
        most = (GROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((GROUP / "memory.current").read_text(encoding="ascii"))
        rows = (GROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = sum(int(row.split()[1]) for row in rows if row.startswith("inactive_file "))
    except (OSError, ValueError):
        return None
    return max(0, int(most) - used + cached) if most.isdigit() else None
