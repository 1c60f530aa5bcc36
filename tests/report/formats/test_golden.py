"""A few documents as they were last looked at, so that a change of one is seen in its review.

`CLIPGUARD_GOLDEN=write` writes them anew; look at the difference before you commit it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from many_records import MANY

from clipguard.policy.judge import load_policy
from clipguard.report.formats import RENDERERS
from clipguard.report.outputs import default_file

GOLDEN = Path(__file__).parents[1] / "golden"
CHOSEN = (
    ("waived", "sarif"),
    ("fail", "junit"),
    ("refused", "github"),
    ("half waived", "intoto"),
    ("pass", "cyclonedx"),
)


def told(kind: str, name: str) -> str:
    """The document, without what changes with every edit of a policy's comments."""
    text = RENDERERS.build(name).render(MANY[kind](), Path("nowhere"))
    text = text.replace(load_policy("default").sha256, "POLICY")
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)


@pytest.mark.parametrize(("kind", "name"), CHOSEN)
def test_a_document_is_as_it_was_looked_at(kind: str, name: str) -> None:
    file = GOLDEN / f"{kind.replace(' ', '-')}-{default_file(name)}"
    text = told(kind, name)
    if os.environ.get("CLIPGUARD_GOLDEN") == "write":
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")
