"""Pictures rendered by this project (`othink_mr1.data.synthetic`)."""

from functools import partial

from othink_mr1.data.checks import RawRow
from othink_mr1.data.pictures import encode
from othink_mr1.data.sources.base import Request, Source, jobs_for, whole_number
from othink_mr1.data.synthetic import counting, geometry
from othink_mr1.errors import UserError

_SCENES = {"counting": counting.scene, "geometry": geometry.scene}
_LEAST_IMAGE_SIZE = 48


def synthetic(request: Request) -> Source:
    """As many scenes as `rows` says.

    Raises:
        UserError: a setting is out of range, or the task has no scenes.
    """
    rows = whole_number(request, "rows", 1)
    image_size = whole_number(request, "image_size", _LEAST_IMAGE_SIZE, default=128)
    if request.task not in _SCENES:
        raise UserError(f"{request.key}.source: no synthetic scenes of {request.task!r}; use another source")
    render = partial(_render, request.task, request.split, request.seed, image_size)
    return Source("synthetic", jobs_for(render, range(rows)), rows, licence="Apache-2.0")


def _render(task: str, split: str, seed: int, image_size: int, index: int) -> RawRow:
    scene = _SCENES[task](seed, index, split, image_size)
    return RawRow(
        split=split,
        source=f"synthetic:{index}",
        picture=encode(scene["image"]),
        problem=scene["problem"],
        answer=scene["answer"],
        thinking=scene["thinking"],
    )
