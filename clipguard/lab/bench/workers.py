"""Jobs in processes of their own, which end when the process that started them does."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from typing import TypeVar

from clipguard.errors import ClipguardError

ORPHANED = 1
Work = TypeVar("Work")


def each_victim(do: Callable[[Work], None], todo: Sequence[Work], jobs: int) -> Iterator[None]:
    """Run `do` on everything in `todo`, here or in processes; what is done stays done.

    Args:
        do: function of a module, where there are several processes.
        todo: what it is called with, in any order where there are several processes.
        jobs: processes, 1 or more; with 1 all is done in this one.

    Returns:
        One None after every call that is done.

    Raises:
        ClipguardError: a process was killed.
    """
    if jobs == 1:
        for one in todo:
            do(one)
            yield
        return
    # Spawned, because a fork of a process with torch's threads may hang.
    pool = ProcessPoolExecutor(
        max_workers=jobs, mp_context=get_context("spawn"), initializer=_end_with_the_parent
    )
    try:
        for future in as_completed([pool.submit(do, one) for one in todo]):
            yield future.result()
    except BrokenProcessPool as error:
        raise ClipguardError(
            "a process of the benchmark was killed, perhaps for its memory; "
            "run it again with fewer --jobs, finished cells are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _end_with_the_parent() -> None:
    """A pool's own processes would finish their job, and take the next, for nobody."""
    threading.Thread(target=_exit_when_orphaned, daemon=True).start()


def _exit_when_orphaned() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(ORPHANED)
