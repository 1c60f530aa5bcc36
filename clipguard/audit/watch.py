"""Wall time per stage of a run, and its budget."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from clipguard.errors import BudgetSpentError
from clipguard.search.roles import Progress


class Watch:
    """Wall time per stage, and the budget."""

    def __init__(self, budget_s: float | None, progress: Progress) -> None:
        """Start the clock."""
        self.started = time.monotonic()
        self.created = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.seconds: dict[str, float] = {}
        self._budget_s, self._progress = budget_s, progress

    @property
    def deadline(self) -> float | None:
        """When the budget is used up, by `time.monotonic`; None without one."""
        return None if self._budget_s is None else self.started + self._budget_s

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage."""
        begun = time.monotonic()
        self._progress(name, 0, 1)
        try:
            yield
        finally:
            self.seconds[name] = round(time.monotonic() - begun, 3)

    @property
    def is_spent(self) -> bool:
        """Whether the budget is used up."""
        return self.deadline is not None and time.monotonic() > self.deadline

    def progress(self, stage: str, done: int, total: int) -> None:
        """Pass progress on; stop when the budget is used up.

        Raises:
            BudgetSpentError: no time left.
        """
        if self.is_spent:
            raise BudgetSpentError(
                f"the budget of {self._budget_s:g} s ran out during {stage}, at step {done} of "
                f"{total}"
            )
        self._progress(stage, done, total)
