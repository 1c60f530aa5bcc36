"""The benchmark matrix: what is run again, what is counted where, and how it is told."""

from __future__ import annotations

import html
import json
import re
import shutil
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from fakes import no_progress
from nano_sites import nano_site
from samples import HOSTILE
from zoo_samples import ENTRIES, Runner, digest, entry, honest, in_test_split, make_zoo

import clipguard.lab.comparators
from clipguard.audit.profiles import PROFILES, profile
from clipguard.checkpoint.inspection import sha256_of
from clipguard.detect.text_tokens import TextTokens
from clipguard.errors import RefusedError, UsageError
from clipguard.lab.attacks import ATTACKS
from clipguard.lab.bench import cells, job, matrix, record
from clipguard.lab.bench.cells import DetectCell, Kind, Task
from clipguard.lab.bench.job import Job, run_job
from clipguard.lab.bench.looks import count_looks
from clipguard.lab.bench.matrix import Matrix, chosen, make_matrix, run
from clipguard.lab.bench.pages import to_html, to_markdown
from clipguard.lab.bench.passes import Tower
from clipguard.lab.bench.record import APART, WORD, Bench
from clipguard.lab.roles import PromptedAttack
from clipguard.lab.zoo.manifest import Entry, Zoo
from clipguard.lab.zoo.presets import Which
from clipguard.model.open_clip import ImageTower
from clipguard.model.roles import Repairable
from clipguard.record import Decision, Outcome
from clipguard.resources import data_digest

pytest_plugins = ["nano_models"]


def plain(text: str) -> str:
    """Markdown without its escapes."""
    return text.replace("\\", "")


def planned(folder: Path, kind: Kind = "detect", *, split: Which = "all", seed: int = 0) -> Matrix:
    method = "inversion" if kind == "detect" else "cbpt"
    task = Task(kind=kind, methods=(method,), seed=seed)
    return make_matrix(task, folder, folder / "out", split=split, command="clipguard lab bench")


def go(what: Matrix, part: tuple[int, int] = (0, 1)) -> Bench:
    return run(what, part=part, jobs=1, progress=no_progress)


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    return make_zoo(tmp_path / "zoo")


def rerun(runner: Runner, what: Matrix) -> list[tuple[str, str]]:
    """What is run, and nothing from before."""
    runner.ran.clear()
    go(what)
    return runner.ran


def ids(*numbers: int) -> list[tuple[str, str]]:
    return [(f"{number:016x}", "inversion") for number in numbers]


def test_a_finished_cell_is_not_made_again(zoo: Path, runner: Runner):
    first = go(planned(zoo))
    assert runner.ran == ids(1, 2, 3, 4, 5, 6)
    assert go(planned(zoo)) == first
    assert len(runner.ran) == 6


def test_another_model_seed_or_data_makes_a_cell_again(
    zoo: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
):
    go(planned(zoo))
    make_zoo(zoo, (entry(1, sha256="0" * 64), *ENTRIES[1:]))
    assert rerun(runner, planned(zoo)) == ids(1)
    assert len(rerun(runner, planned(zoo, seed=1))) == 6
    monkeypatch.setattr(cells, "data_digest", lambda patterns: "other")
    assert len(rerun(runner, planned(zoo, seed=1))) == 6


def test_a_torn_foreign_or_impossible_cell_is_made_again(zoo: Path, runner: Runner):
    go(planned(zoo))
    cells = sorted((zoo / "out" / "cells" / "inversion").iterdir())
    cells[0].write_text("{")
    cells[1].write_text(cells[2].read_text())
    impossible = {"passes": {"forward": 10**400}}, {"seconds": {"detect": -5}}
    for file, given in zip(cells[3:5], impossible, strict=True):
        file.write_text(json.dumps(json.loads(file.read_text()) | given))
    assert rerun(runner, planned(zoo)) == ids(1, 2, 4, 5)


