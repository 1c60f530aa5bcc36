"""Tables by columns: Parquet, and the Arrow files that `save_to_disk` of `datasets` writes."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from clipguard.errors import UsageError
from clipguard.text_safety import safe_text

LIBRARY = "pyarrow"
FILE_MAGIC = b"ARROW1"
"""What Arrow's file format begins with; `datasets` writes its stream format, which has none."""


class Columnar(NamedTuple):
    """A table of which some rows at a time can be read.

    Attributes:
        names: of its columns.
        metadata: beside its schema.
        counts: rows of each group.
        values: of one column in one group, by number and name.
    """

    names: list[str]
    metadata: Mapping[bytes, bytes]
    counts: list[int]
    values: Callable[[int, str], list[Any]]


def open_columnar(path: Path) -> Columnar:
    """Open a `.parquet` or `.arrow` file; no value is made yet.

    Raises:
        UsageError: no such table, or pyarrow is missing.
    """
    opened: Columnar = _explained(path, "the file", lambda: OPENERS[path.suffix](path))
    return opened


def _explained(path: Path, what: str, work: Callable[[], Any]) -> Any:
    """What `work` gives; whatever a damaged file makes of the library is one line."""
    try:
        return work()
    except ImportError as error:
        raise UsageError(
            f"{safe_text(path.name)} needs pyarrow; pip install 'clipguard[data]'"
        ) from error
    except Exception as error:
        raise UsageError(
            f"{safe_text(path.name)}: {what} cannot be read ({safe_text(error)}); fetch it again"
        ) from error


def _parquet(path: Path) -> Columnar:
    reader: Any = importlib.import_module(f"{LIBRARY}.parquet")
    file = reader.ParquetFile(path)
    counts = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    schema = file.schema_arrow

    def values(number: int, name: str) -> list[Any]:
        def read() -> Any:
            return file.read_row_group(number, columns=[name]).column(0).to_pylist()

        what = f"column {safe_text(name)} of row group {number + 1}"
        held: list[Any] = _explained(path, what, read)
        return held

    return Columnar(list(schema.names), schema.metadata or {}, counts, values)


def _arrow(path: Path) -> Columnar:
    library: Any = importlib.import_module(LIBRARY)
    ipc: Any = importlib.import_module(f"{LIBRARY}.ipc")
    source = library.memory_map(str(path))
    with path.open("rb") as file:
        whole = file.read(len(FILE_MAGIC)) == FILE_MAGIC
    reader = ipc.open_file(source) if whole else ipc.open_stream(source)
    batches = list(map(reader.get_batch, range(reader.num_record_batches)) if whole else reader)

    def values(number: int, name: str) -> list[Any]:
        def read() -> Any:
            column = batches[number].column(batches[number].schema.get_field_index(name))
            column.validate(full=True)  # the places in the file that it names are any numbers
            return column.to_pylist()

        what = f"column {safe_text(name)} of batch {number + 1}"
        held: list[Any] = _explained(path, what, read)
        return held

    counts = [batch.num_rows for batch in batches]
    return Columnar(list(reader.schema.names), reader.schema.metadata or {}, counts, values)


OPENERS: dict[str, Callable[[Path], Columnar]] = {".parquet": _parquet, ".arrow": _arrow}
"""By the end of a file's name."""
