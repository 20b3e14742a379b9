"""The Data Docs, out of real Great Expectations, in a browser that is refused the network."""

import json
from pathlib import Path
from typing import Any

import pytest
from makers import split_rows, write_split

from othink_mr1.data import data_docs, expectations
from othink_mr1.data.offline_pages import offline
from othink_mr1.data.prepare import prepare
from tests.report.browser import executable, page

HOSTILE = "<script>document.title = 'taken'</script><img src=http://example.org/x.png onerror=alert(1)>"
PAGES = ("index", "train", "validation", "test")


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a dataset with a failed expectation and with text that would like to be a script."""
    folder = tmp_path_factory.mktemp("docs")
    size = {"source": "synthetic", "image_size": 64}
    settings = {"train": {**size, "rows": 20}, "validation": {**size, "rows": 4}, "test": {**size, "rows": 8}}
    (folder / "data").mkdir()
    prepared = prepare("counting", settings, 0, {}, folder / "data")
    rows = split_rows(folder / "data", "train")
    rows[2]["answer"] = HOSTILE
    rows[3]["source"] = HOSTILE
    write_split(folder / "data", "train", rows)
    sources = dict.fromkeys(settings, "synthetic 64 px")
    checked = expectations.validate(prepared, {"min_rows": 8}, sources, {}, folder / "docs")
    provenance: dict[str, Any] = json.loads((folder / "data" / "provenance.json").read_text())
    provenance["splits"]["train"]["quarantined"] = {HOSTILE: 1}
    data_docs.write_index(folder / "docs", provenance, checked, {"test": 1_600_000_000.0}, 1_700_000_000)
    return folder / "docs"


def test_the_index_says_what_was_checked_and_where_the_data_come_from(docs: Path) -> None:
    index = (docs / "index.html").read_text()
    assert "Prepared 2023-11-14T22:13:20Z, seed 0" in index
    for text in ("23 of 24", "expect_column_values_to_match_regex(answer)", "Apache-2.0", "image_size 64", "critical"):
        assert text in index, text
    sources = json.loads((docs / "sources.json").read_text())
    assert (sources["prepared_at"], sources["splits"]["test"]["rows"]) == ("2023-11-14T22:13:20Z", 8)
    assert [sources["splits"][split]["fetched_at"] for split in ("train", "test")] == [None, "2020-09-13T12:26:40Z"]


def test_only_these_pages_are_kept(docs: Path) -> None:
    assert sorted(path.name for path in docs.iterdir()) == sorted(["sources.json", *(f"{name}.html" for name in PAGES)])


@pytest.mark.skipif(executable() is None, reason="needs Chromium")
def test_pages_open_without_a_network(docs: Path) -> None:
    with page() as tab:
        tab.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        for name in PAGES:
            tab.open(docs / f"{name}.html", 1000)
            assert tab.evaluate("document.title") in ("Data of counting", f"Data of counting: {name} split")
            assert tab.evaluate("document.body.innerText.length") > 500
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        tab.open(docs / "train.html", 1000)
        assert HOSTILE in tab.evaluate("document.body.innerText")
    assert tab.messages == []
    assert [url for url in tab.requests if not url.startswith(("file:", "data:"))] == []


def test_a_page_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="not found"):
        offline("<html><body>hello</body></html>", "t")