def test_parts_share_the_victims_and_the_table_says_what_is_missing(zoo: Path, runner: Runner):
    half = go(planned(zoo), part=(0, 2))
    assert runner.ran == ids(1, 3, 5)
    assert (half.cells, half.not_run) == (6, 3)
    whole = go(planned(zoo), part=(1, 2))
    assert runner.ran[3:] == ids(2, 4, 6)
    assert whole.not_run == 0


def test_a_cell_that_broke_counts_as_inconclusive_and_is_tried_again(zoo: Path, runner: Runner):
    broken = {"decision": "inconclusive", "outcome": None, "score": None, "error": "OSError: no"}
    runner.changes = {f"{1:016x}": dict[str, object](broken)}
    found = go(planned(zoo))
    assert found.broken == 1
    score = found.scores["inversion"]
    assert score.confusion["poisoned"] == {"pass": 0, "inconclusive": 1, "fail": 1}
    # blended 0.9 beats both clean; the broken one, at 0.5, beats 0.2 and loses to 0.6
    assert score.auroc.value == 0.75
    runner.changes = {}
    assert rerun(runner, planned(zoo)) == ids(1)


def test_weak_victims_and_what_is_no_backdoor_stand_outside_the_headline(zoo: Path, runner: Runner):
    score = go(planned(zoo)).scores["inversion"]
    assert score.models == 4
    assert score.confusion == {
        "clean": {"pass": 1, "inconclusive": 0, "fail": 0},
        "negative": {"pass": 1, "inconclusive": 0, "fail": 0},
        "poisoned": {"pass": 0, "inconclusive": 0, "fail": 2},
    }
    assert {name: rate.value for name, rate in score.recall_by_asr.items()} == {
        "< 50 %": 0.0,
        "≥ 90 %": 1.0,
    }
    assert {name: rate.n for name, rate in score.recall_by_attack.items()} == {
        "badnets": 1,
        "blended": 1,
    }
    assert (score.target_first.value, score.target_first.n) == (0.5, 2)  # blended aims at violin
    assert score.no_false_alarm.value == 1.0


def test_the_matrix_says_what_is_right_for_each_kind(zoo: Path, runner: Runner):
    table = {cell.label: cell for cell in go(planned(zoo)).table}
    assert {name: cell.category for name, cell in table.items()} == {
        "badnets": "headline",
        "blended": "headline",
        "clean": "headline",
        "watermark (hard negative)": "headline",
        "badnets (weak)": "weak",
        "mmpoison": "no trigger",
    }
    right = {name: cell.figures["right"].value for name, cell in table.items()}
    assert right == dict.fromkeys(table, 1.0) | {"badnets (weak)": 0.0}
    assert table["badnets"].figures["forward"].value == 100


def test_two_bases_are_two_columns_and_too_few_to_resample(tmp_path: Path, runner: Runner):
    others = (entry(7, base="nano-vit", twin=None), honest(8, base="nano-vit"))
    found = go(planned(make_zoo(tmp_path, (*ENTRIES, *others))))
    assert {cell.base for cell in found.table} == {"nano-rn", "nano-vit"}
    assert found.scores["inversion"].resampled == "6 victims"
    assert found.scores["inversion"].by_base.keys() == {"nano-rn", "nano-vit"}


def test_five_base_parents_are_resampled_whole(tmp_path: Path, runner: Runner):
    others = [honest(20 + i, base=f"parent-{i}") for i in range(4)]
    assert go(planned(make_zoo(tmp_path, (*ENTRIES, *others)))).scores["inversion"].resampled == (
        "5 base parents"
    )


def test_a_row_of_the_matrix_names_the_settings():
    assert len(record.label(entry(1, settings={"a": 999 * "x"}))) < 110
    assert record.label(entry(1, settings={"variety": 0})) == "badnets variety=0"


