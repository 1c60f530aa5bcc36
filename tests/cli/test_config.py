"""Options from a file of the repository and from the environment: which wins, what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from clipguard.cli.app import main
from clipguard.cli.settings import settings_file


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a folder in it, in which one works."""
    (tmp_path / ".git").mkdir()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "deep" / "er")
    return tmp_path


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, tuple[str, ...]]:
    """What `config show` says: option to value and origin."""
    assert main(["config", "show", *words]) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    pairs = (row.partition(" = ") for row in rows)
    return {key: tuple(told.split("  # ")) for key, _, told in pairs}


def test_what_is_typed_wins_over_the_environment_and_that_over_the_file(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (repository / "clipguard.toml").write_text(
        'policy = "strict"\nprofile = "fast"\nseed = 3\n'
        '[scan]\nseed = 4\nformat = ["json", "sarif"]\ncanary = true\n'
    )
    monkeypatch.setenv("CLIPGUARD_PROFILE", "thorough")
    monkeypatch.setenv("CLIPGUARD_DEVICE", "cpu")
    found = shown(capsys, "scan", "--policy", "research")
    assert found["policy"] == ("research", "command line")
    assert found["profile"] == ("thorough", "CLIPGUARD_PROFILE")
    assert found["device"] == ("cpu", "CLIPGUARD_DEVICE")
    assert found["seed"] == ("4", "clipguard.toml")
    assert found["format"] == ("json, sarif", "clipguard.toml")
    assert found["canary"] == ("true", "clipguard.toml")
    assert found["purifier"] == ("realign+cbpt", "default")
    assert shown(capsys, "purify")["seed"] == ("3", "clipguard.toml")


def test_settings_of_a_command_reach_it_under_its_short_form_too(
    repository: Path, tmp_path: Path, refused: Callable[..., str]
):
    (repository / "clipguard.toml").write_text('[report.render]\nformat = ["pdf"]\n')
    for words in (["report", "audit.json"], ["report", "render", "audit.json"]):
        assert "no format named 'pdf'" in refused(2, *words)
    assert main(["report", "--help"]) == 0


def test_settings_reach_the_command_and_an_error_names_their_origin(
    repository: Path, refused: Callable[..., str]
):
    (repository / "pyproject.toml").write_text('[tool.clipguard]\npolicy = "strcit"\n')
    assert "did you mean 'strict'" in refused(2, "gate", "audit.json")
    (repository / "pyproject.toml").write_text('[tool.clipguard.scan]\nprofile = "standart"\n')
    told = refused(2, "scan", "model.pt")
    assert "pyproject.toml" in told
    assert "'standard'" in told


def test_a_path_in_the_file_is_read_from_its_folder(
    repository: Path, capsys: pytest.CaptureFixture[str]
):
    (repository / "ci").mkdir()
    (repository / "ci" / "mine.yaml").write_text("")
    (repository / "clipguard.toml").write_text(
        'policy = "ci/mine.yaml"\noutput-dir = "reports"\nreference = "hf-hub:owner/name"\n'
    )
    found = shown(capsys)
    assert found["policy"][0] == str(repository / "ci" / "mine.yaml")
    assert found["output-dir"][0] == str(repository / "reports")
    assert found["reference"][0] == "hf-hub:owner/name"


def test_the_nearest_file_counts_and_none_outside_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    inner = tmp_path / "repository" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "clipguard.toml").write_text('policy = "strict"\n')
    assert settings_file(inner) is None  # no repository: only the folder itself
    (tmp_path / "repository" / ".git").write_text("gitdir: elsewhere")
    assert settings_file(inner) is None
    (tmp_path / "repository" / "pyproject.toml").write_text("[tool.other]\n")
    assert settings_file(inner) is None
    own = tmp_path / "repository" / "clipguard.toml"
    own.write_text("")
    assert settings_file(inner).path == own
    monkeypatch.setenv("CLIPGUARD_NO_FILE", "1")
    assert settings_file(inner) is None


@pytest.mark.parametrize("words", [["scan", "."], ["scan", "m.pt", "--reference", "."]])
def test_a_file_in_a_folder_that_is_given_as_a_model_is_not_read(
    words: list[str], repository: Path, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
):
    model = repository / "model"
    model.mkdir()
    (model / "clipguard.toml").write_text('policy = "nosuch"\n')
    (model / ".git").mkdir()  # it may well be a repository of its own
    monkeypatch.chdir(model)
    assert "nosuch" in refused(2, "scan", "m.pt", "-q")
    assert "nosuch" not in refused(2, *words, "-q")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('polcy = "strict"', "did you mean 'policy'"),
        ('[scna]\npolicy = "strict"', "did you mean 'scan'"),
        ('[gate]\nprofile = "fast"', "no option of gate"),
        ("seed = [1, 2]", "expected one value"),
        ('canary = "yes"', "expected true or false"),
        ('policy = " "', "expected text"),
        ("policy = strict", "not TOML"),
    ],
)
def test_a_file_that_sets_nothing_is_refused(
    text: str, says: str, repository: Path, refused: Callable[..., str]
):
    (repository / "clipguard.toml").write_text(text)
    assert says in refused(2, "scan", "model.pt")


@pytest.mark.parametrize(("name", "value"), [("POLICY", ""), ("POLICY", "  "), ("CANARY", "maybe")])
def test_a_variable_that_is_empty_or_no_answer_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, refused: Callable[..., str]
):
    monkeypatch.setenv(f"CLIPGUARD_{name}", value)
    assert f"CLIPGUARD_{name}" in refused(2, "scan", "model.pt")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["scan", "m.pt", "--classnames", "a", "--classnames", "b"], "--classnames is given twice"),
        (["scan", "m.pt", "-o", "a", "--output-dir=b"], "--output-dir is given twice"),
        (["scan", "m.pt", "--profile", "standart"], "did you mean 'standard'"),
        (["scan", "m.pt", "--porfile", "fast"], "--profile"),
        (["scna", "m.pt"], "scan"),
        (["policy", "shwo", "default"], "show"),
    ],
)
def test_a_typing_error_is_told_with_what_may_have_been_meant(
    words: list[str], says: str, refused: Callable[..., str]
):
    assert says in refused(2, *words)
