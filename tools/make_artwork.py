"""Repack openly licensed emoji artwork into the two files that clipguard ships.

Needs Node packages and two Python packages that are not dependencies of clipguard::

    npm install --ignore-scripts emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0 \
        @lobehub/fluent-emoji-3d@1.1.0 openmoji@17.0.0
    pip install resvg-py pillow
    python tools/make_artwork.py node_modules

Output: `clipguard/assets/artwork.zip` (Noto, Twemoji, Fluent) and
`clipguard/assets/artwork-openmoji.zip` (OpenMoji, share-alike, hence a file of its own).
Each zip stores one lossless WebP contact sheet per style and `index.json`, whose row i names
the concept in cell i. The output is byte-equal from run to run.
"""

from __future__ import annotations

import argparse
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import resvg_py
from PIL import Image

CATEGORIES = ("Animals & Nature", "Food & Drink", "Objects", "Travel & Places", "Activities")
SIDE = 64
COLUMNS = 32
ASSETS = Path(__file__).resolve().parent.parent / "clipguard" / "assets"


def key(stem: str) -> str:
    """Code points without the variation selector, which the packages use differently."""
    return "-".join(part for part in stem.lower().split("-") if part != "fe0f")


def files(folder: Path) -> dict[str, Path]:
    return {key(path.stem): path for path in sorted(folder.iterdir()) if path.is_file()}


def raster(path: Path) -> Image.Image:
    return Image.open(path)


def vector(path: Path) -> Image.Image:
    png = bytes(resvg_py.svg_to_bytes(svg_path=str(path), width=4 * SIDE, height=4 * SIDE))
    return Image.open(io.BytesIO(png))


def cell(picture: Image.Image) -> Image.Image:
    """Fit a drawing into a 64 x 64 RGBA cell; resized premultiplied so that edges stay clean."""
    picture = picture.convert("RGBA").convert("RGBa")
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    centred = Image.new("RGBa", (SIDE, SIDE))
    centred.paste(picture, ((SIDE - picture.width) // 2, (SIDE - picture.height) // 2))
    return centred.convert("RGBA")


def sheet(paths: list[Path], read: Callable[[Path], Image.Image]) -> bytes:
    rows = -(-len(paths) // COLUMNS)
    canvas = Image.new("RGBA", (COLUMNS * SIDE, rows * SIDE))
    for i, path in enumerate(paths):
        canvas.paste(cell(read(path)), (i % COLUMNS * SIDE, i // COLUMNS * SIDE))
    out = io.BytesIO()
    canvas.save(out, "WEBP", lossless=True, quality=100, method=6, exact=False)
    return out.getvalue()


def write(path: Path, index: object, sheets: dict[str, bytes]) -> None:
    members = {"index.json": json.dumps(index, ensure_ascii=True, indent=0).encode()}
    members |= {f"{style}.webp": data for style, data in sheets.items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name, date_time=(2026, 1, 1, 0, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    print(f"{path.name}: {path.stat().st_size} bytes, {len(index)} concepts")  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("node_modules", type=Path)
    root: Path = parser.parse_args().node_modules
    sources: dict[str, tuple[Path, Callable[[Path], Image.Image]]] = {
        "noto": (root / "emoji-datasource-google/img/google/64", raster),
        "twemoji": (root / "emoji-datasource-twitter/img/twitter/64", raster),
        "fluent": (root / "@lobehub/fluent-emoji-3d/assets", raster),
        "openmoji": (root / "openmoji/color/svg", vector),
    }
    found = {style: files(folder) for style, (folder, _) in sources.items()}
    listing = json.loads((root / "emoji-datasource-google/emoji.json").read_text(encoding="utf-8"))
    index = [
        {
            "code": key(row["unified"]),
            "names": [row["short_name"].replace("_", " "), row["name"].lower()],
            "category": row["category"],
        }
        for row in sorted(listing, key=lambda row: row["sort_order"])
        if row["category"] in CATEGORIES and all(key(row["unified"]) in f for f in found.values())
    ]
    sheets = {
        style: sheet([found[style][row["code"]] for row in index], read)
        for style, (_, read) in sources.items()
    }
    held_out = {"openmoji": sheets.pop("openmoji")}
    write(ASSETS / "artwork.zip", index, sheets)
    write(ASSETS / "artwork-openmoji.zip", index, held_out)


if __name__ == "__main__":
    main()