def test_attacks_that_stand_apart_are_registered_and_those_with_a_word_do():
    assert APART.keys() <= set(ATTACKS.names())
    worded = {n for n in ATTACKS.names() if isinstance(ATTACKS.build(n), PromptedAttack)}
    assert worded == {name for name, told in APART.items() if told == WORD}


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        ("prompt_learner", {"pass": 1.0, "inconclusive": 0.0, "fail": 0.0}),
        ("mmpoison", {"pass": 1.0, "inconclusive": 1.0, "fail": 0.0}),
        ("trojvqa", {"pass": 0.0, "inconclusive": 0.0, "fail": 1.0}),
        ("text_tower", {"pass": 0.0, "inconclusive": 0.0, "fail": 1.0}),
    ],
)
def test_what_is_right_for_those_that_stand_apart(
    tmp_path: Path, runner: Runner, attack: str, expected: dict[str, float]
):
    for decision, value in expected.items():
        runner.changes = {f"{7:016x}": {"decision": decision}}
        folder = make_zoo(tmp_path / decision, (*ENTRIES[:4], entry(7, attack=attack)))
        found = go(planned(folder))
        (cell,) = [cell for cell in found.table if cell.label == attack]
        assert cell.figures["right"].value == value
        assert found.scores["inversion"].models == 4


def test_attacks_with_several_targets_are_left_out_of_the_target_figure(
    tmp_path: Path, runner: Runner
):
    several = entry(2, attack="multi_target", target="violin")
    runner.changes = {several.id: {"target": "violin"}}
    score = go(planned(make_zoo(tmp_path, (entry(1), several, honest(3))))).scores["inversion"]
    assert score.models == 3
    assert (score.target_first.value, score.target_first.n) == (1.0, 1)
    assert score.recall_by_attack["multi_target"].value == 1.0


def test_a_look_at_the_test_split_is_logged_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = make_zoo(tmp_path, (*ENTRIES, *in_test_split((entry(9, twin=None),))))
    looks: list[int] = []

    def interrupted(job: Job) -> None:
        looks.append(count_looks(folder))
        raise KeyboardInterrupt

    monkeypatch.setattr(matrix, "run_job", interrupted)
    for split, expected in (("calibration", 0), ("test", 1), ("test", 1), ("all", 2)):
        with pytest.raises(KeyboardInterrupt):
            go(planned(folder, split=split))
        assert looks.pop() == expected


def test_a_model_of_a_base_of_the_test_side_is_a_look_whatever_the_manifest_says(
    tmp_path: Path, runner: Runner
):
    folder = make_zoo(tmp_path, (*ENTRIES, entry(9, twin=None, base="nano-vit-1")))
    assert go(planned(folder)).looks == 1


def test_the_same_look_counts_once_and_one_for_other_figures_counts(
    tmp_path: Path, runner: Runner, monkeypatch: pytest.MonkeyPatch
):
    folder = make_zoo(tmp_path, in_test_split())
    for _ in range(2):
        found = go(planned(folder, split="test"))
    assert found.looks == 1
    assert go(planned(folder, split="test", seed=5)).looks == 2
    monkeypatch.setattr(matrix, "FIGURES", "figures/other")
    assert go(planned(folder, split="test")).looks == 3


def test_only_victims_with_an_image_trigger_and_a_built_twin_are_purified():
    unbuilt = replace(honest(8), sha256=None)
    lonely = (entry(7, twin=None), entry(9, twin=f"{8:016x}"), entry(10, attack="trojvqa"))
    zoo = Zoo(entries=(*ENTRIES, *lonely, unbuilt), preset="x", digest="x")
    assert [each.id for each in chosen(zoo, "purify", "all")] == [f"{n:016x}" for n in (1, 2, 5)]
    assert len(chosen(zoo, "detect", "all")) == 9


@pytest.mark.parametrize(("kind", "told"), [("detect", "models"), ("purify", "victims with a")])
def test_an_empty_selection_is_an_error(tmp_path: Path, kind: Kind, told: str):
    make_zoo(tmp_path, (honest(1, sha256=None), honest(2, split="test")))
    with pytest.raises(UsageError, match=f"no built {told}"):
        planned(tmp_path, kind, split="calibration")


