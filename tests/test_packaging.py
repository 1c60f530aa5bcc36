"""What the wheel carries, and that it works without the checkout."""

import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from processes import ROOT, run_python

from clipguard.resources import PACKAGE, asset, shipped

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    folder = tmp_path_factory.mktemp("dist")
    build = ("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    run_python(*build, code=0, cwd=folder)
    [built] = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def test_a_checkout_reads_shipped_folders_where_they_are_edited_and_bundles_little():
    for folder in SHIPPED:
        assert shipped(folder) == ROOT / folder
        assert any(shipped(folder).iterdir())
    sizes = {name: asset(name).stat().st_size for name in LIMITS}
    assert [name for name, size in sizes.items() if not 0 < size <= LIMITS[name]] == []


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
def test_the_wheel_carries_every_shipped_file_and_the_licences(
    wheel: zipfile.ZipFile, metadata: Message
):
    names = set(wheel.namelist())
    for path in (path for folder in SHIPPED for path in (ROOT / folder).iterdir()):
        packed = wheel.read(f"clipguard/_data/{path.relative_to(ROOT).as_posix()}")
        assert packed == path.read_bytes()
    for path in (p for p in (PACKAGE / "assets").rglob("*") if p.is_file()):
        assert f"clipguard/{path.relative_to(PACKAGE).as_posix()}" in names
    assert "clipguard/py.typed" in names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"clipguard"}
    assert set(LICENCES) <= {name.split(".dist-info/licenses/")[-1] for name in names}
    found = metadata["License-Expression"]
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
def test_each_platform_gets_one_onnxruntime(
    metadata: Message, system: str, machine: str, expected: str
):
    platform = {"sys_platform": system, "platform_machine": machine, "extra": ""}
    wanted = [Requirement(line) for line in metadata.get_all("Requires-Dist", [])]
    chosen = [r.name for r in wanted if r.marker is None or r.marker.evaluate(platform)]
    assert [name for name in chosen if name.startswith("onnxruntime")] == [expected]


@pytest.mark.slow
def test_commands_work_from_the_wheel_and_read_its_own_folders(
    wheel: zipfile.ZipFile, tmp_path: Path
):
    site = tmp_path / "site"  # which goes before the checkout on the path
    install = ("-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel.filename)
    run_python(*install, code=0, cwd=tmp_path)
    code = "from clipguard.resources import shipped; print(shipped('policies'))"
    found = run_python("-c", code, code=0, cwd=tmp_path, path=site).stdout.strip()
    assert Path(found) == site / "clipguard" / "_data" / "policies"
    run_python(ROOT / "tools" / "wheel_smoke.py", "--quick", code=0, cwd=tmp_path, path=site)
