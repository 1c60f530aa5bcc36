"""What the wheel carries, and that it works without the checkout."""

import os
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from clipguard.resources import PACKAGE, asset, shipped

ROOT = Path(__file__).parents[1]
MB = 1_000_000
LIMITS = {
    "artwork.zip": 8 * MB,
    "artwork-openmoji.zip": 2 * MB,
    "nano-rn.safetensors": 6 * MB,
    "nano-rn-1.safetensors": 6 * MB,
    "nano-vit.safetensors": 6 * MB,
    "nano-vit-1.safetensors": 6 * MB,
    "effnet.safetensors": 8 * MB,
}
LICENCES = ["LICENSE", "NOTICE"] + [
    f"LICENSES/{name}.txt" for name in ("Apache-2.0", "CC-BY-4.0", "CC-BY-SA-4.0", "MIT")
]
SHIPPED = ["policies", "reports/templates"]


def run(*command: object, cwd: Path, path: Path | None = None) -> str:
    environment = os.environ | ({"PYTHONPATH": str(path)} if path else {})
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with clipguard from the wheel, which goes before the checkout on the path."""
    folder = tmp_path_factory.mktemp("installed")
    target = folder / "site"
    run("-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel, cwd=folder)
    return target


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


@pytest.mark.parametrize("folder", SHIPPED)
def test_a_checkout_reads_shipped_folders_where_they_are_edited(folder: str):
    assert shipped(folder) == ROOT / folder
    assert any(shipped(folder).iterdir())


def test_licence_texts_are_there_whole():
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in LICENCES}
    assert texts["LICENSE"] == texts["LICENSES/Apache-2.0.txt"]
    assert "END OF TERMS AND CONDITIONS" in texts["LICENSE"]
    for name in ("LICENSES/CC-BY-4.0.txt", "LICENSES/CC-BY-SA-4.0.txt"):
        assert [i for i in range(1, 9) if f"\nSection {i} -- " not in texts[name]] == []
    assert "Copyright (c) Microsoft Corporation" in texts["LICENSES/MIT.txt"]


def test_the_notice_names_every_sheet_of_artwork():
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for name in ("artwork.zip", "artwork-openmoji.zip"):
        assert name in notice
        with zipfile.ZipFile(asset(name)) as archive:
            assert [member for member in archive.namelist() if member not in notice] == []


@pytest.mark.slow
def test_the_wheel_carries_every_shipped_file(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for folder in SHIPPED:
            for path in (ROOT / folder).iterdir():
                packed = archive.read(f"clipguard/_data/{folder}/{path.name}")
                assert packed == path.read_bytes()
    assert "clipguard/_data/policies/default.yaml" in names
    for path in (p for p in (PACKAGE / "assets").rglob("*") if p.is_file()):
        assert f"clipguard/{path.relative_to(PACKAGE).as_posix()}" in names
    assert "clipguard/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"clipguard"}


@pytest.mark.slow
def test_the_wheel_carries_the_licences_and_names_them(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name.split(".dist-info/licenses/")[-1] for name in archive.namelist()}
    assert set(LICENCES) <= inside
    found = metadata(wheel)["License-Expression"]
    assert found == "Apache-2.0 AND MIT AND CC-BY-4.0 AND CC-BY-SA-4.0"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("linux", "x86_64", "onnxruntime-gpu"),
        ("win32", "AMD64", "onnxruntime-gpu"),
        ("linux", "aarch64", "onnxruntime"),
        ("win32", "ARM64", "onnxruntime"),
        ("darwin", "x86_64", "onnxruntime"),
        ("darwin", "arm64", "onnxruntime"),
    ],
)
def test_each_platform_gets_one_onnxruntime(wheel: Path, system: str, machine: str, expected: str):
    platform = {"sys_platform": system, "platform_machine": machine, "extra": ""}
    wanted = [Requirement(line) for line in metadata(wheel).get_all("Requires-Dist", [])]
    chosen = [r.name for r in wanted if r.marker is None or r.marker.evaluate(platform)]
    assert [name for name in chosen if name.startswith("onnxruntime")] == [expected]


@pytest.mark.slow
@pytest.mark.parametrize("name", LIMITS)
def test_bundled_data_stays_small(wheel: Path, name: str):
    with zipfile.ZipFile(wheel) as archive:
        assert 0 < archive.getinfo(f"clipguard/assets/{name}").file_size <= LIMITS[name]


@pytest.mark.slow
@pytest.mark.parametrize("folder", SHIPPED)
def test_an_installed_wheel_reads_shipped_folders_from_itself(
    installed: Path, tmp_path: Path, folder: str
):
    code = f"from clipguard.resources import shipped; print(shipped({folder!r}))"
    found = Path(run("-c", code, cwd=tmp_path, path=installed).strip())
    assert found == installed / "clipguard" / "_data" / folder
    assert {p.name for p in found.iterdir()} == {p.name for p in (ROOT / folder).iterdir()}


@pytest.mark.slow
def test_every_command_works_from_the_wheel(installed: Path, tmp_path: Path):
    run(ROOT / "tools" / "wheel_smoke.py", cwd=tmp_path, path=installed)