def test_purified_victims_have_rates_per_style(zoo: Path, runner: Runner):
    found = go(planned(zoo, "purify"))
    table = {cell.label: cell for cell in found.table}
    assert table.keys() == {"badnets", "blended", "badnets (weak)"}
    gap = table["badnets"].figures["held_out.asr_gap"]
    assert (gap.value, gap.low, gap.high, gap.n) == (0.01, 0.0, 0.03, 1)
    assert table["badnets"].figures["unseen.ca_loss"].value == 0.005
    assert table["badnets"].figures["memory"].value == 2.5
    told = plain(to_markdown(found))
    for figure in ("600 (500 labelled)", "| 2.5 |", "| 75.0 %"):
        assert figure in told
    assert found.scores == {}


def test_another_twin_makes_a_purified_cell_again(zoo: Path, runner: Runner):
    go(planned(zoo, "purify"))
    make_zoo(zoo, (*ENTRIES[:2], honest(3, sha256="0" * 64), *ENTRIES[3:]))
    assert len(rerun(runner, planned(zoo, "purify"))) == 3


@pytest.mark.parametrize("name", ["victim.json", "trigger.safetensors"])
def test_another_truth_makes_a_purified_cell_again(zoo: Path, runner: Runner, name: str):
    go(planned(zoo, "purify"))
    (zoo / ENTRIES[1].path).mkdir(parents=True)
    (zoo / ENTRIES[1].path / name).write_text("{}")
    assert rerun(runner, planned(zoo, "purify")) == [(ENTRIES[1].id, "cbpt")]


def test_a_cell_says_what_it_was_ordered_and_made_with(zoo: Path, monkeypatch: pytest.MonkeyPatch):
    ordered = planned(zoo)
    monkeypatch.setattr(cells, "data_digest", lambda patterns: "changed meanwhile")
    for row in go(ordered).rows:
        assert row.cell.fingerprint == ordered.prints["inversion"]
        assert row.cell.made_with["torch"] == version("torch")


def test_the_token_search_decides_the_cells_of_a_scan_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
):
    tasks = [Task(kind=kind, methods=()) for kind in ("detect", "detect", "purify")]
    methods = ("inversion", "cosine_shift", "cbpt")
    before = [*map(cells.fingerprint, tasks, methods)]
    other = replace(profile("standard"), text=TextTokens(beam=1))
    monkeypatch.setitem(PROFILES, "standard", other)
    after = [*map(cells.fingerprint, tasks, methods)]
    assert [one == two for one, two in zip(before, after, strict=True)] == [False, True, True]


def test_another_base_to_give_a_repair_of_the_literature_makes_its_cells_again(
    monkeypatch: pytest.MonkeyPatch,
):
    methods = ("interpolation", "realign")
    task = Task(kind="purify", methods=methods)
    before = [cells.fingerprint(task, method) for method in methods]

    def other_bases(patterns: tuple[str, ...]) -> str:
        return "other" if patterns == cells.BASE_MODELS else data_digest(patterns)

    monkeypatch.setattr(cells, "data_digest", other_bases)
    after = [cells.fingerprint(task, method) for method in methods]
    assert [one == two for one, two in zip(before, after, strict=True)] == [False, True]


def test_models_without_a_score_are_counted(zoo: Path, runner: Runner):
    runner.changes = {f"{1:016x}": {"score": None, "decision": "inconclusive"}}
    found = go(planned(zoo))
    assert (found.scores["inversion"].unscored, found.broken) == (1, 0)


