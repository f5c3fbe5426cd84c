"""What the system's allocator does with memory that a training step gives back."""

from __future__ import annotations

import ctypes
import functools
import os
import sys

_TRIM, _MAP = -1, -3  # glibc's names for its two thresholds: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
_MOST = 2**31 - 1


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process keep what training steps free, up to 2 GB, for the next step; gives whether it does.

    glibc hands large blocks back to the system as soon as they are free, so that the next step has each page of them
    mapped and zeroed anew: up to a third of a step that takes second derivatives on images. Who chose by environment
    variable what the allocator does is left alone, and so is every system but Linux with glibc.
    """
    chosen = any(name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "LD_PRELOAD"))
    if sys.platform != "linux" or chosen or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mapped = mallopt(_MAP, _MOST) or mallopt(_MAP, 2**25)  # older glibc takes no more than 32 MB
    return bool(mapped and mallopt(_TRIM, _MOST))
