"""Where rows come from: one module a source, each giving jobs that read a few rows when they are called.

A job is a small picklable thing, so that another process can run it; what it gives is unchecked (`checks.examine`).

Settings, as they stand under `data.<task>.<split>` of the resolved parameters:

| source | field | type | what |
|---|---|---|---|
| synthetic | rows | int >= 1 | |
| | image_size | int, 48 to 1024, default 128 | side of the square pictures, pixels |
| jsonl | | | a file of JSON objects, pictures beside it |
| parquet | columns | mapping | the file's own names of our columns, where they differ |
| imagefolder | split | text or null | its sub-folder; null: the one named as the split, or the folder itself |
| | columns | mapping | as parquet |
| hub | name | text | a dataset of the hub; a folder in the form of one has a path instead |
| | split | text, default train | |
| | revision | text or null | a commit, branch or tag; null is what the hub has on that day |
| | columns | mapping | as parquet |

All but `synthetic` have `licence`: text or null. A source on this machine has `sha256`, the digest of its content, in
the place of its path: `resolve` puts it in, and the path is in `local.paths`. `validation` may instead be `fraction`
(above 0, below 1): drawn from train. Beside the splits stand `train_samples` (null or int >= 1), `checks` (see
`expectations`) and `require_licence` (true: a source whose licence is not known is refused).
"""

from collections.abc import Callable

from othink_mr1.data.sources.base import Job, Request, Source
from othink_mr1.data.sources.hub import hub
from othink_mr1.data.sources.imagefolder import imagefolder
from othink_mr1.data.sources.jsonl import jsonl
from othink_mr1.data.sources.parquet import parquet
from othink_mr1.data.sources.synthetic import synthetic
from othink_mr1.errors import UserError

__all__ = ["SOURCES", "Job", "Request", "Source", "open_source"]

SOURCES: dict[str, Callable[[Request], Source]] = {
    "synthetic": synthetic,
    "jsonl": jsonl,
    "parquet": parquet,
    "imagefolder": imagefolder,
    "hub": hub,
}


def open_source(request: Request) -> Source:
    """The source that the settings name.

    Raises:
        UserError: no such source, a setting is missing or out of range, or its file is missing or cannot be read.
    """
    name = request.settings.get("source")
    if name not in SOURCES:
        raise UserError(f"{request.key}.source: {name!r} cannot be read; there are {', '.join(SOURCES)}")
    return SOURCES[name](request)