def test_the_json_is_versioned_and_read_back_whole(zoo: Path, runner: Runner):
    found = go(planned(zoo))
    data = json.loads((zoo / "out" / "bench.json").read_text())
    assert data["schema_version"] == "clipguard.bench/1"
    assert Bench.model_validate(data) == found


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_and_do_nothing(tmp_path: Path, runner: Runner, name: str):
    first = entry(
        1, attack=name, target=name, base=name, settings={name: name, "deep": [{"x": name}]}
    )
    runner.changes = {first.id: {"reason": name, "target": name}}
    found = go(planned(make_zoo(tmp_path, (first, *ENTRIES[1:]))))
    page, text = to_html(found, tmp_path), to_markdown(found)
    for bad in ("<img", "<script", "<svg", "</style><", "\x1b", "\u202e", "onerror=alert(1)>"):
        assert bad not in page.split("</style>", 1)[1]
    assert page.count("<script") == 0
    assert "\x1b" not in text
    assert "\u202e" not in text
    active = re.sub(r"\\[!-/:-@\[-`{-~]", "", text)  # what is left when escaped marks are gone
    assert not set("<>`[]*~") & set(active)
    assert not re.search(r"(?<![^\W_])_|_(?![^\W_])", active)  # emphasis; within a word it is none
    lines = active.partition("## Every model")[2].splitlines()
    widths = {line.count("|") for line in lines if line.startswith("|")}
    assert len(widths) == 1


def test_each_cell_of_the_heat_map_says_its_value_beside_its_colour(zoo: Path, runner: Runner):
    page = html.unescape(to_html(go(planned(zoo)), zoo))
    assert '<td class="heat heat-8">100.0 % (20.7–100.0); of 1: 1 fail</td>' in page
    assert '<td class="heat heat-0">0.0 % (0.0–79.3); of 1: 1 pass</td>' in page
    assert page.count("style=") == 0  # the page's own policy would drop it


def test_passes_are_counted_forward_and_backward():
    tower, count = torch.nn.Softplus(), Tower()
    model = SimpleNamespace(image_tower=lambda: tower)
    images = torch.rand(5, 3, 2, 2)
    with count.watching(model):
        tower(images)
        assert (count.forward, count.backward) == (5, 0)
        tower(images[:2].clone().requires_grad_()).sum().backward()
        with torch.no_grad():
            tower(images)
    tower(images)
    assert (count.forward, count.backward) == (12, 2)


def test_passes_through_a_copy_and_through_the_network_alone_count():
    site, count = nano_site(), Tower()
    assert isinstance(site.model, Repairable)
    copy, images = site.model.copied(), site.images.pixels(slice(3))
    with count.watching(site.model):
        copy.encode_image(images)
        tower = copy.image_tower()
        assert isinstance(tower, ImageTower)
        tower.visual(images.requires_grad_()).sum().backward()
        copy.encode_text(["a photo of a dog."])
    assert (count.forward, count.backward) == (6, 3)


def test_a_file_that_is_not_the_manifest_s_is_a_cell_that_broke(tmp_path: Path, nano_entry: Entry):
    wrong = replace(nano_entry, sha256="0" * 64)
    cell = detect_once(tmp_path, wrong)
    assert "RefusedError: model.pt" in cell.error
    assert cell.decision.value == "inconclusive"
    (tmp_path / nano_entry.path / "model.pt").write_bytes(b"")
    assert "CG102" in detect_once(tmp_path, nano_entry).error


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("twin/model.pt", "the twin's model.pt is not"),
        ("victim/victim.json", "victim.json or its trigger is not"),
        ("victim/trigger.safetensors", "victim.json or its trigger is not"),
    ],
)
def test_no_figure_rests_on_another_twin_or_truth_than_the_manifest_has(
    tmp_path: Path, name: str, told: str
):
    for file in ("twin/model.pt", "victim/victim.json", "victim/trigger.safetensors"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("{}")
    known = digest("{}")
    victim, twin = entry(1, path="victim", truth_sha256=known), honest(3, path="twin", sha256=known)
    ordered = Job(
        task=Task(kind="purify", methods=("cbpt",)),
        zoo=tmp_path,
        out=tmp_path,
        entry=victim,
        twin=twin,
        truth=cells.truth_digest(tmp_path, victim),
        prints={},
    )
    job._require_unchanged(ordered)
    (tmp_path / name).write_text("{} ")
    with pytest.raises(RefusedError, match=told):
        job._require_unchanged(ordered)


def test_a_truth_that_would_be_read_without_end_is_refused(tmp_path: Path):
    victim = entry(1, path=".")
    assert cells.truth_digest(tmp_path, victim)
    (tmp_path / "trigger.safetensors").symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=r"trigger\.safetensors: it leads out"):
        cells.truth_digest(tmp_path, victim)


