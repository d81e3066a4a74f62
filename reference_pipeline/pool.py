"""Processes that work for this one, do not fight each other for the cores, and end when it does."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context, parent_process

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@contextmanager
def worker_pool(workers: int, *, one_thread: bool | None = None) -> Iterator[ProcessPoolExecutor]:
    """A pool of ``workers`` processes; what has not begun when the block ends is not done.

    Spawned, not forked: numerical libraries keep threads, which a fork would lose. Where there are several,
    or ``one_thread`` says so, each has one thread for linear algebra, which a library reads once, from its
    process's environment.
    """
    names = _THREADS if (workers > 1 if one_thread is None else one_thread) else ()
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _end_with_parent() -> None:
    """In a worker: end when the process that started it is killed, which tells its children nothing."""
    parent = parent_process()
    assert parent is not None  # it was spawned

    def wait() -> None:
        parent.join()
        os._exit(1)  # what is half written has a name of its own and is never read

    threading.Thread(target=wait, daemon=True).start()
