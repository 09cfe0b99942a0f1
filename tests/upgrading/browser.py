"""A real browser, headless, without more than the browser itself: pages are run, then dumped."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SWITCHES = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--virtual-time-budget=4000"),
)

FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe id="page" style="border:0;width:{width}px;height:900px"></iframe>
<script>
const frame = document.getElementById("page");
frame.onload = async () => {{
  const page = frame.contentDocument, look = frame.contentWindow;
  const press = (key, on) => (on || page.activeElement).dispatchEvent(
    new look.KeyboardEvent("keydown", {{ key, bubbles: true, cancelable: true }}));
  let found;
  try {{ found = await (async () => {{ {script} }})(); }} catch (error) {{ found = String(error); }}
  const out = document.createElement("pre");
  out.id = "found";
  out.textContent = JSON.stringify(found);
  frame.remove();
  document.body.append(out);
}};
frame.srcdoc = {page};
</script>"""


def browser() -> str:
    """The browser's path; skips by name where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: install one of {', '.join(NAMES)}")
    return found


def ran(page: str, script: str, folder: Path, width: int = 1280, *switches: str) -> Any:
    """What a script returns that was run on a page in a frame of this width.

    It has `page` (the document), `look` (its window) and `press(key, element)`.
    """
    # inside of a script element no "</" may stand
    quoted = json.dumps(page).replace("</", "<\\/")
    file = folder / "frame.html"
    file.write_text(FRAME.format(width=width, script=script, page=quoted), encoding="utf-8")
    command = [browser(), *SWITCHES, f"--user-data-dir={folder / 'profile'}", *switches]
    done = subprocess.run(
        [*command, "--dump-dom", file.as_uri()],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stdout[-500:] + done.stderr[-500:]
    return json.loads(html.unescape(found[1]))
