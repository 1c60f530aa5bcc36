"""What every test relies on: plain imports from the tests folder, one thread each."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
# Sums depend on the number of threads, so a machine's size must not choose it; and pytest-xdist
# fills the cores. For the processes that tests start, too.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call it with an exit code and a command that ends with it in one line, which it returns."""
    from clipguard.cli.app import main  # here, so that coverage sees the package being imported

    def run(code: int, *words: object) -> str:
        found = main([str(word) for word in words])
        out, err = capsys.readouterr()
        assert found == code, err
        assert re.fullmatch(r"(Fail: .*\n)?", out)  # a file that is refused is a result of `scan`
        assert re.fullmatch(r"error: .*\n", err), err
        return err

    return run


@pytest.fixture
def one_line() -> Callable[..., AbstractContextManager[None]]:
    """Call it with an error and a pattern: what is done then raises that in one printable line."""

    @contextmanager
    def raised(error: type[Exception], pattern: str) -> Iterator[None]:
        with pytest.raises(error, match=pattern) as caught:
            yield
        assert str(caught.value).isprintable()

    return raised
