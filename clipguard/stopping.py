"""Ends a command that was told to end and does not: some calls of libraries last for long."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from clipguard.errors import INTERRUPTED, TERMINATED

GRACE_S = 2.0
"""Seconds in which a command may end as usual."""
CODES = {signal.SIGINT: (INTERRUPTED, "interrupted"), signal.SIGTERM: (TERMINATED, "terminated")}
_last: list[Callable[[], None]] = []


@contextmanager
def before_the_end(say: Callable[[], None]) -> Iterator[None]:
    """Should the process be ended in here, `say` is called first, by another thread."""
    _last.append(say)
    try:
        yield
    finally:
        _last.remove(say)


@contextmanager
def ends_soon() -> Iterator[None]:
    """After an interrupt or SIGTERM the process ends within some seconds, whatever it does.

    Python calls the handler of a signal only between its own steps. A signal that arrives during a
    long step of a library would wait for its end.
    """
    if threading.current_thread() is not threading.main_thread():  # who alone gets signals
        yield
        return
    here, there = socket.socketpair()
    there.setblocking(False)
    before = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(here, done), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(before)
        there.close()
        watcher.join()
        here.close()


def _watch(signals: socket.socket, done: threading.Event) -> None:
    while number := signals.recv(1):
        if number[0] in CODES and not done.wait(GRACE_S):
            _end(*CODES[signal.Signals(number[0])])


def _end(code: int, how: str) -> None:
    for say in reversed(_last):
        with suppress(Exception):
            say()
    with suppress(OSError, ValueError):
        sys.stderr.write(f"{how}\n")
        sys.stderr.flush()
    os._exit(code)
