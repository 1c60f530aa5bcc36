"""Every failure clipguard can explain. Anything else is a bug; a file keeps its traceback."""

from __future__ import annotations

PASS = 0
POLICY_VIOLATED = 1
USAGE = 2
INCONCLUSIVE = 3
REFUSED = 4
ENVIRONMENT = 5
EXPORT = 6
PURIFY_MISSED = 7
INTERRUPTED = 130
TERMINATED = 143

SEVERITY = (
    INTERRUPTED,
    TERMINATED,
    USAGE,
    REFUSED,
    POLICY_VIOLATED,
    PURIFY_MISSED,
    EXPORT,
    ENVIRONMENT,
    INCONCLUSIVE,
    PASS,
)


def worst_exit_code(codes: list[int]) -> int:
    """The code that must win when several apply: an error never hides a finding.

    Args:
        codes: exit codes of the parts of one run; unknown codes count as `ENVIRONMENT`.

    Returns:
        The most severe code, `INCONCLUSIVE` when nothing ran.
    """
    known = [code if code in SEVERITY else ENVIRONMENT for code in codes]
    return min(known, key=SEVERITY.index, default=INCONCLUSIVE)


class ClipguardError(Exception):
    """An explained failure. The CLI prints the message and exits with `exit_code`."""

    exit_code = ENVIRONMENT


class UsageError(ClipguardError):
    """A wrong option, path, policy, class list, method name or setting."""

    exit_code = USAGE


class InconclusiveError(ClipguardError):
    """Too little was left to look at; the message says what."""

    exit_code = INCONCLUSIVE


class BudgetSpentError(InconclusiveError):
    """The time that was given is used up; the message says during what."""


class RefusedError(ClipguardError):
    """The file is not a checkpoint, or opening it could run code or exhaust the machine."""

    exit_code = REFUSED


class ExportError(ClipguardError):
    """The exported model differs from PyTorch, or the wanted execution provider is not there."""

    exit_code = EXPORT
