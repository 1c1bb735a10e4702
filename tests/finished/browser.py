"""What a headless Chromium makes of a page."""

import html
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

WIDTHS = (1280, 390)  # a desktop's and a phone's
# The page stands in a frame as wide as a screen: Chromium makes no window as narrow as a phone, and what measures is
# outside of it, since a page may forbid scripts.
AROUND = """<!doctype html><body><iframe width="{width}" height="900" style="border: 0" srcdoc="{page}"></iframe><script>
onload = () => {{
    const frame = document.querySelector("iframe").contentWindow, root = frame.document.documentElement
    const asked = frame.performance.getEntriesByType("resource").map(it => it.name)
    document.body.dataset.seen = JSON.stringify({{
        wider: root.scrollWidth - {width}, requests: asked.filter(it => !it.startsWith("data:")),
        pictures: [...frame.document.images].filter(it => it.naturalWidth > 0).length}})
}}
</script></body>"""


@dataclass
class Seen:
    """wider: pixels that the page is wider than the screen; requests: what it asked for; console: what was said."""

    wider: int
    requests: list[str]
    pictures: int
    console: list[str]


def seen(page: str, width: int, folder: Path) -> Seen:
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no Chromium")
    around = folder / "around.html"
    around.write_text(AROUND.format(width=width, page=html.escape(page, quote=True)), encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars",
             "--disable-component-update", "--no-first-run", f"--user-data-dir={folder / 'profile'}",
             "--enable-logging=stderr", f"--window-size={max(width + 100, 600)},1000"]  # fmt: skip
    done = subprocess.run([browser, *flags, "--dump-dom", around.as_uri()], capture_output=True, text=True, check=True,
                          timeout=300)  # fmt: skip
    told = done.stdout.rpartition('data-seen="')[2].partition('"')[0]
    return Seen(**json.loads(html.unescape(told)), console=[it for it in done.stderr.splitlines() if "CONSOLE" in it])
