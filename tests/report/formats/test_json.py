from pathlib import Path

import pytest
from samples import RECORDS

from clipguard.record.schema import loads
from clipguard.report.formats import RENDERERS


@pytest.mark.parametrize("kind", RECORDS)
def test_json_is_the_record(kind: str) -> None:
    record = RECORDS[kind]()
    text = RENDERERS.build("json").render(record, Path("nowhere"))
    assert text.isascii()
    assert loads(text) == record
