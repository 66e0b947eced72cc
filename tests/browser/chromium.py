"""A page in headless Chromium, with a script that uses it and what the two of them said."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
QUIET += " --disable-background-networking --disable-component-update"
# Listens before the page's own scripts run, and leaves what it saw in the document.
LISTEN = """<script>const seen = {errors: [], blocked: []};
addEventListener("error", (event) => seen.errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => seen.blocked.push(event.blockedURI));</script>"""
LEAVE = """
seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const result = document.createElement("pre"); result.id = "seen"; result.textContent = JSON.stringify(seen);
document.body.append(result);"""


def use(page: Path, script: str) -> dict[str, Any]:
    """What `script`, run a second after the page's own in a window of 500 by 900, put into `seen`.

    The page's file is changed. Skips the test without Chromium.
    """
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    if chromium is None:
        pytest.skip("no Chromium at hand")
    text = page.read_text().replace("<head>", f"<head>{LISTEN}", 1)
    page.write_text(f"{text.removesuffix('</html>')}<script>setTimeout(() => {{{script}{LEAVE}\n}}, 1000);</script>")
    command = [chromium, "--headless", *QUIET.split(), f"--user-data-dir={page.parent / 'profile'}"]
    command += ["--window-size=500,900", "--virtual-time-budget=8000", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    assert found, "the page's scripts did not run to their end"
    result: dict[str, Any] = json.loads(html.unescape(found[1]))
    return result
