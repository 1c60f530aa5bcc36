"""Exit codes: a finding is never hidden by an error, an error never looks like a pass."""

import itertools

import pytest

from clipguard import errors
from clipguard.errors import ClipguardError, worst_exit_code

# The order of the design: interrupted, usage, refused, violated, purify, export, environment, ...
ORDER = [130, 143, 2, 4, 1, 7, 6, 5, 3, 0]


def test_the_earlier_code_of_the_design_wins_in_any_order():
    for strong, weak in itertools.combinations_with_replacement(ORDER, 2):
        assert worst_exit_code([strong, weak]) == worst_exit_code([weak, strong]) == strong
    assert worst_exit_code([]) == errors.INCONCLUSIVE  # nothing having run is no pass


@pytest.mark.parametrize("code", [-9, 8, 137, 255])
def test_an_unknown_code_counts_as_a_broken_environment(code: int):
    assert worst_exit_code([0, code]) == errors.ENVIRONMENT
    assert worst_exit_code([1, code]) == errors.POLICY_VIOLATED


def test_every_explained_failure_has_a_code_that_is_no_answer_of_the_gate():
    kinds: list[type[ClipguardError]] = [ClipguardError, *ClipguardError.__subclasses__()]
    assert {kind.exit_code for kind in kinds} == {2, 3, 4, 5, 6}
