"""Tune kept to itself: off the terminal, and off the signals once a sweep is over."""

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator

_SNAPSHOT_S = "2"


@contextlib.contextmanager
def contained(pending: int) -> Iterator[None]:
    """Keep Tune off the terminal, and the signals that it takes over only for its own time.

    What matters in its log comes back as a QuaverError. Its newer output prints a banner at every
    verbosity, its older one obeys `verbose=0`; a variable, read when a sweep starts, is the only
    switch between them. Its handler of Ctrl-C would stay and swallow the next one. Another variable
    is how many trials may wait for a node: all, where they are known, so that the first snapshot
    has them all, and a cluster that scales sees what is wanted. The last is how often the table and
    TensorBoard's events go to the root.
    """
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGUSR1)}
    switches = {
        "RAY_AIR_NEW_OUTPUT": "0",
        "TUNE_MAX_PENDING_TRIALS_PG": str(pending),
        "TUNE_GLOBAL_CHECKPOINT_S": _SNAPSHOT_S,
    }
    before = {name: os.environ.get(name) for name in switches}
    os.environ.update(switches)
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for switch, value in before.items():
            os.environ.pop(switch)
            if value is not None:
                os.environ[switch] = value
