import json
from pathlib import Path
from typing import Any

import pytest
from samples import RECORDS, failing, passing, unjudged

from clipguard.errors import UsageError
from clipguard.policy.judge import judge, load_policy
from clipguard.record import SCHEMA_VERSION, AuditRecord, schema
from clipguard.record.schema import dumps, json_schema, loads, read_record, upgrade
from clipguard.report.formats import RENDERERS

DOCS = Path(__file__).parents[2] / "docs"


def data(record: AuditRecord) -> dict[str, Any]:
    parsed: dict[str, Any] = json.loads(dumps(record))
    return parsed


@pytest.mark.parametrize("kind", RECORDS)
def test_a_record_survives_the_round_trip(kind: str) -> None:
    record = RECORDS[kind]()
    assert loads(dumps(record)) == record


def test_numbers_keep_their_type() -> None:
    settings = {"a": 1, "b": 1.0, "c": True, "d": None, "e": "1"}
    back = loads(dumps(unjudged(settings=settings))).settings
    assert [(k, type(v)) for k, v in back.items()] == [(k, type(v)) for k, v in settings.items()]


def test_json_is_ascii_in_model_order_and_ends_with_a_line_end() -> None:
    text = dumps(passing())
    assert text.isascii()
    assert text.endswith("}\n")
    assert list(json.loads(text)) == list(AuditRecord.model_fields)


def test_a_number_that_json_does_not_have_is_not_written() -> None:
    times = unjudged().times.model_copy(update={"seconds": {"detect": float("nan")}})
    with pytest.raises(ValueError, match="JSON"):
        dumps(unjudged(times=times))


def test_half_a_surrogate_pair_does_not_make_an_unreadable_record() -> None:
    assert loads(dumps(unjudged(command="a\udcffb"))).command == "a?b"


def test_the_published_schema_is_up_to_date() -> None:
    published = json.loads((DOCS / "audit.schema.json").read_text(encoding="utf-8"))
    assert published == json_schema(), "run: clipguard schema > docs/audit.schema.json"


@pytest.mark.parametrize("kind", RECORDS)
def test_records_satisfy_the_published_schema(kind: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(data(RECORDS[kind]()), json_schema())


def test_what_an_older_record_does_not_say_reads_as_not_done() -> None:
    older = data(failing())
    made = older["purification"]
    del made["against"], made["before"]["target_accuracy"], made["after"]["target_accuracy"]
    for row in made["reinversion"]:
        del row["searched"], row["settled"]
    read = loads(json.dumps(older)).purification
    assert read is not None
    assert read.against == ()
    assert read.before.target_accuracy is read.after.target_accuracy is None
    assert not any(row.searched or row.settled for row in read.reinversion)


def test_unknown_keys_of_a_newer_minor_version_are_left_out() -> None:
    newer = data(failing())
    newer["schema_version"] = "clipguard.audit/2.4"
    newer["novelty"] = {"deep": [1, {"x": None}]}
    newer["checkpoint"]["signature"] = "abc"
    newer["detectors"][0]["candidates"][1]["trigger"]["colour"] = 3
    assert loads(json.dumps(newer)) == failing()


def older() -> dict[str, Any]:
    """A record as the first version wrote it."""
    text = (Path(__file__).parents[1] / "records" / "audit-1.json").read_text(encoding="utf-8")
    parsed: dict[str, Any] = json.loads(text)
    return parsed


@pytest.mark.parametrize("name", RENDERERS.names())
def test_a_record_of_version_1_is_read_rendered_and_written_as_one_of_today(name: str) -> None:
    record = loads(json.dumps(older()))
    assert record.schema_version == SCHEMA_VERSION
    assert record.reference is not None
    assert (record.reference.name, record.reference.concentration) == ("base.pt", 0.328)
    assert record.gate is not None
    assert record.gate.exit_code == judge(load_policy("default"), record).exit_code == 1
    assert loads(dumps(record)) == record
    told = {"intoto": "backdoor.outcome"}.get(name, "hot air balloon")
    assert told in RENDERERS.build(name).render(record, Path("nowhere"))


def test_an_upgrade_leaves_out_just_what_version_2_has_no_place_for() -> None:
    upgraded = older()
    upgrade(upgraded)
    upgraded["schema_version"] = SCHEMA_VERSION
    assert AuditRecord.model_validate_json(json.dumps(upgraded))  # nothing unknown is left
    assert set(upgraded) - set(older()) == {"reference"}
    assert set(older()) - set(upgraded) == {"weights"}


@pytest.mark.parametrize(
    ("outcome", "settled", "share"), [("inconclusive", False, 0.0), ("backdoored", True, 1.0)]
)
def test_what_version_1_concluded_becomes_what_it_had_measured(
    outcome: str, settled: bool, share: float
) -> None:
    record = older()
    images = {**record["detectors"][0], "outcome": outcome}
    record["detectors"] = [images, {**images, "name": "text_tokens", "own_null": True}]
    first, word = loads(json.dumps(record)).detectors
    assert first.evidence == images["reason"]
    assert {row.settled for row in first.candidates} == {settled}
    assert (first.word_share, word.word_share) == (None, share)


def test_a_band_made_from_the_model_itself_is_read_as_none() -> None:
    record = older()
    record["calibration"]["kind"] = "self-null"
    assert loads(json.dumps(record)).calibration.kind == "none"
    with pytest.raises(UsageError, match=r"calibration\.kind"):
        loads(json.dumps({**record, "schema_version": f"{SCHEMA_VERSION}.1"}))


def test_a_record_of_version_1_may_have_no_weights_to_speak_of() -> None:
    for weights in (None, {"statement": "x", "readings": [], "reference": None}, [1], "x"):
        assert loads(json.dumps({**older(), "weights": weights})).reference is None
    del (record := older())["weights"]
    assert loads(json.dumps(record)).reference is None


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("detectors", "3"),
        ("detectors", '[{"candidates": 3}]'),
        ("gate", '{"outcomes": 3}'),
        ("calibration", "[" * 900 + "]" * 900),
    ],
)
def test_a_damaged_record_of_version_1_is_refused_like_any_other(part: str, wrong: str) -> None:
    rest = {key: value for key, value in older().items() if key not in (part, "weights")}
    with pytest.raises(UsageError, match=r"not a valid audit record|recursion limit"):
        loads(f'{json.dumps(rest)[:-1]}, "{part}": {wrong}}}')


