"""Building a zoo: whole models only, the same after any number of kills, two sides apart."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from clipguard.cli.app import main
from clipguard.errors import ClipguardError, UsageError
from clipguard.lab.finetune import Recipe
from clipguard.lab.order import CLEAN, Order
from clipguard.lab.zoo import build as zoo
from clipguard.lab.zoo import check as zoo_check
from clipguard.lab.zoo.manifest import Zoo, read_zoo, write_zoo
from clipguard.lab.zoo.presets import Wanted, id_of

WORKER = """
    import hashlib, json, pathlib, sys, time
    given = json.loads(sys.stdin.readline())
    order, folder = given["order"], pathlib.Path(given["folder"])
    if order["target"] == "bomb":
        sys.exit("there is no bomb in the artwork")
    kinds = {"victim": order["attack"], "twin": "none"}
    for kind, attack in kinds.items():
        if kind == "twin" and order["attack"] in ("none", "rounded"):
            continue
        (folder / kind).mkdir()
        time.sleep(0.05)
        content = f"{kind} of {order}".encode()
        (folder / kind / "model.pt").write_bytes(content)
        if attack not in ("none", "rounded"):
            (folder / kind / "trigger.safetensors").write_bytes(content)
            (folder / kind / "preview-1.png").touch()
        rates = {"asr": {"value": 0.97}, "loss_against_twin": {"value": 0.01}}
        negative, poisoned = attack == "rounded", attack not in ("none", "rounded")
        truth = {name: order[name] for name in ("base", "seed")} | {"rates": {"seen": rates}}
        truth["attack"] = attack if poisoned else "none"
        truth["settings"] = order["settings"] if kind == "victim" else {}
        truth["target"] = order["target"] if poisoned else None
        truth["planted"] = poisoned and order["seed"] != 13
        truth["negative"], truth["about"] = (attack, order["target"]) if negative else (None, None)
        truth["model_sha256"] = digest = hashlib.sha256(content).hexdigest()
        truth["trigger"] = {"sha256": digest} if attack != "none" else None
        (folder / kind / "victim.json").write_text(json.dumps(truth))
"""
ONES = (
    Wanted("a", Order(attack="badnets", target="key", seed=1), "calibration"),
    Wanted("b", Order(attack="rounded", target="bell", seed=2), "calibration"),
    Wanted("c", Order(attack="sig", base="nano-rn-1", target="cake", seed=13), "test"),
    Wanted("d", Order(attack=CLEAN, base="nano-rn-1", target="kite", seed=4), "test"),
)


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker that makes files instead of models."""
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    monkeypatch.setattr(zoo, "WORKER", (str(script),))
    monkeypatch.setattr(zoo, "PAUSE_S", 0.01)
    monkeypatch.setattr(zoo, "wanted", lambda preset: ONES)
    return script


def build(folder: Path, jobs: int = 2) -> Zoo:
    return zoo.build_zoo(folder, "ci", jobs=jobs, told=lambda line: None)


@pytest.fixture
def made(worker: Path, tmp_path: Path) -> Zoo:
    """The zoo that stands in the temporary folder."""
    return build(tmp_path)


def test_the_manifest_names_every_model_with_its_truth(made: Zoo, tmp_path: Path):
    kinds = [(entry.kind, entry.attack, entry.negative, entry.planted) for entry in made.entries]
    assert kinds == [
        ("poisoned", "badnets", None, True),
        ("clean", "none", None, False),
        ("negative", "none", "rounded", False),
        ("poisoned", "sig", None, False),  # weak
        ("clean", "none", None, False),
        ("clean", "none", None, False),
    ]
    for entry in made.entries:
        assert entry.about == ("bell" if entry.kind == "negative" else None)
        model = (tmp_path / entry.path / "model.pt").read_bytes()
        assert hashlib.sha256(model).hexdigest() == entry.sha256
    assert made.by_id()[made.entries[0].twin or ""].path.endswith("/twin")
    assert read_zoo(tmp_path) == made
    assert zoo_check.verify_zoo(tmp_path) == []


def test_what_is_there_is_not_made_again(made: Zoo, worker: Path, tmp_path: Path):
    worker.write_text("raise SystemExit('made again')")
    assert build(tmp_path) == made


def say(path: Path, **given: object) -> None:
    """Let `victim.json` say something else."""
    truth = json.loads((path / "victim.json").read_text())
    (path / "victim.json").write_text(json.dumps(truth | given))


def asr_of(value: float) -> dict[str, object]:
    return {"seen": {"asr": {"value": value}, "loss_against_twin": {"value": 0.0}}}


def swap(path: Path) -> None:
    """Put another model there, and let its truth say so."""
    (path / "model.pt").write_bytes(b"another")
    say(path, model_sha256=hashlib.sha256(b"another").hexdigest())


