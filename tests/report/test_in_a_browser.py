"""The page in a real browser: what axe-core finds, and whether anything is cut on a phone."""

import json
import shutil
import subprocess
from html import unescape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from samples import RECORDS, crowded, failing, held_against, judged, write_pictures

from clipguard.report.formats import RENDERERS

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
AXE = find_spec("axe_core_python")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None or AXE is None, reason="needs chromium and axe-core-python"),
]
SERIOUS = {"serious", "critical"}
# Each page is laid out 390 px wide, then read by axe-core with everything unfolded. The page
# forbids scripts, so the copy that is tested comes without that line.
HARNESS = """<!doctype html><meta charset="utf-8"><body><script id="pages" type="application/json">
{pages}</script><script>
const pages = JSON.parse(document.getElementById("pages").textContent);
async function look(html, width) {{
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${{width}}px;height:900px;border:0`;
  const begun = performance.now();
  frame.srcdoc = html;
  await new Promise(done => {{ frame.onload = done; document.body.append(frame); }});
  const page = frame.contentDocument;
  page.body.getBoundingClientRect();
  const opened = performance.now() - begun;
  page.querySelectorAll("details").forEach(one => one.open = true);
  return [frame, page, opened];
}}
const cut = page => [page.documentElement, ...page.querySelectorAll(".scroll, dd, p, li, figure")]
  .filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.outerHTML.slice(0, 200));
(async () => {{
  const found = {{}};
  for (const [name, html] of Object.entries(pages)) {{
    const [small, narrow, opened] = await look(html, 390);
    const told = {{cut: cut(narrow), opened}};
    small.remove();
    const [wide, page] = await look(html, 1200);
    const script = page.createElement("script");
    script.textContent = {axe};
    page.head.append(script);
    const result = await wide.contentWindow.axe.run();
    told.violations = result.violations.map(v => [v.impact, v.id, v.nodes[0].html]);
    told.passes = result.passes.length;
    wide.remove();
    found[name] = told;
  }}
  document.body.textContent = JSON.stringify(found);
}})();
</script>"""


def looked_at(pages: dict[str, str], folder: Path, *, dark: bool) -> dict[str, Any]:
    """What a browser finds on each page."""
    spec = AXE.origin if AXE and AXE.origin else ""
    axe = (Path(spec).parent / "axe.min.js").read_text(encoding="utf-8")
    plain = {
        name: text.replace('<meta http-equiv="Content-Security-Policy"', "<meta")
        for name, text in pages.items()
    }
    shown, script = (json.dumps(value).replace("<", "\\u003c") for value in (plain, axe))
    harness = folder / "harness.html"
    harness.write_text(HARNESS.format(pages=shown, axe=script), encoding="utf-8")
    done = subprocess.run(
        [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu"),
            *(f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=600000"),
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            *("--dump-dom", harness.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    body = done.stdout.partition("<body>")[2].rpartition("</body>")[0]
    return dict(json.loads(unescape(body)))


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everybody_can_read_every_page_and_nothing_is_cut_on_a_phone(tmp_path: Path, dark: bool):
    write_pictures(tmp_path)
    html = RENDERERS.build("html")
    makers = {**RECORDS, "crowded": crowded, "held": lambda: judged(held_against())}
    kinds = ("pass", "fail", "inconclusive") if dark else tuple(makers)
    records = {kind: makers[kind]() for kind in kinds}
    pages = {name: html.render(record, tmp_path) for name, record in records.items()}
    found = looked_at(pages, tmp_path, dark=dark)
    assert found.keys() == records.keys()
    for name, told in found.items():
        assert told["passes"] > 10, name
        assert [row for row in told["violations"] if row[0] in SERIOUS] == [], name
        assert told["cut"] == [], name


def test_a_page_that_is_cut_or_has_no_words_is_noticed(tmp_path: Path):
    bad = RENDERERS.build("html").render(failing(), tmp_path)
    bad = bad.replace("<main>", '<main><p style="white-space:nowrap">' + "wide " * 99 + "</p>")
    bad = bad.replace("</main>", '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="></main>')
    told = looked_at({"bad": bad}, tmp_path, dark=False)["bad"]
    assert told["cut"]
    assert "image-alt" in {row[1] for row in told["violations"]}