@pytest.mark.parametrize("version", ["clipguard.audit/3", "clipguard.audit/0"])
def test_another_major_version_is_refused_by_name(version: str) -> None:
    with pytest.raises(UsageError, match="that major version"):
        loads(json.dumps({**data(passing()), "schema_version": version}))


def broken(**changes: Any) -> str:
    return json.dumps({**data(passing()), **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "audit record in JSON"),
        ("\x00\xff", "audit record in JSON"),
        ("[]", "schema_version"),
        ("null", "schema_version"),
        ("{}", "schema_version"),
        ('{"schema_version": "x\\u001b[2J"}', r"got 'x\\\\u\{1b\}"),
        ('{"a": 1, "a": 2}', "duplicate key 'a'"),
        ('{"a": NaN}', "NaN is not a number"),
        ('{"a": -Infinity}', "-Infinity is not a number"),
        ("[" * 200_000, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", "schema_version"),
        (broken(complete="yes"), "complete"),
        (broken(complete=1), "complete"),
        (broken(times=None), "times"),
        (broken(detectors=[{}]), r"detectors.0.name"),
        (broken(settings={"x": []}), "settings"),
        (broken(command="\ud800"), "not a valid"),
        (broken(x=1, complete="yes"), "complete"),
        (broken(environment={"a\x1b": 3}), r"environment.a\\u\{1b\}"),
        (dumps(passing()).replace("41.2", "1e999"), "times.seconds"),
    ],
)
def test_hostile_records_are_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        loads(text)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("depth", [100, 900, 20_000])
def test_depth_in_unknown_keys_never_crashes_the_reader(depth: int) -> None:
    newer = dumps(passing()).replace(SCHEMA_VERSION, f"{SCHEMA_VERSION}.1", 1)
    deep = newer[:-3] + ', "x": ' + "[" * depth + "]" * depth + "}"
    if depth == 100:
        assert loads(deep) == passing()
        return
    with pytest.raises(UsageError, match=r"nested too deeply|recursion limit"):
        loads(deep)


def test_a_record_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "SIZE_LIMIT", 1000)
    with pytest.raises(UsageError, match="at most"):
        loads(dumps(passing()))
    (tmp_path / "audit.json").write_text(dumps(passing()), encoding="ascii")
    with pytest.raises(UsageError, match="at most"):
        read_record(tmp_path / "audit.json")


@pytest.mark.parametrize("digits", ["1" + "0" * 18, "9" * 5000])
def test_a_count_that_nothing_can_compute_with_is_refused_by_name(digits: str) -> None:
    text = dumps(passing()).replace('"measure": 400', f'"measure": {digits}')
    with pytest.raises(UsageError, match=r"probe\.measure"):
        loads(text)


@pytest.mark.parametrize("name", ["missing.json", ".", "a.json"])
def test_a_record_that_cannot_be_read_is_a_usage_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(UsageError):
        read_record(tmp_path / name)


@pytest.mark.parametrize(
    ("part", "key", "digest"),
    [
        ("checkpoint", "sha256", "AB" * 32),
        ("probe", "class_names_sha256", "ab" * 31),
        ("calibration", "sha256", "ab" * 32 + "\n"),
        ("gate", "policy_sha256", "<b>" + "0" * 61),
    ],
)
def test_what_is_no_digest_is_refused(part: str, key: str, digest: str) -> None:
    record = data(passing())
    record[part][key] = digest
    with pytest.raises(UsageError, match=f"{part}.{key}"):
        loads(json.dumps(record))


def test_a_misspelt_key_does_not_hide_what_it_held() -> None:
    record = json.loads(dumps(failing()))
    record["Detectors"] = record.pop("detectors")
    with pytest.raises(UsageError, match="Detectors"):
        loads(json.dumps(record))
