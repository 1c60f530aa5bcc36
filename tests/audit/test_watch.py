"""Wall time per stage, and the budget."""

import time
from datetime import datetime

import pytest

from clipguard.audit.watch import Watch
from clipguard.errors import INCONCLUSIVE, InconclusiveError


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The time, in a list so that a test can move it."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_stage_is_timed_even_when_it_fails(clock):
    run = Watch(None, lambda *_: None)
    with run.stage("load"):
        clock[0] += 2

    def broken_stage() -> None:
        with run.stage("detect"):
            clock[0] += 0.5
            raise KeyError

    with pytest.raises(KeyError):
        broken_stage()
    assert run.seconds == {"load": 2.0, "detect": 0.5}


def test_a_budget_that_is_used_up_is_inconclusive_and_says_where(clock):
    run = Watch(10, lambda *_: None)
    clock[0] += 10
    run.progress("collapse", 1, 4)
    clock[0] += 0.1
    with pytest.raises(InconclusiveError, match="budget of 10 s ran out during collapse") as caught:
        run.progress("collapse", 2, 4)
    assert caught.value.exit_code == INCONCLUSIVE


def test_without_a_budget_nothing_runs_out(clock):
    run = Watch(None, lambda *_: None)
    clock[0] += 1e9
    run.progress("collapse", 1, 4)


def test_progress_and_stages_are_passed_on(clock):
    told: list[tuple[str, int, int]] = []
    run = Watch(5, lambda *news: told.append(news))
    with run.stage("detect"):
        run.progress("screen", 2, 3)
    assert told == [("detect", 0, 1), ("screen", 2, 3)]


def test_the_start_is_noted_in_utc(clock):
    created = datetime.fromisoformat(Watch(None, lambda *_: None).created)
    assert created.utcoffset().total_seconds() == 0
