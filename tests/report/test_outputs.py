import os
import stat
from pathlib import Path
from unittest.mock import Mock

import pytest
from many_records import MANY

from clipguard.errors import UsageError
from clipguard.files import write_atomic
from clipguard.report.formats import RENDERERS
from clipguard.report.outputs import STDOUT, default_file, is_ours, parse_format, rendered


def test_a_format_may_name_its_file() -> None:
    assert parse_format("html") == ("html", None)
    assert parse_format("sarif=a=b.sarif") == ("sarif", Path("a=b.sarif"))
    assert parse_format("markdown=-") == ("markdown", STDOUT)


@pytest.mark.parametrize(
    ("text", "message"), [("htm", "did you mean 'html'"), ("html=", "no path"), ("", "no format")]
)
def test_a_wrong_format_is_a_usage_error(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_format(text)


def test_each_format_has_a_file_of_its_own() -> None:
    files = [default_file(name) for name in RENDERERS.names()]
    assert {"report.html", "report.json", "report.md", "report.sarif", "report.txt"} <= {*files}
    assert len({*files}) == len(files)


def test_a_file_is_replaced_whole_and_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "a.txt"
    write_atomic(path, "old")
    write_atomic(path, b"new\r\n")
    assert path.read_bytes() == b"new\r\n"
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (OSError(28, "No space left on device"), pytest.raises(UsageError, match="No space left")),
        (KeyboardInterrupt(), pytest.raises(KeyboardInterrupt)),
    ],
)
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: BaseException, told
) -> None:
    write_atomic(tmp_path / "a.txt", "old")
    monkeypatch.setattr(os, "replace", Mock(side_effect=failure))
    with told:
        write_atomic(tmp_path / "a.txt", "new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "old"}


def test_a_symbolic_link_is_not_written_through(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(UsageError, match="symbolic link"):
        write_atomic(tmp_path / "link", "new")
    assert target.read_text() == "old"


def test_a_folder_is_not_a_target(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="got a folder"):
        write_atomic(tmp_path, "x")


def test_a_file_in_the_way_of_a_folder_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        write_atomic(tmp_path / "a" / "b", "x")


@pytest.mark.parametrize("name", RENDERERS.names())
def test_a_document_of_ours_is_known_again_and_none_of_another_format(
    tmp_path: Path, name: str
) -> None:
    kinds = ("pass", "refused", "unjudged", "cut short")
    for kind in kinds:
        (tmp_path / kind).write_text(rendered(name, [(MANY[kind](), tmp_path)]), encoding="utf-8")
        known = [one for one in RENDERERS.names() if is_ours(one, tmp_path / kind)]
        assert known == [name], kind
