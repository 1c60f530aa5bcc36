"""Probe data as people have it: tar files, tables, mapped folders, near copies."""

from __future__ import annotations

import csv
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from test_probe import SMALL, Reader, parts

from clipguard.errors import UsageError
from clipguard.probe.load import ProbeSource, load_probe
from clipguard.probe.near import groups_of
from clipguard.probe.sets import ProbeSet

CLASSES = ("cat", "dog")


def png(place: int) -> bytes:
    """A picture of noise whose first pixel tells its class: even places are cats."""
    pixels = np.random.default_rng(place).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    pixels[0, 0] = 255 * (place % 2)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def load(place: Path, names: Path | None = None) -> ProbeSet:
    source = ProbeSource(images=place, class_names=names)
    return load_probe(Reader(knows=True), source, SMALL, seed=0)


def read_rightly(probe: ProbeSet) -> bool:
    """Whether every image has the label that its first pixel tells, and each part has both."""
    assert probe.labelled
    for part in parts(probe):
        first = part.images[:, 0, 0, 0] // 255
        told = [probe.class_names[label] for label in part.labels]
        if told != [CLASSES[one] for one in first]:
            return False
    return sum(len(part) for part in parts(probe)) == 12


def tar(path: Path, files: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as made:
        for name, data in files:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            made.addfile(entry, io.BytesIO(data))
    return path


def names(path: Path) -> Path:
    path.write_text("cat\ndog\n")
    return path


def test_tar_files_with_class_indices_and_their_class_list_are_labelled(tmp_path: Path):
    for shard in range(2):
        rows = [(f"s/{i:04}.png", png(i)) for i in range(6 * shard, 6 * shard + 6)]
        rows += [(f"s/{i:04}.cls", f"{i % 2}\n".encode()) for i in range(6 * shard, 6 * shard + 6)]
        tar(tmp_path / "set" / "test" / f"{shard}.tar", [*rows, ("s/0000.json", b"{}")])
    names(tmp_path / "set" / "classnames.txt")
    assert read_rightly(load(tmp_path / "set"))
    assert read_rightly(load(tmp_path / "set", names(tmp_path / "n.txt")))


def test_captions_label_an_image_if_one_class_is_named_in_them(tmp_path: Path):
    said = ("A photo of a CAT.", "the dog, outside")
    rows = [(f"{i}.png", png(i)) for i in range(12)]
    rows += [(f"{i}.txt", said[i % 2].encode()) for i in range(12)]
    file = tar(tmp_path / "a.tar", rows)
    assert read_rightly(load(file, names(tmp_path / "n.txt")))
    with pytest.raises(UsageError, match="--classnames"):
        load(file)
    both = tar(tmp_path / "b.tar", [*rows[:12], *((f"{i}.txt", b"cat, dog") for i in range(12))])
    assert not load(both, names(tmp_path / "n.txt")).labelled


def hostile(path: Path, kind: str) -> Path:
    tar(path, [("a.png", png(0)), ("b.png", png(1))])
    data = bytearray(path.read_bytes())
    if kind == "compressed":
        with tarfile.open(path, "w:gz"):
            pass
        return path
    if kind == "text":
        path.write_bytes(b"not a tar" * 200)
    elif kind == "cut":
        path.write_bytes(data[:700])
    else:  # a description that claims to be as long as the file
        entry = tarfile.TarInfo("x")
        entry.type, entry.size = tarfile.XHDTYPE, 2**30
        path.write_bytes(entry.tobuf(tarfile.USTAR_FORMAT) + bytes(2**21))
    return path


@pytest.mark.parametrize("kind", ["compressed", "text", "description"])
def test_a_tar_file_that_is_none_or_lies_is_one_line(kind: str, tmp_path: Path, one_line):
    with one_line(UsageError, r"a\.tar: no plain tar file|no images in a\.tar"):
        load(hostile(tmp_path / "a.tar", kind), names(tmp_path / "n.txt"))


def test_links_devices_and_paths_in_a_tar_file_reach_nothing(tmp_path: Path):
    (tmp_path / "secret.png").write_bytes(png(1))
    file = tmp_path / "a.tar"
    with tarfile.open(file, "w") as made:
        for place in range(12):
            entry = tarfile.TarInfo(f"../../{place}.png")
            entry.size = len(png(place))
            made.addfile(entry, io.BytesIO(png(place)))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.png")
        made.addfile(link)
    probe = load(file, names(tmp_path / "n.txt"))
    assert sum(len(part) for part in parts(probe)) == 12
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.tar", "n.txt", "secret.png"]


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return path
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ","
        )
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize(
    ("file", "column", "said"),
    [
        ("photos.csv", "label", ("cat", "dog")),
        ("photos.tsv", "title", ("a cat", "a dog")),
        ("photos.jsonl", "label", (0, 1)),
        ("metadata.csv", "label", ("cat", "dog")),
        ("train/metadata.jsonl", "text", ("one cat", "one dog")),
    ],
)
def test_a_table_names_images_and_their_classes(
    file: str, column: str, said: tuple[object, object], tmp_path: Path
):
    path = tmp_path / "set" / file
    rows = [{"file_name": f"img/{i}.png", column: said[i % 2]} for i in range(12)]
    table(path, rows)
    (path.parent / "img").mkdir()
    for i in range(12):
        (path.parent / "img" / f"{i}.png").write_bytes(png(i))
    place = tmp_path / "set" if "metadata" in file else path
    assert read_rightly(load(place, names(tmp_path / "n.txt")))
    (path.parent / "img" / "3.png").unlink()
    assert load(place, names(tmp_path / "n.txt")).skipped == 1


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "photo,label\nx.png,cat\n", "no column with images"),
        ("a.csv", "", "no rows"),
        ("a.csv", "image,label\n,cat\n", "row 1"),
        ("a.jsonl", '{"image": "a.png"\n', "line 1"),
        ("a.jsonl", "[1]\n", "expected an object"),
        ("a.zip", "x", "expected a folder of images"),
    ],
)
def test_a_table_that_says_nothing_is_one_line(
    name: str, text: str, says: str, tmp_path: Path, one_line
):
    (tmp_path / name).write_text(text)
    with one_line(UsageError, says):
        load(tmp_path / name, names(tmp_path / "n.txt"))


