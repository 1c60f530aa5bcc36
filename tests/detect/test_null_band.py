"""Null bands: worked by hand, and read from hostile files."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import stripes_probe
from hypothesis import given, settings
from hypothesis import strategies as st

from clipguard.detect.inversion import TriggerInversion
from clipguard.detect.null_band import (
    MIN_MODELS,
    SPREAD_FLOOR,
    Band,
    Calibration,
    CleanModel,
    dump_calibration,
    read_calibration,
    scan_key,
    standardise,
)
from clipguard.errors import UsageError
from clipguard.probe.load import Scenes
from clipguard.search.families.additive import Additive
from clipguard.search.families.patch import Patch
from clipguard.search.inverters.collapse import Collapse
from clipguard.search.inverters.screen import Screen
from clipguard.search.inverters.targeted import Targeted

PATCH = (-1.5, -0.5, 0.5, 1.5, -1.0, 1.0)
ADDITIVE = (10.0, 11.0, 12.0, 13.0, 14.0, 18.0)


def calibration(**families: tuple[float, ...]) -> Calibration:
    """One clean model per column."""
    count = len(next(iter(families.values())))
    models = tuple(
        CleanModel(
            name=f"m{i}", sha256=f"{i:064x}", statistics={n: v[i] for n, v in families.items()}
        )
        for i in range(count)
    )
    return Calibration(key="nano-rn/standard/abc", command="clipguard calibrate", models=models)


def band(**families: tuple[float, ...]) -> Band:
    return Band(calibration(**families), "0" * 64)


def test_standardise_counts_predictive_standard_deviations():
    # mean 4, sample variance (4 + 0 + 4) / 2 = 4, widened by sqrt(4 / 3)
    assert standardise(8, [2, 4, 6]) == pytest.approx(4 / (2 * (4 / 3) ** 0.5))
    assert standardise(4, [2, 4, 6]) == 0
    assert standardise(2, [1, 1, 1, 1]) == pytest.approx(1 / (SPREAD_FLOOR * 1.25**0.5))


ROOT = 7**0.5  # the suspect's unit: sample variance 6, widened by sqrt(7 / 6), around a mean of 1


@pytest.mark.parametrize(
    ("patch", "additive", "excess", "p_value"),
    [
        (1.0, -1.0, 0.0, 3 / 7),
        (0.0, 0.0, -1 / ROOT, 3 / 7),
        (-1.0, -1.0, -2 / ROOT, 1.0),
        (0.0, 999.0, 998 / ROOT, 1 / 7),
    ],
)
def test_the_worst_family_is_compared_with_the_worst_families_of_clean_models(
    patch: float, additive: float, excess: float, p_value: float
):
    # By hand: held against the others, each of the two clean models at 6 stands far out, and the
    # other four lie at -1.2 / (sqrt(7.2) * sqrt(1.2)) = -0.41 in both families.
    null = band(patch=(0, 0, 0, 0, 0, 6), additive=(6, 0, 0, 0, 0, 0))
    records, found, p = null.compare({"patch": patch, "additive": additive})
    assert (found, p) == pytest.approx((excess, p_value))
    assert found == max(record.excess for record in records)


def test_looking_at_more_families_is_paid_for():
    # the last clean model stands out in the other family, so a patch of 2.4 is less surprising
    alone = band(patch=PATCH).compare({"patch": 2.4})
    null = band(patch=PATCH, additive=ADDITIVE)
    both = null.compare({"patch": 2.4, "additive": 10.0})
    assert alone[1] == both[1]
    assert alone[2] < both[2]
    assert null.compare({"patch": 2.4}) == alone  # what was not searched does not count
    (record,) = alone[0]
    assert record.null == tuple(sorted(PATCH))
    assert (record.family, record.tested, record.statistic) == ("patch", True, 2.4)
    assert band(patch=PATCH).compare({"patch": 99.0})[2] == 1 / (len(PATCH) + 1)
    with pytest.raises(UsageError, match="no blend"):
        band(patch=PATCH).compare({"patch": 0.0, "blend": 0.0})


PROBE = replace(stripes_probe(), source="bundled")  # else the number of its scenes is nothing
BASE: dict[str, object] = {
    "family": "nano-rn",
    "profile": "standard",
    "detector": TriggerInversion(),
    "scenes": Scenes(),
    "probe": PROBE,
}


@pytest.mark.parametrize(
    "other",
    [
        {"family": "nano-vit"},
        {"profile": "thorough"},
        {"scenes": Scenes(optimise=9)},
        *(
            {"detector": TriggerInversion(**change)}
            for change in (
                {"families": (Patch(area=0.021), Additive())},
                {"families": (Patch(),)},
                {"collapse": Collapse(steps=41)},
                {"screen": Screen(images=11)},
                {"targeted": Targeted(temperature=0.06)},
                {"candidates": 7},
            )
        ),
        *(
            {"probe": replace(PROBE, **change)}
            for change in ({"source": "x"}, {"class_names": ("x",)}, {"templates": ("{}",)})
        ),
    ],
)
def test_the_key_changes_with_everything_that_changes_the_statistic(other: dict[str, object]):
    assert scan_key(**BASE | other) != scan_key(**BASE)


def test_the_key_rests_on_settings_and_ids_and_on_no_image():
    spelled = TriggerInversion(families=(Patch(), Additive()), targeted=Targeted())
    other = replace(stripes_probe(seed=9), source="bundled")
    same = {"detector": spelled, "scenes": Scenes(), "probe": other}
    key = scan_key(**BASE)
    assert scan_key(**BASE | same) == key
    assert key.startswith("nano-rn/standard/")


finite = st.floats(-1000, 1000)
rows = st.builds(
    CleanModel,
    name=st.text(),
    sha256=st.text(max_size=64),
    statistics=st.dictionaries(st.text(), finite, max_size=3),
)
calibrations = st.builds(
    Calibration,
    key=st.text(),
    command=st.text(),
    models=st.lists(
        rows, min_size=MIN_MODELS, max_size=MIN_MODELS + 3, unique_by=lambda row: row.sha256
    ).map(tuple),
    schema_version=st.just("clipguard.calibration/1"),
)


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("calibration") / "band.json"


@settings(deadline=None)
@given(calibrations)
def test_a_calibration_survives_the_way_to_a_file_and_back(file: Path, wanted: Calibration):
    file.write_text(dump_calibration(wanted), encoding="utf-8")
    found = read_calibration(file)
    assert found.calibration == wanted
    assert found.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.dictionaries(
            st.sampled_from(["key", "command", "models", "name", "sha256", "statistics", "x"]),
            inner,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_calibration_or_explained(file: Path, data: bytes):
    file.write_bytes(data)
    try:
        assert len(read_calibration(file).calibration.models) >= MIN_MODELS
    except UsageError as error:
        told = str(error)
        assert ("band.json" in told, "\n" in told) == (True, False)


def changed(**parts: object) -> str:
    return json.dumps(json.loads(dump_calibration(calibration(patch=PATCH))) | parts)


ROW = {"name": "m", "sha256": "0", "statistics": {"patch": 0.5}}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[" * 100_000,
        '{"models": ' * 50_000,
        changed(extra=1),
        changed(key=None),
        changed(models=[ROW] * (MIN_MODELS - 1)),
        changed(models=[ROW] * MIN_MODELS),  # one model twice
        changed(models=[ROW] * 10_001),
        changed(models=[ROW | {"poisoned": False}] * MIN_MODELS),
        changed(models=[ROW | {"statistics": {"patch": float("nan")}}] * MIN_MODELS),
        changed(models=[ROW | {"statistics": {"patch": float("inf")}}] * MIN_MODELS),
        changed(models=[ROW | {"statistics": {"patch": 10**400}}] * MIN_MODELS),
        changed(models=[ROW | {"statistics": {"patch": "high"}}] * MIN_MODELS),
        changed()[:-20],
    ],
    ids=lambda text: f"{text[:10]}{len(text)}",
)
def test_a_malformed_file_is_refused_by_name(file: Path, text: str):
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=r"band\.json is no calibration file"):
        read_calibration(file)


def test_a_missing_file_a_folder_and_a_huge_file_are_refused_unread(tmp_path: Path):
    with (tmp_path / "huge.json").open("wb") as out:
        out.truncate(2**34)  # sparse; 16 GiB that reading would never survive
    for name, says in (("none.json", "none.json"), ("", "cannot read"), ("huge.json", "at most")):
        with pytest.raises(UsageError, match=says):
            read_calibration(tmp_path / name)
