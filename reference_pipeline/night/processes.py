"""Work spread over processes that survives the death of one of them."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from ..pool import worker_pool

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
    with worker_pool(min(workers, len(jobs))) as pool:
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
        with worker_pool(1) as pool:
            try:
                yield i, pool.submit(work, jobs[i]).result()
            except BrokenProcessPool:
                yield i, lost(jobs[i], "killed", KILLED)
