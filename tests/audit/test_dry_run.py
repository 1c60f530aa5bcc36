"""A dry run: nothing is searched or written, and what a pass lacks is told before the work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from clipguard.audit.dry_run import DryRun, dry_run
from clipguard.audit.options import Options
from clipguard.audit.outlook import ground, missing
from clipguard.errors import UsageError
from clipguard.policy.judge import load_policy
from clipguard.probe.load import ProbeSource

pytest_plugins = ["nano_models"]

OPTIONS = Options(policy=load_policy("default"))


@pytest.fixture
def run(nano: Path, tmp_path: Path):
    """Call it with options: the dry run, and that it left nothing behind."""

    def made(options: Options) -> DryRun:
        found = dry_run(nano, options, tmp_path / "out", progress=lambda *_: None)
        assert not (tmp_path / "out").exists()
        return found

    return made


def test_with_its_null_band_the_bundled_model_can_pass_and_under_a_stricter_policy_not(run):
    found = run(OPTIONS)
    assert (ground(found.record), missing(found.record)) == ("band", ())
    assert found.record.probe.measure == 400
    assert found.record.probe.clean_accuracy.value > 0.8
    assert found.forecast.both > 10_000
    assert found.forecast.search_s > 1
    assert found.forecast.memory > 1e8
    policy = load_policy("default")
    backdoor = policy.backdoor.model_copy(update={"grounds": ("base",)})
    wants_base = policy.model_copy(update={"backdoor": backdoor})
    strict = run(replace(OPTIONS, policy=wants_base))
    assert [check.key for check in missing(strict.record)] == ["backdoor.grounds"]


def test_a_reference_that_is_the_model_itself_and_a_wrong_folder_are_told(
    run, nano: Path, tmp_path: Path
):
    for name in ("hammer", "banana"):
        (tmp_path / "noise" / name).mkdir(parents=True)
        for i in range(40):
            picture = Image.effect_noise((32, 32), 90).convert("RGB")
            picture.save(tmp_path / "noise" / name / f"{i}.png")
    source = ProbeSource(images=tmp_path / "noise")
    found = run(replace(OPTIONS, reference=nano, probe=source))
    assert {check.key for check in missing(found.record)} >= {
        "backdoor.references",
        "coverage.min_measure_images",
    }


def test_what_a_scan_refuses_a_dry_run_refuses(run):
    with pytest.raises(UsageError, match="did you mean"):
        run(replace(OPTIONS, arch="nano-rm"))
