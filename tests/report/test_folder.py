"""The report folder: filled at once, never half, nothing stale."""

import shutil
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from samples import RECORDS

from clipguard.errors import UsageError
from clipguard.record.schema import dumps
from clipguard.report.folder import (
    ARTEFACTS,
    LOCK,
    clear_report,
    discard,
    publish_report,
    require_ours,
    workspace,
)
from clipguard.report.formats import RENDERERS


def files(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in folder.rglob("*") if f.is_file()}


def old_report(out: Path) -> None:
    for name in ARTEFACTS:
        if "." in name:
            (out / name).write_text("old")
    (out / "triggers").mkdir()
    (out / "triggers" / "9.png").write_text("old")


def test_nothing_shows_before_it_is_published(tmp_path: Path):
    out = tmp_path / "deep" / "out"
    with workspace(out) as work:
        (work / "audit.json").write_text("new")
        assert not (out / "audit.json").exists()
        publish_report(work, out, "begun")
    assert files(tmp_path) == {"deep/out/audit.json": "new"}


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_run_that_breaks_leaves_the_folder_as_it_was(tmp_path: Path, failure: type):
    old_report(tmp_path)
    before = files(tmp_path)

    def broken_run() -> None:
        with workspace(tmp_path) as work:
            (work / "audit.json").write_text("half")
            (work / "triggers").mkdir()
            raise failure

    with pytest.raises(failure):
        broken_run()
    assert files(tmp_path) == before


@pytest.mark.parametrize(("failure", "moved"), [(OSError, 0), (KeyboardInterrupt, 1), (OSError, 2)])
def test_a_move_that_breaks_leaves_no_file_without_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: type, moved: int
):
    move = shutil.move

    def breaks(source: str, target: Path) -> None:
        # the workspace, its lock and a record that is not complete stand there too
        if sum(1 for _ in tmp_path.iterdir()) - 3 == moved:
            raise failure
        move(source, target)

    monkeypatch.setattr("clipguard.report.folder.shutil.move", breaks)
    with workspace(tmp_path) as work:
        (work / "model.onnx").write_text("new")
        (work / "triggers").mkdir()
        (work / "audit.json").write_text("new")
        with pytest.raises(failure):
            publish_report(work, tmp_path, "begun")
    assert list(tmp_path.iterdir()) == []
    clear_report(tmp_path, "begun")


@pytest.mark.parametrize("name", [name for name in ARTEFACTS if "." in name])
def test_a_removal_that_is_interrupted_can_be_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    old_report(tmp_path)
    unlink = Path.unlink

    def stops(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        if path.name == name:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", stops)
        with pytest.raises(KeyboardInterrupt):
            clear_report(tmp_path, "begun")
    clear_report(tmp_path, "begun")
    assert list(tmp_path.iterdir()) == []


def test_no_artefact_of_an_earlier_audit_stands_beside_a_new_verdict(tmp_path: Path):
    old_report(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    with workspace(tmp_path) as work:
        (work / "audit.json").write_text("new")
        (work / "triggers").mkdir()
        (work / "triggers" / "1.png").write_text("new")
        publish_report(work, tmp_path, "begun")
    assert files(tmp_path) == {"audit.json": "new", "triggers/1.png": "new", "notes.txt": "mine"}


def test_clearing_never_follows_a_link_out_of_the_folder(tmp_path: Path):
    mine, out = tmp_path / "mine", tmp_path / "out"
    mine.mkdir()
    out.mkdir()
    (mine / "keep.txt").write_text("mine")
    (out / "triggers").symlink_to(mine)
    (out / "audit.json").symlink_to(mine / "keep.txt")
    clear_report(out, "begun")
    assert list(out.iterdir()) == []
    assert files(mine) == {"keep.txt": "mine"}


def test_clearing_an_empty_or_missing_folder_is_nothing_to_do(tmp_path: Path):
    clear_report(tmp_path, "begun")
    clear_report(tmp_path / "none", "begun")


@pytest.mark.parametrize("inner", ["", "deeper"])
def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path, inner: str):
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(UsageError, match=r"cannot write to .*; choose another -o"),
        workspace(tmp_path / "file" / inner),
    ):
        pytest.fail("a workspace in a file")
    assert files(tmp_path) == {"file": "in the way"}


