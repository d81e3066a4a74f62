"""A run that is killed at any instant and started again sends the alerts of one that was not disturbed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from small_night import write_small_night
from sqlalchemy import select

from multiscale import read_alerts
from multiscale.packet import Alert
from reference_pipeline.lock import only_run
from reference_pipeline.store import tables
from reference_pipeline.store.opening import open_store

SIZE = (512, 512)


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Two exposures of 512² pixels, and one of an earlier night."""
    folder = tmp_path_factory.mktemp("night")
    write_small_night(folder, size=SIZE, variable_density=3000.0, branches=("dip",))
    return folder


def start(night, out):
    command = [sys.executable, "-m", "reference_pipeline", "run", night / "reduce.toml", "-o", out]
    return subprocess.Popen(
        [*map(str, command), "--workers", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip


def finish(night, out):
    process = start(night, out)
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()


def timeless(alert: Alert) -> Alert:
    """An alert without the times of its making."""
    steps = tuple(step.model_copy(update={"time": 0.0}) for step in alert.processing)
    return alert.model_copy(update={"processing": steps})


def what_left(out):
    """Alerts by id as they are in the files; the database and the outbox have to hold the same."""
    alerts = [a for path in sorted((out / "alerts").rglob("*.avro")) for a in read_alerts(path)]
    by_id = {alert.alert_id: timeless(alert) for alert in alerts}
    assert len(by_id) == len(alerts), "an alert is there twice"
    store = open_store(f"sqlite:///{out}/night.sqlite")
    with store.read() as session:
        assert set(session.scalars(select(tables.Alert.id))) == set(by_id)
        sent = select(tables.Outbox.alert_id).where(tables.Outbox.sent_mjd.is_not(None))
        assert set(session.scalars(sent)) == set(by_id)
    store.close()
    return by_id


@pytest.fixture(scope="module")
def undisturbed(night, tmp_path_factory):
    """The alerts of an undisturbed run, and how long it takes."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    started = time.perf_counter()
    finish(night, out)
    return what_left(out), time.perf_counter() - started


def kill_and_finish(night, undisturbed, tmp_path, n_kills, seed):
    """Kill a run ``n_kills`` times; whenever it came to its end before, compare, and begin a new one."""
    expected, seconds = undisturbed
    assert expected
    rng = random.Random(seed)
    n_done, folder = 0, 0
    while n_done < n_kills:
        folder += 1
        out = tmp_path / f"out{folder}"
        while n_done < n_kills:
            process = start(night, out)
            try:
                process.wait(timeout=rng.uniform(0.0, 0.8 * seconds))
                break  # it came to its end
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL) if rng.random() < 0.5 else process.kill()
                process.communicate()
                n_done += 1
        finish(night, out)
        assert what_left(out) == expected
        assert list(out.rglob("*.partial")) == []
        shutil.rmtree(out)


def test_ten_kills(night, undisturbed, tmp_path):
    kill_and_finish(night, undisturbed, tmp_path, 10, seed=1)


@pytest.mark.slow
def test_fifty_kills(night, undisturbed, tmp_path):
    kill_and_finish(night, undisturbed, tmp_path, 50, seed=2)


def test_two_runs_do_not_share_a_folder(night, tmp_path):
    with only_run(tmp_path):
        process = start(night, tmp_path)
        _, errors = process.communicate()
    assert process.returncode == 2
    assert b"another run" in errors