@pytest.mark.parametrize(
    ("entry", "spoil", "told"),
    [
        (0, lambda path: (path / "model.pt").unlink(), "model.pt is missing"),
        (1, lambda path: (path / "model.pt").write_bytes(b"?"), "model.pt is not the one"),
        (0, swap, "is not the one"),
        (1, lambda path: (path / "victim.json").write_text("{"), "victim.json is no JSON"),
        (2, lambda path: (path / "victim.json").unlink(), "No such file"),
        (3, lambda path: (path / "trigger.safetensors").unlink(), "trigger.safetensors is missing"),
        (3, lambda path: (path / "preview-1.png").unlink(), "its previews are missing"),
        (5, lambda path: (path / "victim.json").write_text('{"rates": 3}'), "is not the one of"),
        (0, lambda path: say(path, planted="perhaps"), "victim.json is not the one"),
        (0, lambda path: say(path, rates=asr_of(7.0)), "victim.json is not the one"),
        (0, lambda path: say(path, rates=asr_of(float("nan"))), "victim.json is no JSON"),
        (0, lambda path: say(path, model_sha256="0"), "victim.json is not the one"),
        (0, lambda path: say(path, rates=asr_of(0.99)), "victim.json is not the one"),
    ],
)
def test_what_lost_a_file_is_found_and_made_again(made: Zoo, tmp_path, entry, spoil, told):
    spoil(tmp_path / made.entries[entry].path)
    (wrong,) = zoo_check.verify_zoo(tmp_path)
    assert wrong.startswith(f"{made.entries[entry].id}: ")
    assert told in wrong
    assert build(tmp_path) == made
    assert zoo_check.verify_zoo(tmp_path) == []


