"""Python's garbage collector, put off while packages are imported."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Import without garbage collection, and leave what was imported out of later ones.

    DVC, Prefect and MLflow make half a million objects that stay to the end. The collector looks through all of them
    again and again while they are made, and once more when Python ends: 3 of the 9 seconds that all this takes.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