def test_a_detector_that_breaks_on_a_victim_is_a_result(
    tmp_path: Path, nano_entry: Entry, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(job, "measure", Mock(side_effect=RuntimeError("out of\nmemory")))
    cell = detect_once(tmp_path, nano_entry)
    assert cell.error == cell.reason == "RuntimeError: out of"
    assert {"load", "probe"} <= cell.seconds.keys()


SILENT = """
from dataclasses import dataclass
from clipguard.record import DetectorRecord, Outcome
from clipguard.detect.roles import Finding

@dataclass(frozen=True, kw_only=True)
class Silent:
    ID = "silent/1"

    def detect(self, subject, null, *, generator, progress):
        assert null is None
        subject.model.encode_image(subject.probe.measure.pixels(slice(0, 3)))
        says = {"evidence": "so", "published": Outcome.BACKDOORED}
        return Finding(DetectorRecord(name="silent", score=0.25, **says), ())

METHOD = Silent
"""


def test_a_detector_plugs_in_by_the_name_of_its_file(
    tmp_path: Path, nano_entry: Entry, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "silent.py").write_text(SILENT)
    path = [*clipguard.lab.comparators.__path__, str(folder)]
    monkeypatch.setattr(clipguard.lab.comparators, "__path__", path)
    cell = detect_once(tmp_path, nano_entry, "silent")
    assert (cell.error, cell.score, cell.outcome) == (None, 0.25, Outcome.BACKDOORED)
    assert cell.decision is Decision.FAIL
    assert (cell.passes.forward, cell.passes.backward) == (3, 0)


@pytest.mark.usefixtures("tiny")
def test_a_comparator_has_a_statistic_and_no_score(tmp_path: Path, nano_entry: Entry):
    cell = detect_once(tmp_path, nano_entry, "cosine_shift")
    assert (cell.error, cell.score, cell.p_value, cell.target) == (None, None, None, None)
    assert -1 <= cell.statistic <= 1
    assert cell.passes.forward > cell.passes.backward > 0
    assert cell.decision is not Decision.PASS  # nothing passes without a null band


@pytest.fixture
def nano_entry(tmp_path: Path, nano: Path) -> Entry:
    """The bundled model as the only entry of a zoo."""
    (tmp_path / "victims" / "1").mkdir(parents=True)
    shutil.copy(nano, tmp_path / "victims" / "1" / "model.pt")
    return honest(1, path="victims/1", sha256=sha256_of(nano))


def detect_once(folder: Path, entry: Entry, method: str = "inversion") -> DetectCell:
    task = Task(kind="detect", methods=(method,))
    prints = {method: "f" * 64}
    run_job(
        Job(task=task, zoo=folder, out=folder, entry=entry, twin=None, truth=None, prints=prints)
    )
    path = folder / "cells" / method / f"{entry.id}.json"
    return DetectCell.model_validate_json(path.read_text())


def test_models_are_ranked_by_the_detector_s_own_statistic(zoo: Path, runner: Runner):
    given = {1: -3.0, 2: -9.0, 3: -7.0}  # the fourth has none and stands at their median, -7
    runner.changes = {f"{n:016x}": {"statistic": value} for n, value in given.items()}
    runner.changes[f"{1:016x}"]["score"] = None
    found = go(planned(zoo)).scores["inversion"]
    assert (found.auroc.value, found.unscored) == (0.5, 0)


def test_a_detector_without_probabilities_has_no_cross_entropy(zoo: Path, runner: Runner):
    runner.changes = {f"{n:016x}": {"score": None, "statistic": float(n)} for n in range(1, 7)}
    found = go(planned(zoo)).scores["inversion"]
    assert (found.cross_entropy, found.brier, found.unscored) == (None, None, 0)