def test_parquet_holds_images_and_names_of_classes(tmp_path: Path):
    arrow = pytest.importorskip("pyarrow")
    rows = {
        "image": [{"bytes": png(i), "path": None} for i in range(12)],
        "label": [i % 2 for i in range(12)],
    }
    told = {"info": {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}}
    made = arrow.table(rows).replace_schema_metadata({"huggingface": json.dumps(told)})
    importorskip = pytest.importorskip("pyarrow.parquet")
    importorskip.write_table(made, tmp_path / "a.parquet", row_group_size=5)
    assert read_rightly(load(tmp_path / "a.parquet"))
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:200])
    with pytest.raises(UsageError, match="Parquet"):
        load(tmp_path / "b.parquet")


def test_a_set_that_datasets_saved_is_read_without_what_it_keeps_beside(tmp_path: Path):
    arrow, ipc = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.ipc")
    rows = {
        "image": [{"bytes": png(i), "path": None} for i in range(12)],
        "label": [i % 2 for i in range(12)],
    }
    told = {"info": {"features": {"label": {"names": list(CLASSES), "_type": "ClassLabel"}}}}
    made = arrow.table(rows).replace_schema_metadata({"huggingface": json.dumps(told)})
    folder = tmp_path / "set" / "test"
    folder.mkdir(parents=True)
    (folder / "cache-1.arrow").write_bytes(b"x")
    for number, part in enumerate((made[:5], made[5:])):
        name = folder / f"data-0000{number}-of-00002.arrow"
        with ipc.new_stream(name, made.schema) as writer:
            writer.write_table(part, max_chunksize=3)
    assert read_rightly(load(tmp_path / "set"))
    with ipc.new_file(tmp_path / "a.arrow", made.schema) as writer:
        writer.write_table(made)
    assert read_rightly(load(tmp_path / "a.arrow"))
    data = (tmp_path / "a.arrow").read_bytes()
    for damaged in (data[:300], b"not arrow at all"):
        (tmp_path / "b.arrow").write_bytes(damaged)
        with pytest.raises(UsageError, match=r"b\.arrow: "):
            load(tmp_path / "b.arrow")


@pytest.mark.parametrize("head", ["", "folder,name\n"])
def test_a_csv_file_names_folders_that_are_called_by_a_number(head: str, tmp_path: Path):
    for place in range(12):
        folder = tmp_path / "photos" / f"n0144076{place % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{place}.png").write_bytes(png(place))
    mapping = tmp_path / "map.csv"
    mapping.write_text(f"{head}n01440760,cat\nn01440761,dog\n")
    assert read_rightly(load(tmp_path / "photos", mapping))
    mapping.write_text("n01440760\n")
    with pytest.raises(UsageError, match="line 1"):
        load(tmp_path / "photos", mapping)


def photo(seed: int) -> Image.Image:
    """Something with large shapes, as photos have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC)


def test_near_copies_share_a_part_and_different_photos_do_not(tmp_path: Path):
    for seed in range(12):
        folder = tmp_path / "photos" / CLASSES[seed % 2]
        folder.mkdir(parents=True, exist_ok=True)
        shot = photo(seed)
        shot.save(folder / f"{seed}.png")
        shot.resize((64, 64)).save(folder / f"{seed}-small.jpg", quality=40)
        ImageEnhance.Brightness(shot).enhance(1.04).save(folder / f"{seed}-light.png")
    probe = load(tmp_path / "photos")
    assert sum(len(part) for part in parts(probe)) == 36
    ids = [set(part.drawings.tolist()) for part in parts(probe)]
    assert [len(one) for one in ids] == [4, 4, 4]
    assert len(set.union(*ids)) == 12
    assert any("24" in warning for warning in probe.warnings)


def test_images_without_any_structure_are_never_near_copies():
    flat = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 3, 16, 16)
    assert groups_of(flat).tolist() == list(range(8))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_a_table_of_too_many_rows_is_refused_before_they_are_all_there(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_line
):
    rows = [{"image": f"{i}.png", "label": CLASSES[i % 2]} for i in range(12)]
    if name.endswith(".parquet"):
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), tmp_path / name)
        refuses = lambda *_, **__: pytest.fail("read")  # noqa: E731
        monkeypatch.setattr(parquet.ParquetFile, "read_row_group", refuses)
    else:
        table(tmp_path / name, rows)
    monkeypatch.setattr("clipguard.probe.tables.MAX_ROWS", 11)
    with one_line(UsageError, r"more than 11 rows"):
        load(tmp_path / name)


def test_a_parquet_file_whose_images_are_damaged_is_one_line(tmp_path: Path, one_line):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = {"label": [i % 2 for i in range(12)], "image": [png(i) for i in range(12)]}
    file = tmp_path / "a.parquet"
    parquet.write_table(arrow.table(rows), file, compression="snappy", use_dictionary=False)
    pages = parquet.ParquetFile(file).metadata.row_group(0).column(1)
    data = bytearray(file.read_bytes())
    start = pages.data_page_offset
    data[start : start + pages.total_compressed_size] = b"\xff" * pages.total_compressed_size
    file.write_bytes(data)
    with one_line(UsageError, r"a\.parquet: .*row group 1"):
        load(file, names(tmp_path / "n.txt"))
