"""What the pipeline tells MLflow: one run a pipeline run, one run a stage inside it.

Steps know nothing of it. They write files; the flow mirrors them while they grow (`StageMirror`) and, for a stage
that DVC had in its cache, finds the run that made them (`find_stage_run`) or logs it again (`log_from_files`).

    with tracking.pipeline_run(root, params, tags) as run:
        mirror = tracking.StageMirror(root, "train@sft-counting", run.run_id, params["train"]["sft"]["counting"], {})
        while step_is_running():
            mirror.poll()
        mirror.finish("done")

MLflow may be away at any moment: the pipeline goes on, and what is missing is logged when it is back.
"""

from othink_mr1.git_state import git_tags
from othink_mr1.tracking.connection import (
    Store,
    StoreAwayError,
    connect,
    first_line,
    page,
    run_url,
    store,
    ui_address,
)
from othink_mr1.tracking.mirror import StageMirror
from othink_mr1.tracking.runs import PipelineRun, find_stage_run, log_from_files, pipeline_run

__all__ = [
    "PipelineRun",
    "StageMirror",
    "Store",
    "StoreAwayError",
    "connect",
    "find_stage_run",
    "first_line",
    "git_tags",
    "log_from_files",
    "page",
    "pipeline_run",
    "run_url",
    "store",
    "ui_address",
]
