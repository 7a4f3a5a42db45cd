"""A headless Chromium, driven by a script that is put into a copy of the page."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CATCH = """<script>
window.problems = [];
addEventListener("error", e => problems.push(e.message));
addEventListener("securitypolicyviolation", e => problems.push(e.violatedDirective));
for (const kind of ["error", "warn"]) console[kind] = (...words) => problems.push(words.join(" "));
</script>"""
DRIVE = """<script>
addEventListener("load", async () => {
  const tick = () => new Promise(done => setTimeout(done, 0));
  const go = async hash => { location.hash = hash; await tick(); await tick(); };
  const click = async element => { element.click(); await tick(); };
  const type = async (id, text) => {
    byId(id).value = text; byId(id).dispatchEvent(new Event("input")); await tick();
  };
  const found = {};
  try { %s } catch (error) { problems.push(String(error)); }
  found.problems = problems;
  found.milliseconds = drawnAt;
  const answer = document.createElement("pre");
  answer.id = "answer";
  answer.textContent = JSON.stringify(found);
  document.body.append(answer);
});
</script>"""
DRAWN = "<script>const drawnAt = performance.now();</script>"


def visit(page: Path, script: str, width: int = 1200) -> dict[str, Any]:
    """Opens a page from its file address and runs a script on it, which fills `found`.

    Returns:
        `found`, with `problems` (errors, warnings, forbidden loads) and the `milliseconds` from the
        start of loading until the page's own script had drawn its first view.
    """
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("needs chromium: apt-get install chromium")
    copy = page.with_name(f"driven-{page.name}")
    copy.write_text(_driven(page.read_text(), script))
    done = subprocess.run(
        [
            chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={page.parent / 'profile'}", f"--window-size={width},900",
            "--virtual-time-budget=20000", "--dump-dom", copy.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    answer = re.search(r'<pre id="answer">(.*?)</pre>', done.stdout, re.S)
    assert answer, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(answer.group(1)))
    return found


def _driven(text: str, script: str) -> str:
    """Puts the scripts into the page, and their digests next to that of the page's own script."""
    head, tail = CATCH, DRAWN + DRIVE % script
    own = re.findall("<script>(.*?)</script>", head + tail, re.S)
    digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in own)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    assert "script-src 'sha256-" in text, "the page allows other scripts than its own"
    return (
        text.replace("<head>", f"<head>{head}", 1)
        .replace("script-src ", f"script-src {allowed} ", 1)
        .replace("</body>", f"{tail}</body>", 1)
    )
