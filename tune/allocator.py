"""The memory of a process that trains: what one step frees, the next one takes again.

As it comes, glibc gives the system back what a step of the seed model frees, 24 MB, and gets it
again page by page in the next step: that costs as much as the computing.
"""

import ctypes

_TRIM_THRESHOLD, _TOP_PAD = -1, -2  # Names of options in glibc's malloc.h.
_KEPT_BYTES = 1 << 30  # Free memory beyond this goes back to the system.
_AHEAD_BYTES = 1 << 28  # Asked for at once; what is not written to costs nothing.


def keep_freed_memory() -> None:
    """Have this process keep what it frees; without glibc everything stays as it is."""
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_TOP_PAD, _AHEAD_BYTES)
        library.mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
