"""A command that a record proposes does what the options say, whatever the files are called."""

import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import given, settings
from hypothesis import strategies as st

import clipguard.audit.calibrate
import clipguard.audit.scan
from clipguard.audit.command import command, how_to_calibrate
from clipguard.audit.options import Options
from clipguard.cli.app import build_app
from clipguard.policy import judge
from clipguard.policy.judge import load_policy
from clipguard.probe.load import ProbeSource

LETTERS = st.characters(blacklist_categories=["Cs"], blacklist_characters="/\x00")
NAMES = st.text(LETTERS, min_size=1, max_size=12).filter(lambda name: name not in {".", ".."})
FILES = st.builds(Path, NAMES) | st.sampled_from(
    [Path(name) for name in ("-rf", "--policy=x", "a b", "$(id)", "`id`", "x;y", "'", '"', "\n")]
)
MAYBE = st.none() | FILES
ARCHES = st.none() | FILES.map(str)
OPTIONS = st.builds(
    Options,
    policy=st.sampled_from([load_policy(name) for name in ("default", "strict", "research")]),
    profile=st.sampled_from(["fast", "standard", "thorough"]),
    seed=st.none() | st.integers(0, 2**31 - 1),
    purify=st.sampled_from([None, "never", "on-fail", "always"]),
    export=st.sampled_from(["none", "onnx"]),
    provider=st.sampled_from([None, "cuda", "cpu"]),
    budget_s=st.none() | st.floats(1, 1e9),
    arch=ARCHES,
    text_from=MAYBE,
    lora_base=MAYBE,
    probe=st.builds(
        ProbeSource, images=MAYBE, class_names=MAYBE, templates=MAYBE, vocabulary=MAYBE
    ),
    calibration=MAYBE,
    reference=MAYBE,
    canary=st.booleans(),
    device=st.sampled_from(["auto", "cpu", "cuda:1"]),
    sandbox=st.sampled_from(["auto", "process", "none"]),
)


APP = typer.main.get_command(build_app())


class Taken(BaseException):  # scan reports an Exception of one model and goes on
    """What the command line asked for."""


@pytest.fixture(autouse=True, scope="module")
def _no_audit() -> Any:
    def take(model: Path, wanted: Options, *_: object, **__: object) -> None:
        raise Taken(model, replace(wanted, location=None))  # which follows from the model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "load_policy", cache(load_policy))  # reading YAML is the slow part
        patch.setattr(clipguard.audit.scan, "audit", take)
        patch.setattr(clipguard.audit.calibrate, "measure_clean", take)
        patch.setattr("clipguard.cli.show.require_given", lambda *_: None)  # the files are made up
        yield


def asked_for(line: str) -> tuple[Path, Options]:
    """What the real command line makes of a command that was pasted into a shell."""
    program, *words = shlex.split(line)
    assert program == "clipguard"
    try:
        APP.main(args=words, standalone_mode=False)
    except Taken as taken:
        model, wanted = taken.args
        return model, wanted
    raise AssertionError(line)


@settings(max_examples=40, deadline=None)
@given(OPTIONS, FILES)
def test_a_scan_that_is_written_is_the_scan_that_is_read(wanted: Options, model: Path):
    assert asked_for(command("scan", [model], wanted)) == (model, wanted)


@settings(max_examples=40, deadline=None)
@given(OPTIONS, FILES)
def test_a_purification_that_is_written_is_the_one_that_is_read(wanted: Options, model: Path):
    kept = replace(
        wanted,
        purify="always",
        release="purified",
        export="onnx",
        provider=None,
        budget_s=None,
        reference=None,
        canary=False,
        probe=replace(wanted.probe, vocabulary=None),
    )
    assert asked_for(command("purify", [model], kept)) == (model, kept)


@settings(max_examples=40, deadline=None)
@given(OPTIONS, FILES)
def test_the_advice_to_calibrate_keeps_images_classes_templates_and_architecture(
    wanted: Options, model: Path
):
    calibrate, _, scan = how_to_calibrate(model, wanted).rpartition(", then clipguard scan")
    _, found = asked_for(" ".join([calibrate, *["CLEAN"] * 5]))
    for part in ("profile", "arch", "device"):
        assert getattr(found, part) == getattr(wanted, part)
    assert found.probe == replace(wanted.probe, vocabulary=None)
    assert found.seed == (wanted.seed or 0)  # a band counts its seeds up
    read, again = asked_for(f"clipguard scan{scan}")
    assert read == model
    assert again == replace(wanted, calibration=Path("band.json"))


def test_no_command_names_the_machine():
    told = command("scan", [Path("/home/me/model.pt")], Options(policy=load_policy("default")))
    assert "/home/me" not in told
    assert told.endswith(" model.pt")
