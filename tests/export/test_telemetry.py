"""onnxruntime writes an id to disk and looks up a host on import, unless it is told not to."""

from __future__ import annotations

from pathlib import Path

from processes import ROOT, run_python

STUB = """
import os
print("seen", os.environ.get("ORT_DISABLE_TELEMETRY"), flush=True)
raise ImportError("enough")
"""
TRIED = """
try:
    import clipguard.export.session
except ImportError:
    pass
"""


def test_it_is_told_before_the_import(tmp_path: Path):
    (tmp_path / "onnxruntime.py").write_text(STUB)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{TRIED}"
    assert run_python("-c", code, code=0).stdout.splitlines()[-1] == "seen 1"


def test_whoever_imports_it_imports_the_package_that_tells_it():
    texts = {file: file.read_text("utf-8") for file in (ROOT / "clipguard").rglob("*.py")}
    found = [file for file, text in texts.items() if "import onnxruntime" in text]
    assert found
    assert [
        f for f in found if f.parent.name != "export" and "clipguard.export" not in texts[f]
    ] == []
