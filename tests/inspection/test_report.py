"""The page: complete, self-contained, and shown by a browser."""

from __future__ import annotations

import base64
import io
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from curl.inspection import findings, plots, report
from curl.inspection.analysis import Inspection
from support.inspections import inspected, make_policy, plain

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
EXTERNAL = ("http:", "https:", "//", "file:")


class Page(HTMLParser):
    """The tags, links and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.text += data


def written(seen: Inspection, folder: Path) -> Page:
    report.write(seen, folder)
    return Page((folder / report.PAGE).read_text(encoding="utf-8"))


def test_the_page_holds_everything_and_fetches_nothing(tmp_path: Path) -> None:
    page = written(plain(), tmp_path / "deep" / "report")
    assert set(page.tags).isdisjoint({"script", "link", "iframe", "object"})
    images = [link for link in page.links if link.startswith("data:image/png;base64,")]
    assert images == page.links and len(images) == len(plots.CAPTIONS)
    for link in images:
        with Image.open(io.BytesIO(base64.b64decode(link.split(",")[1]))) as image:
            assert image.format == "PNG" and min(image.size) > 50
    for finding in findings.find(plain()):
        assert str(finding) in page.text
    assert findings.verdict(plain()) in page.text


def test_the_figures_lie_beside_the_page_and_in_the_markdown(tmp_path: Path) -> None:
    written(plain(), tmp_path)
    names = {path.stem for path in tmp_path.glob("*.png")}
    assert names == set(plots.CAPTIONS)
    text = (tmp_path / report.MARKDOWN).read_text(encoding="utf-8")
    assert all(f"]({name}.png)" in text for name in names)
    assert "](http" not in text


def test_what_is_missing_is_left_out_with_its_reason(tmp_path: Path) -> None:
    seen = inspected(make_policy("agent=bc", "objective=none"))
    page = written(seen, tmp_path)
    assert "Q against returns" not in page.text
    assert "values and the saliency of Q: this agent has no critic." in page.text
    assert not (tmp_path / "values.png").exists() and (tmp_path / "saliency.png").exists()


def test_names_are_text_and_no_markup(tmp_path: Path) -> None:
    seen = replace(plain(), facts=[("run", "<script>x</script>"), *plain().facts[1:]])
    page = written(seen, tmp_path)
    assert "script" not in page.tags and "<script>x</script>" in page.text


def test_the_same_numbers_give_the_same_files() -> None:
    assert plots.draw(plain()) == plots.draw(plain())


@pytest.mark.skipif(BROWSER is None, reason="needs a browser: Chromium or Chrome")
def test_a_browser_shows_the_whole_page(tmp_path: Path) -> None:
    """With the network switched off, every picture has a size."""
    written(plain(), tmp_path)
    page = tmp_path / report.PAGE
    counting = (
        "<script>onload = () => document.title = [...document.images]"
        ".filter(i => i.complete && i.naturalWidth > 50).length + ' shown'</script>"
    )
    page.write_text(page.read_text().replace("</body>", f"{counting}</body>"))
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, f"file://{page}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert f"<title>{len(plots.CAPTIONS)} shown</title>" in done.stdout, done.stderr[-500:]
