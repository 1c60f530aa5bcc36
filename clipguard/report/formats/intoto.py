"""An in-toto statement with a test result, to be signed by whoever attests the release.

One line of JSON for each model, so that several are a file of JSON lines.

Source:
    in-toto attestation framework: Statement v1, predicate test-result v0.1.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from clipguard.errors import UsageError
from clipguard.record import AuditRecord, Check, Decision
from clipguard.record.wording import model_digest, name_of, rests_on_repair, tower_digest, verdict
from clipguard.report.lines import waived_by
from clipguard.text_safety import safe_text

if TYPE_CHECKING:
    from clipguard.report.roles import Renderer

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"


@dataclass(frozen=True, kw_only=True)
class Intoto:
    """Passed only on a pass without a waiver; a waived pass warns, cannot tell is a fail."""

    SUFFIX: ClassVar[str] = ".intoto.jsonl"
    MARK: ClassVar[str] = r'test-result/v0\.1".*("policy/|"gate")'

    def render(self, record: AuditRecord, folder: Path) -> str:
        """See `Renderer.render`.

        Raises:
            UsageError: no file has a digest, so nothing can be stated about one.
        """
        subjects = list(_subjects(record))
        if not subjects:
            raise UsageError(
                f"{safe_text(name_of(record))}: the pass is about a repair of which no file was "
                "kept, so intoto has nothing to state it about; export it, or use another format"
            )
        statement = {
            "_type": STATEMENT,
            "subject": subjects,
            "predicateType": PREDICATE,
            "predicate": _predicate(record),
        }
        text = json.dumps(statement, ensure_ascii=True, allow_nan=False)
        return text.replace("##", "#\\u0023") + "\n"

    def join(self, documents: Sequence[str]) -> str:
        """See `Joinable.join`."""
        return "".join(documents)


METHOD: type[Renderer] = Intoto


def _subjects(record: AuditRecord) -> Iterator[dict[str, Any]]:
    """The checkpoint, or what was repaired where a pass is about that, and the file made of it."""
    digest, made = model_digest(record), record.export
    if digest is None:
        raise UsageError(
            f"{safe_text(name_of(record))}: intoto states something about a digest, and the record "
            "has none; use another format"
        )
    passes, repair = verdict(record).decision is Decision.PASS, record.purification
    if record.gate is None or not rests_on_repair(record.gate):
        yield {"name": safe_text(name_of(record)), "digest": {"sha256": digest}}
    elif repair is not None and repair.repaired and (tower := tower_digest(record)):
        yield {"name": safe_text(repair.repaired), "digest": {"sha256": tower}}
    if made is not None and made.kept and passes and re.fullmatch("[0-9a-f]{64}", made.sha256):
        yield {"name": safe_text(made.file), "digest": {"sha256": made.sha256}}


def _predicate(record: AuditRecord) -> dict[str, Any]:
    gate = record.gate
    checks = gate.checks if gate else ()
    failed = [one for one in checks if one.counts and one.result is not Decision.PASS]
    warned = [one for one in checks if not one.counts and one.result is not Decision.PASS]
    waived = any(one.waived for one in checks)
    passed = verdict(record).decision is Decision.PASS
    used = [(f"policy/{safe_text(gate.policy)}", gate.policy_sha256)] if gate else []
    if gate and gate.waivers_sha256:
        used.append(("waivers", gate.waivers_sha256))
    return {
        "result": ("WARNED" if waived else "PASSED") if passed else "FAILED",
        "configuration": [{"name": name, "digest": {"sha256": digest}} for name, digest in used],
        "passedTests": _names(one for one in checks if one.result is Decision.PASS),
        "warnedTests": [
            *_names(one for one in warned if not one.waived),
            *(
                safe_text(f"{one.key}, waived: {by}", 1000)
                for one in warned
                if gate and (by := waived_by(one, gate))
            ),
        ],
        "failedTests": _names(failed) if gate else ["gate"],
    }


def _names(checks: Iterable[Check]) -> list[str]:
    """Keys of lines; of several alike one."""
    return list(dict.fromkeys(safe_text(check.key) for check in checks))
