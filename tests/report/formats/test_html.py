import base64
import hashlib
import re
from pathlib import Path

import pytest
from page_reader import Page
from samples import (
    RECORDS,
    clean_detector,
    crowded,
    failing,
    judged,
    trigger,
    unjudged,
    write_pictures,
)

from clipguard.record import AuditRecord, Decision, FamilyRecord
from clipguard.report.formats import RENDERERS
from clipguard.report.formats._pictures import LARGEST, SIGNATURE, Pictures
from clipguard.report.formats._strip import strip
from clipguard.report.triggers import HARMLESS


def render(record: AuditRecord, folder: Path = Path("nowhere")) -> str:
    return RENDERERS.build("html").render(record, folder)


@pytest.fixture(params=RECORDS)
def record(request: pytest.FixtureRequest) -> AuditRecord:
    return RECORDS[request.param]()


def test_tags_are_balanced_and_nothing_is_fetched_or_run(record: AuditRecord) -> None:
    text = render(record)
    page = Page(text)
    assert page.open == []
    assert "<script" not in text.lower()
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "link", "base", "form", "a"}
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in {"href", "style", "srcset", "action"}, (tag, name)
            assert name != "src" or (value or "").startswith("data:image/png;base64,")


def test_the_style_is_the_only_one_that_the_policy_allows(record: AuditRecord) -> None:
    text = render(record)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    (csp,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert csp.startswith("default-src 'none'; img-src data:; ")
    assert f"style-src 'sha256-{digest}'" in csp
    assert "unsafe" not in csp


def test_text_from_outside_shows_and_does_nothing_else() -> None:
    text = render(RECORDS["hostile"]())
    page = Page(text)
    for canary in ("<img src=x onerror=alert(1)>", "{{7*7}}", "[bold]", "</style><svg onload="):
        assert canary in page.text
    assert not re.search(r"(?<![0-9a-f])49(?![0-9a-f])", page.text), "a template expression ran"
    for steering in ("\x1b", "\x07", "\u202e"):
        assert steering not in text
    plain = {tag for tag, _ in Page(render(failing())).tags}
    assert {tag for tag, _ in page.tags} <= plain
    assert not any(attributes.get("src") == "x" for _, attributes in page.tags)


def test_the_banner_says_the_verdict_before_anything_else() -> None:
    words = {"pass": "Pass", "fail": "Fail", "inconclusive": "Cannot tell", "refused": "Fail"}
    for kind, word in words.items():
        shown = " ".join(Page(render(RECORDS[kind]())).text.split())
        assert f"clipguard audit report 0.1.0 {word} " in shown
        assert shown.index(f" 0.1.0 {word} ") < 90, shown[:120]


def test_images_have_words_and_headers_have_a_scope(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    page = Page(render(failing(), tmp_path))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2 * (1 + 4 * 3), "clean, with the trigger, after the repair"
    assert all(attributes["alt"] for attributes in images)
    assert all(attributes.get("scope") for tag, attributes in page.tags if tag == "th")
    assert page.text.count("no picture") == 0
    tables = sum(tag == "table" for tag, _ in page.tags)
    assert tables == sum(tag == "caption" for tag, _ in page.tags)


def test_pictures_reach_the_page_whole(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    large = tmp_path / "triggers" / "patch-0.png"
    large.write_bytes(SIGNATURE + bytes(range(256)) * 100)
    page = Page(render(failing(), tmp_path))
    shown = {attributes["src"] for tag, attributes in page.tags if tag == "img"}
    decoded = {base64.b64decode((src or "").partition(",")[2], validate=True) for src in shown}
    assert decoded == {path.read_bytes() for path in (tmp_path / "triggers").iterdir()}


def test_a_missing_picture_leaves_its_words() -> None:
    text = render(failing())
    assert text.count("no picture") == 26
    assert "<img" not in text


def red_readings(record: AuditRecord) -> int:
    """How many classes that an image is read as stand out."""
    return sum(attributes.get("class") == "loud" for _, attributes in Page(render(record)).tags)


def test_triggers_of_a_model_that_passes_are_not_shown_as_a_finding() -> None:
    detector = clean_detector()
    row = detector.candidates[0].model_copy(update={"trigger": trigger("additive", "additive-0")})
    shown = detector.model_copy(update={"candidates": (row,)})
    harmless = judged(unjudged(detectors=(shown,)))
    assert harmless.gate.decision is Decision.PASS
    assert red_readings(failing()) == 8
    assert red_readings(harmless) == 0
    assert [HARMLESS in Page(render(one)).text for one in (harmless, failing())] == [True, False]


def test_a_page_of_many_classes_and_large_pictures_stays_below_8_mb(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    for path in (tmp_path / "triggers").iterdir():
        path.write_bytes(path.read_bytes().ljust(LARGEST, b"\0"))
    assert 6e6 < len(render(crowded(), tmp_path).encode()) < 8e6


def test_what_was_decided_comes_before_any_method_and_the_checks_come_closed_at_the_end() -> None:
    for kind in ("pass", "fail", "inconclusive"):
        text = render(RECORDS[kind]())
        keys = re.findall(r'<section class="([a-z]+)"', text)
        folded = re.findall(r"<details>\s*<summary><h2 id=\"([a-z]+)", text)
        assert folded == ["checks", "reproduce", "glossary"] == keys[-3:]
        top = Page(text[: text.index("</header>")]).text
        assert not any(name in top for name in ("trigger_inversion", "differential"))
        assert "2026-01-02 03:04 UTC" in top
        assert "95.0 %" in top
        assert "5f5f" in top


def test_every_strip_has_its_numbers_in_words() -> None:
    text = render(failing())
    assert 'aria-label="patch: this model 0.972, 20 known-clean models from 0.05 to 0.14"' in text


# pictures


PIXEL = SIGNATURE + b"rest"


def test_a_picture_inside_the_folder_becomes_a_data_uri(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.png").write_bytes(PIXEL)
    uri = Pictures(tmp_path)("t/a.png")
    assert base64.b64decode(uri.removeprefix("data:image/png;base64,")) == PIXEL


@pytest.mark.parametrize(
    "name",
    [
        "a/" * 5000,
        "a" * 300,
        "../out.png",
        "in/../../out.png",
        "/etc/hostname",
        "",
        ".",
        "in",
        "in\\a.png",
        "C:a.png",
        "link.png",
        "inner/out.png",
    ],
)
def test_a_picture_outside_the_folder_is_not_read_and_no_link_is_followed(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "out.png").write_bytes(PIXEL)
    folder = tmp_path / "folder"
    (folder / "in").mkdir(parents=True)
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    (folder / "inner").symlink_to(tmp_path)
    assert Pictures(folder)(name) is None
    assert Pictures(folder)(str(tmp_path / "out.png")) is None


def test_what_is_no_picture_or_too_large_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("root:x:0:0")
    (tmp_path / "fits.png").write_bytes(SIGNATURE.ljust(LARGEST, b"\0"))
    (tmp_path / "large.png").write_bytes(SIGNATURE.ljust(LARGEST + 1, b"\0"))
    pictures = Pictures(tmp_path)
    assert pictures("text.png") is None
    assert pictures("large.png") is None
    shown = [uri for _ in range(20) if (uri := pictures("fits.png"))]
    assert 6_000_000 < sum(map(len, shown)) < 7_500_000, "a page stays below 8 MB"


# strips


def row(statistic: float | None, *null: float) -> FamilyRecord:
    return FamilyRecord(family="patch", tested=True, statistic=statistic, null=null)


def test_a_strip_places_values_on_its_axis() -> None:
    chart = strip(row(1.0, 0.0, 0.5))
    assert [label for _, label in chart.ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert [x for x, _ in chart.dots] == [16, 320]
    assert (chart.mark, chart.anchor) == (624, "end")


@pytest.mark.parametrize("value", [0.0, -3.0, 5e-324, 1e-12, 1e12, 1e99, 0.3])
def test_a_strip_stays_inside_its_drawing(value: float) -> None:
    chart = strip(row(value, value, value))
    assert all(0 <= x <= 640 for x in (chart.mark, *(x for x, _ in chart.ticks)))
    assert [level for _, level in chart.dots] == [0, 1]
    assert len(chart.ticks) <= 12


def test_there_is_no_strip_without_a_null_band() -> None:
    assert strip(row(0.5)) is None
    crowded = strip(row(0.5, *[0.1] * 100_000, *[0.2] * 100_000))
    assert len(crowded.dots) == 10
    assert strip(row(None, 0.1)) is None
    assert strip(row(1e308, -1e308)) is None  # arithmetic would overflow
