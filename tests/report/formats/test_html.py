import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from samples import (
    RECORDS,
    candidate,
    clean_detector,
    dropped,
    failing,
    judged,
    reference,
    unjudged,
    write_pictures,
)

from clipguard.record import AuditRecord, DetectorRecord, FamilyRecord
from clipguard.report.formats import RENDERERS
from clipguard.report.formats._pictures import LARGEST, SIGNATURE, Pictures
from clipguard.report.formats._strip import strip

VOID = {"meta", "img", "br", "line", "circle", "rect", "path"}


class Page(HTMLParser):
    """Every tag with its attributes, all text, and whether tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


def render(record: AuditRecord, folder: Path = Path("nowhere")) -> str:
    return RENDERERS.build("html").render(record, folder)


@pytest.fixture(params=RECORDS)
def record(request: pytest.FixtureRequest) -> AuditRecord:
    made: AuditRecord = RECORDS[request.param]()
    return made


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


def test_nothing_that_was_not_measured_is_shown_as_none(record: AuditRecord) -> None:
    assert not re.search(r"\bNone\b|\bnan\b|\bTrue\b", Page(render(record)).text)


def test_text_from_outside_shows_and_does_nothing_else() -> None:
    text = render(RECORDS["hostile"]())
    page = Page(text)
    for canary in ("<img src=x onerror=alert(1)>", "{{7*7}}", "[bold]", "</style><svg onload="):
        assert canary in page.text
    assert not re.search(r"(?<![0-9a-f])49(?![0-9a-f])", page.text), "a template expression ran"
    for steering in ("\x1b", "\x07", "\u202e"):
        assert steering not in text
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in Page(render(failing())).tags} - {
        "img"
    } | {"li"}
    assert not any(attributes.get("src") == "x" for _, attributes in page.tags)


def test_the_banner_says_the_verdict_before_anything_else() -> None:
    words = {"pass": "Pass", "fail": "Fail", "inconclusive": "Cannot tell", "refused": "Fail"}
    for kind, word in words.items():
        shown = " ".join(Page(render(RECORDS[kind]())).text.split())
        assert f"clipguard audit report 0.1.0 {word} " in shown
        assert shown.index(f" 0.1.0 {word} ") < 90, shown[:120]


def test_a_verdict_never_says_safe(record: AuditRecord) -> None:
    assert "safe" not in Page(render(record)).text.lower().replace("safetensors", "")


def test_the_scope_of_a_purified_head_is_said_at_the_top_and_at_the_table() -> None:
    assert render(failing()).count("the image tower stays poisoned") >= 2


def test_what_purification_did_to_the_target_class_is_shown_and_what_it_was_tuned_against() -> None:
    shown = Page(render(failing())).text
    assert re.search(r"target class alone\s+95.0 % .*\s+65.0 % ", shown)
    assert "0.01 to 0.012" in shown


def test_a_new_search_that_says_nothing_is_not_called_settled() -> None:
    record = failing()
    assert record.purification is not None
    rows = [row.model_copy(update={"searched": False}) for row in record.purification.reinversion]
    made = record.purification.model_copy(update={"reinversion": tuple(rows)})
    shown = render(record.model_copy(update={"purification": made}))
    assert shown.count("<td>not full</td>") == len(rows)


def test_each_detector_shows_what_the_gate_concluded_from_it() -> None:
    word = DetectorRecord(name="text_tokens", evidence="e", statistic=9.0, word_share=0.95)
    record = unjudged(detectors=(clean_detector(), word))
    heads = re.compile(r"<h3>(trigger_inversion|text_tokens): (.*)</h3>")
    assert heads.findall(render(judged(record))) == [
        ("trigger_inversion", "no evidence"),
        ("text_tokens", "backdoored"),
    ]
    assert {said for _, said in heads.findall(render(record))} == {"not judged"}
    assert "95.0 %" in render(record)


def test_a_file_that_was_not_kept_is_said_to_be_missing_with_the_limit() -> None:
    assert re.search(r"There is no file.*export.max_relative_error is ", render(dropped()))
    assert "There is no file" in render(dropped().model_copy(update={"gate": None}))
    assert "There is no file" not in render(failing())


def test_images_have_words_and_headers_have_a_scope(tmp_path: Path) -> None:
    write_pictures(tmp_path)
    page = Page(render(failing(), tmp_path))
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2 * (1 + 4 * 2)
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
    assert text.count("no picture") == 18
    assert "<img" not in text


def test_long_lists_are_cut_and_the_cut_is_visible() -> None:
    many = tuple(candidate(f"class {n}", "patch", 0.1) for n in range(500))
    detector = clean_detector().model_copy(update={"candidates": many})
    assert "485 more not shown here" in render(unjudged(detectors=(detector,)))


def test_every_strip_has_its_numbers_in_words() -> None:
    text = render(failing())
    assert 'aria-label="patch: this model 0.972, 20 known-clean models from 0.05 to 0.14"' in text


# pictures


PIXEL = SIGNATURE + b"rest"


def test_a_picture_inside_the_folder_becomes_a_data_uri(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "a.png").write_bytes(PIXEL)
    uri = Pictures(tmp_path)("t/a.png")
    assert uri is not None
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
    ],
)
def test_a_picture_outside_the_folder_is_not_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "out.png").write_bytes(PIXEL)
    folder = tmp_path / "folder"
    (folder / "in").mkdir(parents=True)
    assert Pictures(folder)(name) is None
    assert Pictures(folder)(str(tmp_path / "out.png")) is None


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "a.png").write_bytes(PIXEL)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.png").symlink_to(tmp_path / "secret" / "a.png")
    (folder / "inner").symlink_to(tmp_path / "secret")
    assert Pictures(folder)("link.png") is None
    assert Pictures(folder)("inner/a.png") is None


def test_what_is_no_picture_or_too_large_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("root:x:0:0")
    (tmp_path / "fits.png").write_bytes(SIGNATURE.ljust(LARGEST, b"\0"))
    (tmp_path / "large.png").write_bytes(SIGNATURE.ljust(LARGEST + 1, b"\0"))
    pictures = Pictures(tmp_path)
    assert pictures("text.png") is None
    assert pictures("large.png") is None
    assert all(pictures("fits.png") for _ in range(16))
    assert pictures("fits.png") is None, "8 MB of pictures are enough for one report"


# strips


def row(statistic: float | None, *null: float) -> FamilyRecord:
    return FamilyRecord(family="patch", tested=True, statistic=statistic, null=null)


def test_a_strip_places_values_on_its_axis() -> None:
    chart = strip(row(1.0, 0.0, 0.5))
    assert chart is not None
    assert [label for _, label in chart.ticks] == ["0", "0.2", "0.4", "0.6", "0.8", "1"]
    assert [x for x, _ in chart.dots] == [16, 320]
    assert (chart.mark, chart.anchor) == (624, "end")


@pytest.mark.parametrize("value", [0.0, -3.0, 1e12])
def test_a_strip_stays_inside_its_drawing(value: float) -> None:
    chart = strip(row(value, value, value))
    assert chart is not None
    assert all(0 <= x <= 640 for x in (chart.mark, *(x for x, _ in chart.ticks)))
    assert [level for _, level in chart.dots] == [0, 1]
    assert len(chart.ticks) <= 12


def test_there_is_no_strip_without_a_null_band() -> None:
    assert strip(row(0.5)) is None
    crowded = strip(row(0.5, *[0.1] * 100_000, *[0.2] * 100_000))
    assert crowded is not None
    assert len(crowded.dots) == 10
    assert strip(row(None, 0.1)) is None


def test_the_change_is_shown_beside_models_of_known_truth() -> None:
    shown = " ".join(Page(render(failing())).text.split())
    for told in ("base.pt", "132 of 225", "11.5 % to 28.9 %", "26.0 % to 32.8 %"):
        assert told in shown
    assert "base.pt" not in render(unjudged())


def test_a_change_that_was_not_read_has_no_number() -> None:
    known = reference(None, length=None, lab=())
    shown = " ".join(Page(render(unjudged(reference=known))).text.split())
    assert "nothing to read" in shown
    assert "Honest fine-tunes" not in shown
