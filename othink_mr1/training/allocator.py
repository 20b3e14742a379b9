"""The C library's allocator, as a training on the CPU wants it."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of <malloc.h>


def keep_freed_memory() -> bool:
    """Lets glibc keep what is freed, for the next step, which needs as much again.

    By default it gives large blocks back to the kernel at once, and every step faults the same pages in anew: up to a
    tenth of a step. Peak memory stays what it is. Other C libraries are left alone: False.
    """
    try:
        library = ctypes.CDLL("libc.so.6")
        return bool(library.mallopt(_MMAP_THRESHOLD, 1 << 30) and library.mallopt(_TRIM_THRESHOLD, (1 << 31) - 1))
    except (OSError, AttributeError):
        return False
