"""Work spread over processes that survives the death of one of them."""

from __future__ import annotations

import os
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")

KILLED = "the process was killed: most often for want of memory; try --workers 1"


def in_processes(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    *,
    lost: Callable[[Job, str, str], Result],
) -> Iterator[tuple[int, Result]]:
    """Yield (index of the job, result) as they come, ``workers`` at a time, jobs begun in their order.

    A process that dies (of memory, say) takes its pool with it: what was under way is done again one job to
    a pool, so that only the culprit is lost. ``lost(job, reason, message)`` stands for the result of a job
    whose process was killed ("killed") or that raised (the exception's name, its trace).
    """
    if not jobs:
        return
    broken: list[int] = []
    with _pool(min(workers, len(jobs))) as pool:
        futures: dict[Future[Result], int] = {pool.submit(work, job): i for i, job in enumerate(jobs)}
        for future in as_completed(futures):
            i = futures[future]
            try:
                yield i, future.result()
            except BrokenProcessPool:
                broken.append(i)
            except Exception as error:  # noqa: BLE001  # one job's trouble, not the night's; its trace is kept
                yield i, lost(jobs[i], type(error).__name__, traceback.format_exc())
    for i in sorted(broken):
        with _pool(1) as pool:
            try:
                yield i, pool.submit(work, jobs[i]).result()
            except BrokenProcessPool:
                yield i, lost(jobs[i], "killed", KILLED)


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of ``workers`` processes that do not fight each other for the cores.

    Spawned, not forked: numerical libraries keep threads, which a fork would lose. Where there are several,
    each has one thread for linear algebra, which a library reads once, from its process's environment.
    """
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS") if workers > 1 else ()
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_end_with_parent) as pool:
            yield pool
    finally:
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