def test_a_folder_that_may_not_be_written_is_explained(tmp_path: Path, monkeypatch):
    denied = Mock(side_effect=PermissionError(13, "Permission denied"))
    monkeypatch.setattr("clipguard.report.folder.tempfile.mkdtemp", denied)
    with pytest.raises(UsageError, match="Permission denied"), workspace(tmp_path):
        pytest.fail("a workspace without permission")


def test_files_that_no_audit_left_are_not_removed(tmp_path: Path):
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(UsageError, match=r"holds model.onnx and no audit.json"):
        clear_report(tmp_path, "begun")
    assert files(tmp_path) == {"model.onnx": "mine"}


@pytest.mark.parametrize("name", [name for name in ARTEFACTS if "." in name])
def test_a_file_of_another_tool_with_one_of_our_names_is_no_report_to_replace(
    tmp_path: Path, name: str
):
    (tmp_path / name).write_text('{"auditReportVersion": 2}')
    with pytest.raises(UsageError, match=f"holds {name}"):
        require_ours(tmp_path)


def test_a_report_of_ours_may_be_replaced_and_a_page_of_another_tool_beside_it_not(tmp_path: Path):
    record, page = RECORDS["pass"](), tmp_path / "report.html"
    page.write_text(RENDERERS.build("html").render(record, tmp_path), encoding="utf-8")
    require_ours(tmp_path)  # `report -o` leaves it alone
    (tmp_path / "audit.json").write_text(dumps(record))
    (tmp_path / "model.onnx").write_text("of that audit")
    require_ours(tmp_path)
    page.write_text("<title>Test report</title>")
    with pytest.raises(UsageError, match=r"holds report\.html"):
        require_ours(tmp_path)


def test_a_folder_is_for_one_audit_at_a_time(tmp_path: Path):
    with workspace(tmp_path):
        with pytest.raises(UsageError, match="at work"), workspace(tmp_path):
            pytest.fail("two at once")
        assert (tmp_path / LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path: Path):
    code = (
        "import os, sys; from pathlib import Path; from clipguard.report.folder import workspace\n"
        "with workspace(Path(sys.argv[1])): print('ready', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "ready\n"
    with pytest.raises(UsageError, match=rf"process {other.pid}\b"), workspace(tmp_path):
        pytest.fail("two at once")
    other.kill()
    other.communicate()
    assert (tmp_path / LOCK).exists()
    with workspace(tmp_path) as work:
        discard(work)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["hard", "symbolic", "plain"])
def test_a_lock_that_is_somebody_elses_file_is_left_as_it_is(tmp_path: Path, kind: str):
    mine, lock = tmp_path / "notes.txt", tmp_path / "out" / LOCK
    mine.write_text("12345")
    lock.parent.mkdir()
    if kind == "hard":
        lock.hardlink_to(mine)
    elif kind == "symbolic":
        lock.symlink_to(mine)
    else:
        lock.write_text("a list of locks")
    before = lock.read_text()
    with pytest.raises(UsageError, match="no lock that clipguard wrote"), workspace(lock.parent):
        pytest.fail("a workspace under a lock of somebody else")
    assert (mine.read_text(), lock.read_text()) == ("12345", before)


def test_an_empty_record_vouches_for_nothing(tmp_path: Path):
    (tmp_path / "audit.json").touch()
    (tmp_path / "model.onnx").write_text("mine")
    with pytest.raises(UsageError, match=r"holds model\.onnx"):
        require_ours(tmp_path)
