"""Worker processes: one thread each, environment given back, and gone when the one that started them is."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from reference_pipeline.pool import worker_pool


def threads(_):
    """What a worker's numerical libraries are told."""
    return os.environ.get("OPENBLAS_NUM_THREADS")


def test_several_workers_have_one_thread_each_and_the_environment_comes_back(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with worker_pool(2) as pool:
        assert list(pool.map(threads, range(3))) == ["1"] * 3
    assert os.environ["OPENBLAS_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ
    with worker_pool(1) as pool:
        assert list(pool.map(threads, range(1))) == ["7"]
    with worker_pool(1, one_thread=True) as pool:
        assert list(pool.map(threads, range(1))) == ["1"]


def test_workers_end_when_the_process_that_started_them_is_killed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import os, time\n"
        "from reference_pipeline.pool import worker_pool\n\n"
        "def work(_):\n    time.sleep(0.5)\n    return os.getpid()\n\n"
        'if __name__ == "__main__":\n'
        "    with worker_pool(2) as pool:\n"
        "        print(*set(pool.map(work, range(4))), flush=True)\n"
        "        time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert workers
    assert all(is_there(pid) for pid in workers)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 60
    while any(is_there(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)


def is_there(pid):
    """Whether a process runs; one that has ended and that nobody has asked about (a zombie) does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z")
