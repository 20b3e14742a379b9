"""`othink report`: the path of the HTML report, built if it is missing or older than the results."""

from pathlib import Path

from othink_mr1.report.build import build, gates_path, report_path


def report(root: Path = Path()) -> Path:
    """The report's path, which is built first where that is needed.

    Raises:
        UserError: there are no results to report yet.
    """
    path = build(root) if is_stale(root) else report_path(root)
    return path.resolve()


def is_stale(root: Path) -> bool:
    """Whether the report is missing, or older than the tables or the last decision on promotion."""
    path, results = report_path(root), root / "tables" / "results.json"
    if not path.is_file() or not results.is_file():
        return True  # without results, building says what is missing
    made = path.stat().st_mtime_ns
    sources = [source for source in (results, gates_path(root)) if source.is_file()]
    return any(source.stat().st_mtime_ns > made for source in sources)
