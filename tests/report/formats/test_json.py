from pathlib import Path

from samples import RECORDS

from clipguard.record.schema import loads
from clipguard.report.formats import RENDERERS


def test_json_is_the_record() -> None:
    record = RECORDS["hostile"]()
    text = RENDERERS.build("json").render(record, Path("nowhere"))
    assert text.isascii()
    assert loads(text) == record
