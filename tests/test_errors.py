"""Exit codes: a finding is never hidden by an error, an error never looks like a pass."""

import pytest

from clipguard import errors
from clipguard.errors import ClipguardError, worst_exit_code

# The order of the design: interrupted, usage, refused, violated, purify, export, environment, ...
ORDER = [130, 143, 2, 4, 1, 7, 6, 5, 3, 0]


@pytest.mark.parametrize("strong", ORDER)
@pytest.mark.parametrize("weak", ORDER)
def test_the_earlier_code_of_the_design_wins_in_any_order(strong: int, weak: int):
    wanted = min(strong, weak, key=ORDER.index)
    assert worst_exit_code([strong, weak]) == worst_exit_code([weak, strong]) == wanted


def test_nothing_having_run_is_no_pass():
    assert worst_exit_code([]) == errors.INCONCLUSIVE


@pytest.mark.parametrize("code", [-9, 8, 137, 255])
def test_an_unknown_code_counts_as_a_broken_environment(code: int):
    assert worst_exit_code([0, code]) == errors.ENVIRONMENT
    assert worst_exit_code([1, code]) == errors.POLICY_VIOLATED


def test_every_explained_failure_has_a_code_that_is_no_answer_of_the_gate():
    kinds: list[type[ClipguardError]] = [ClipguardError, *ClipguardError.__subclasses__()]
    codes = {kind.exit_code for kind in kinds}
    assert codes == {2, 3, 4, 5, 6}
