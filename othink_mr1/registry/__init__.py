"""Registered models, one a training task: `othink-mr1-counting` and `othink-mr1-geometry`.

A version holds the weights, or a LoRA adapter, as a pyfunc model and, under `evidence/`, the predictions by which it
was judged: so a comparison with the champion works later and on another machine, without the files of the run that
made it.
"""

from othink_mr1.registry.registered import (
    CANDIDATE,
    CHAMPION,
    Version,
    champion,
    drop_alias,
    evidence,
    load,
    locked,
    register,
    set_alias,
    tag,
    untag,
    version,
    versions,
)

__all__ = [
    "CANDIDATE",
    "CHAMPION",
    "Version",
    "champion",
    "drop_alias",
    "evidence",
    "load",
    "locked",
    "register",
    "set_alias",
    "tag",
    "untag",
    "version",
    "versions",
]