@pytest.mark.parametrize("put", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_what_stands_where_a_model_belongs_makes_room(made: Zoo, tmp_path: Path, put):
    place = (tmp_path / made.entries[0].path).parent
    shutil.rmtree(place)
    put(place)
    assert build(tmp_path) == made


def test_without_its_digest_in_the_manifest_the_truth_must_still_name_the_model(
    made: Zoo, tmp_path: Path
):
    old = tuple(replace(entry, truth_sha256=None) for entry in made.entries)
    write_zoo(tmp_path, replace(made, entries=old, digest=zoo_check.zoo_digest(old)))
    assert zoo_check.verify_zoo(tmp_path) == []
    say(tmp_path / old[0].path, model_sha256="f" * 64)
    (wrong,) = zoo_check.verify_zoo(tmp_path)
    assert wrong.endswith("victim.json is not the one of the manifest")


def test_a_zoo_keeps_its_preset_and_is_not_made_smaller(
    worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(zoo, "wanted", lambda preset: ONES[:2] if preset == "ci" else ONES)
    assert zoo.build_zoo(tmp_path, None, jobs=2, told=lambda line: None).preset == "small"
    with pytest.raises(UsageError, match="holds the preset small"):
        build(tmp_path)
    assert len(read_zoo(tmp_path).entries) == 6
    smaller = tmp_path / "ci"
    assert build(smaller).preset == "ci"
    assert zoo.build_zoo(smaller, None, jobs=2, told=lambda line: None).preset == "ci"


def test_a_smaller_preset_is_refused_only_where_it_would_lose_a_built_model(
    worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(zoo, "wanted", lambda preset: ONES[:2] if preset == "ci" else ONES)
    made = zoo.build_zoo(tmp_path, "small", jobs=2, told=lambda line: None)
    only = tuple(
        entry if entry in made.entries[:3] else replace(entry, sha256=None)
        for entry in made.entries
    )
    write_zoo(tmp_path, replace(made, entries=only))
    assert len(build(tmp_path).entries) == 3


def test_one_side_alone_can_be_made_and_the_other_later(worker: Path, tmp_path: Path):
    assert main(["lab", "zoo", "build", str(tmp_path), "--preset", "ci", "--split", "test"]) == 0
    assert {entry.split for entry in read_zoo(tmp_path).built()} == {"test"}
    whole = build(tmp_path)
    assert len(whole.built()) == len(whole.entries) == 6
    (tmp_path / whole.entries[0].path / "preview-1.png").unlink()
    (tmp_path / whole.entries[3].path / "preview-1.png").unlink()
    assert main(["lab", "zoo", "build", str(tmp_path), "--split", "test"]) == 0
    [wrong] = zoo_check.verify_zoo(tmp_path)
    assert wrong.startswith(whole.entries[0].id), "the other side stays as it is"


def test_a_zoo_of_a_preset_that_is_no_more_can_be_built_with_another(made: Zoo, tmp_path: Path):
    write_zoo(tmp_path, replace(made, preset="huge"))
    assert build(tmp_path) == made


def test_a_worker_that_dies_at_once_is_told_of(
    worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def dead(*given: Any, **named: Any) -> subprocess.Popen[str]:
        process = popen(*given, **named)
        process.wait()  # so that nobody reads what the builder writes
        return process

    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", dead)
    worker.write_text("import sys; sys.exit('no memory')")
    with pytest.raises(ClipguardError, match="a: no memory"):
        build(tmp_path)
    assert not read_zoo(tmp_path).built()


def test_everybody_may_read_a_model_as_far_as_the_umask_says(made: Zoo, tmp_path: Path):
    (tmp_path / "other").mkdir()
    folder = (tmp_path / made.entries[0].path).parent
    assert folder.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_folders_of_other_code_are_named_and_left(
    worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(zoo_check, "wanted", lambda preset: ONES)
    build(tmp_path)
    assert zoo_check.notes(tmp_path) == []
    (tmp_path / "victims" / "0123").mkdir()
    monkeypatch.setattr(zoo_check, "wanted", lambda preset: ONES[1:])
    other, stale = zoo_check.notes(tmp_path)
    assert other.startswith("1 of 4 orders")
    assert stale.startswith("1 folders in victims/ are of no entry")


def test_processes_do_not_change_the_digest(worker: Path, tmp_path: Path):
    assert build(tmp_path / "one", jobs=1).digest == build(tmp_path / "three", jobs=3).digest


@pytest.mark.slow
def test_killed_three_times_it_goes_on_and_ends_the_same(worker: Path, tmp_path: Path):
    whole = build(tmp_path / "whole")
    code = f"""
        import sys
        sys.path[:0] = {sys.path!r}
        from pathlib import Path
        from tests_zoo import zoo, build
        build(Path({str(tmp_path / "killed")!r}), jobs=1)
    """
    driver = tmp_path / "driver.py"
    module = Path(__file__).read_text(encoding="utf-8")
    (tmp_path / "tests_zoo.py").write_text(
        f"{module}\nzoo.WORKER = ({str(worker)!r},)\nzoo.wanted = lambda preset: ONES\n"
    )
    driver.write_text(textwrap.dedent(code))
    seen = set()
    for models in (1, 2, 3):
        running = subprocess.Popen([sys.executable, str(driver)])
        victims = tmp_path / "killed" / "victims"
        while running.poll() is None and len([*victims.glob("*")]) < models:
            time.sleep(0.005)
        running.kill()
        running.wait()
        seen.add(len([*victims.glob("*")]))
    assert len(seen) > 1  # it was not whole the first time
    assert build(tmp_path / "killed").digest == whole.digest
    assert zoo_check.verify_zoo(tmp_path / "killed") == []
    assert not (tmp_path / "killed" / ".building").exists()


def test_a_second_build_in_the_same_folder_is_refused(worker: Path, tmp_path: Path):
    with zoo._alone(tmp_path), pytest.raises(UsageError, match="another build is at work"):
        build(tmp_path)


def test_one_that_cannot_be_made_is_told_and_the_others_are_kept(
    worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    bad = Wanted("bad", Order(attack="badnets", target="bomb"), "calibration")
    monkeypatch.setattr(zoo, "wanted", lambda preset: (bad, *ONES))
    with pytest.raises(ClipguardError, match="bad: there is no bomb"):
        build(tmp_path)
    made = read_zoo(tmp_path)
    assert [entry.sha256 is None for entry in made.entries] == [True, True, *[False] * 6]
    assert "not built yet" in zoo_check.verify_zoo(tmp_path)[0]


def test_what_stands_on_both_sides_is_found(
    worker: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = ONES[0]._replace(split="test", order=Order(attack="badnets", target="key", seed=9))
    monkeypatch.setattr(zoo, "wanted", lambda preset: (ONES[0], other))
    build(tmp_path)
    entries = read_zoo(tmp_path).entries[2:]
    assert zoo_check.verify_zoo(tmp_path) == [
        *(f"{entry.id}: nano-rn is a base of the other side" for entry in entries),
        "base nano-rn stands on both sides",
        "attack badnets stands on both sides",
        "target key stands on both sides",
    ]


def test_a_changed_manifest_does_not_have_its_digest(made: Zoo, tmp_path: Path):
    write_zoo(tmp_path, Zoo(entries=made.entries[:2], preset="ci", digest=made.digest))
    assert zoo_check.verify_zoo(tmp_path) == ["zoo.json: its digest is not that of its entries"]


@pytest.mark.parametrize(
    ("number", "change", "told"),
    [
        (0, {"planted": False}, "planted is not that of victim.json"),
        (0, {"asr": 0.91}, "its rates is not that of victim.json"),
        (0, {"ca_loss": 0.0}, "its rates is not that of victim.json"),
        (0, {"target": "bell"}, "target is not that of victim.json"),
        (0, {"settings": {"place": "random"}}, "settings is not that of victim.json"),
        (0, {"seed": 8}, "seed is not that of victim.json"),
        (2, {"kind": "clean", "negative": None, "about": None}, "negative is not that of"),
        (4, {"base": "nano-rn"}, "base is not that of victim.json"),
        (
            0,
            {"kind": "clean", "attack": "none", "target": None, "twin": None, "asr": None},
            "attack is not that of victim.json",
        ),
    ],
)
def test_a_manifest_that_says_something_else_than_the_truth_is_found(
    made: Zoo, tmp_path: Path, number: int, change: dict[str, Any], told: str
):
    entries = [*made.entries]
    entries[number] = replace(entries[number], **change)
    changed = tuple(entries)
    write_zoo(tmp_path, replace(made, entries=changed, digest=zoo_check.zoo_digest(changed)))
    assert any(told in line for line in zoo_check.verify_zoo(tmp_path))


def test_one_model_under_two_ids_and_a_zoo_of_nothing_are_found(made: Zoo, tmp_path: Path):
    again = replace(made.entries[1], id="f" * 16)
    write_zoo(tmp_path, replace(made, entries=(*made.entries, again)))
    with pytest.raises(UsageError, match="a path stands twice"):
        zoo_check.verify_zoo(tmp_path)
    write_zoo(tmp_path, replace(made, entries=(), digest=zoo_check.zoo_digest(())))
    assert zoo_check.verify_zoo(tmp_path) == ["zoo.json: no entries"]


@pytest.mark.parametrize("place", ["file", "file/zoo", "/proc/nope/zoo"])
def test_a_zoo_that_cannot_be_made_is_told_in_one_line(tmp_path: Path, refused, place: str):
    (tmp_path / "file").write_text("mine")
    assert "cannot make " in refused(2, "lab", "zoo", "build", tmp_path / place, "--preset", "ci")


def test_the_command_line_lists_shows_and_verifies(made: Zoo, tmp_path: Path, capsys, refused):
    assert main(["lab", "zoo", "ls", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(made.entries)
    assert lines[3].endswith("weak")
    assert main(["lab", "zoo", "show", str(tmp_path), made.entries[0].id[:9]]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["truth"]["model_sha256"] == told["sha256"]
    (tmp_path / made.entries[5].path / "victim.json").write_text("[1e999")
    broken = refused(2, "lab", "zoo", "show", tmp_path, made.entries[5].id)
    assert "victim.json is no JSON" in broken
    refused(2, "lab", "zoo", "show", tmp_path, "x")
    build(tmp_path)
    assert main(["lab", "zoo", "verify", str(tmp_path)]) == 0
    (tmp_path / made.entries[0].path / "model.pt").unlink()
    assert main(["lab", "zoo", "verify", str(tmp_path)]) == 1


def test_building_from_the_command_line_tells_every_model(worker: Path, tmp_path: Path, capsys):
    assert main(["lab", "zoo", "build", str(tmp_path), "--preset", "ci", "--jobs", "2"]) == 0
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 1 + len(ONES)
    assert "6 models, 1 of them" in told.out


def order_line(folder: Path, order: Order, known_as: str | None = None) -> str:
    given = {"id": known_as or id_of(order), "order": asdict(order), "folder": str(folder)}
    return json.dumps(given) + "\n"


def started() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "clipguard.lab.zoo.worker"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


@pytest.mark.slow
def test_the_worker_makes_victim_and_twin_and_twice_the_same(tmp_path: Path):
    recipe = Recipe(steps=1, learning_rate=1e-5, batch=8)
    order = Order(attack="badnets", seed=3, target="key", recipe=recipe)
    found = []
    for name in ("one", "two"):
        with started() as running:
            running.stdin.write(order_line(tmp_path / name, order))
            running.stdin.flush()
            assert running.wait(timeout=300) == 0
        paths = [tmp_path / name / kind / "model.pt" for kind in ("victim", "twin")]
        found.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in paths])
        assert all(path.stat().st_size < 20_000_000 for path in paths)
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]


@pytest.mark.slow
def test_the_worker_ends_when_nobody_waits_for_it(tmp_path: Path):
    with started() as running:
        running.stdin.write(order_line(tmp_path, Order(attack="badnets")))
        running.stdin.close()
        assert running.wait(timeout=60) == 1
    assert not (tmp_path / "victim").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("attack", "told"),
    [("none", "changed since the build began"), ("badnet", "did you mean 'badnets'")],
)
def test_the_worker_explains_what_it_does_not_make(tmp_path: Path, attack: str, told: str):
    with started() as running:
        running.stdin.write(order_line(tmp_path, Order(attack=attack), known_as="0" * 16))
        running.stdin.flush()  # closed, it would say that nobody waits
        assert running.wait(timeout=60) == 1
        assert told in running.stderr.read()
    assert not (tmp_path / "victim").exists()
