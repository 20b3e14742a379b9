"""The report as people get it: in a browser, on a phone and a desk, light and dark."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from flows.commands.report import is_stale, report
from othink_mr1.errors import UserError
from othink_mr1.report.build import MAX_BYTES, build, read_results
from othink_mr1.report.charts import nice_ticks
from othink_mr1.report.facts import gather
from othink_mr1.report.wording import headline, summary_markdown
from tests.report import browser
from tests.report.fake_project import GATES, make

SCRIPT = (
    "<script>alert(1)</script><img src=x onerror=alert(2)> <answer> 3 </answer> {{ 7 * 7 }} https://example.com/a.png"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make(tmp_path_factory.mktemp("project"), items=40, image_size=48, extra_completion=SCRIPT)
    build(folder, GATES)
    return folder


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / ".othink" / "report" / "index.html").read_text()


class _Outline(HTMLParser):
    """Headings, pictures and tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))


def test_a_completion_with_markup_is_only_text(page: str) -> None:
    outline = _Outline(page)
    assert "script" not in outline.tags
    assert not [name for _, name, _ in outline.attributes if name.startswith("on")]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "{{ 7 * 7 }}" in page


def test_it_is_one_light_file_that_refers_to_nothing_outside(page: str) -> None:
    assert len(page.encode()) < MAX_BYTES
    links = [value or "" for _, name, value in _Outline(page).attributes if name in ("src", "href")]
    assert links
    assert all(link.startswith(("data:", "#")) for link in links)
    assert "url(" not in page


def test_headings_are_in_order_and_pictures_are_told(page: str) -> None:
    outline = _Outline(page)
    assert outline.levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(outline.levels, outline.levels[1:], strict=False))
    alternatives = [value for tag, name, value in outline.attributes if (tag, name) == ("img", "alt")]
    assert len(alternatives) == outline.tags.count("img") > 10
    assert all(alternatives)


def test_it_says_what_the_results_say(page: str, root: Path) -> None:
    results = read_results(root)
    assert headline(results) in page
    assert "was made improvable" in page
    for row in results["same_task"] + results["cross_task"]:
        assert f"{row['strict']['correct']} of {row['n']}" in page
    for word in ("quarantined", "not promoted", "asked for the number only", "beta_max"):
        assert word in page


def test_wins_and_losses_stand_side_by_side(page: str) -> None:
    assert "GRPO-D right, base wrong" in page
    assert re.search("GRPO-D wrong, (base|SFT or GRPO) right", page)


def test_the_headline_claims_nothing_that_no_test_shows(root: Path) -> None:
    results = read_results(root)
    for comparison in results["comparisons"]["same-task"]:
        comparison["verdict"] = "no difference shown with 40 items"
    assert headline(results) == "No difference from the base is shown on counting and geometry."
    told = summary_markdown(results)
    assert not re.search(r"is (better|worse) than", told.split("Cross task")[0])


def test_the_summary_is_markdown_without_indents(root: Path) -> None:
    told = summary_markdown(read_results(root), gather(root), GATES)
    assert told.startswith("## GRPO-D")
    assert not [line for line in told.splitlines() if line.startswith(" ")]
    assert "| GRPO-D |" in told
    assert "**geometry**: grpo_d-geometry not promoted" in told


def test_decisions_are_kept_for_the_next_build(root: Path) -> None:
    build(root)
    assert "not worse than champion" in (root / ".othink" / "report" / "index.html").read_text()


def test_the_command_builds_only_what_is_missing_or_old(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    path = report()
    assert path.is_absolute()
    before = path.stat().st_mtime_ns
    assert not is_stale(root)
    assert report().stat().st_mtime_ns == before
    later = before + 10**9  # the clock of files is too coarse to see that they were touched in between
    os.utime(root / "tables" / "results.json", ns=(later, later))
    assert is_stale(root)
    assert report().stat().st_mtime_ns > before


def test_without_results_it_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"results\.json: there is no such file; `othink run`"):
        report(tmp_path)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "results.json").write_text(json.dumps({}))
    with pytest.raises(UserError, match="same_task is missing"):
        build(tmp_path)


def test_ticks_are_round_and_span_the_values() -> None:
    assert nice_ticks(0.04, 0.1) == [0.04, 0.06, 0.08, 0.1]
    assert nice_ticks(1, 1) == [1]
    for low, high in ((0, 1), (-3, 7), (0.12, 0.13), (5, 900)):
        ticks = nice_ticks(low, high)
        assert ticks[0] <= low
        assert ticks[-1] >= high
        assert 2 <= len(ticks) <= 7


_CONTRAST = """
(() => {
  const light = c => { const v = c.map(x => x / 255).map(x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
    return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const paint = colours => { canvas.clearRect(0, 0, 1, 1);
    for (const c of colours) { canvas.fillStyle = c; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3); };
  const low = [];
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    if (!e.checkVisibility()) continue;
    const style = getComputedStyle(e), behind = [];
    for (let p = e; p; p = p.parentElement) behind.unshift(getComputedStyle(p).backgroundColor);
    const ink = e instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(paint([...behind, ink])), light(paint(behind))].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) low.push(e.tagName + ' ' + e.getAttribute('class') + ' ' + e.textContent.trim());
  }
  return low;
})()
"""


@pytest.mark.skipif(browser.executable() is None, reason="Chromium is not installed (apt-get install chromium)")
def test_in_a_browser_on_a_phone_and_a_desk(root: Path) -> None:
    path = root / ".othink" / "report" / "index.html"
    with browser.page() as tab:
        for width in (390, 1280):
            for dark in (False, True):
                tab.open(path, width, dark=dark)
                assert tab.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
                assert tab.evaluate(_CONTRAST) == [], f"too little contrast, {width} px, dark {dark}"
                assert tab.evaluate("[...document.images].every(i => i.loading === 'lazy' || i.naturalWidth > 0)")
        backgrounds = []
        for dark in (False, True):
            tab.open(path, 390, dark=dark)
            backgrounds.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert backgrounds[0] != backgrounds[1]
        assert tab.messages == []
        outside = [address for address in tab.requests if not address.startswith(("data:", path.resolve().as_uri()))]
        assert outside == []
