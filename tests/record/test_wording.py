"""Numbers as every rendering says them."""

import pytest

from clipguard.record.wording import percent_beside


@pytest.mark.parametrize(
    ("share", "limit", "shown"),
    [
        (0.0204, 0.02, "2.04 %"),
        (0.02, 0.02, "2.0 %"),
        (0.05, 0.02, "5.0 %"),
        (0.79999, 0.8, "79.999 %"),
        (0.02 + 1e-9, 0.02, "2.0000 %"),
        (-0.0, 0.02, "0.0 %"),
    ],
)
def test_a_share_is_shown_apart_from_the_limit_it_misses(share: float, limit: float, shown: str):
    assert percent_beside(share, limit) == shown
