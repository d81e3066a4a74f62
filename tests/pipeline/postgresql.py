"""A PostgreSQL cluster of the tests' own: Debian's package, an unprivileged user, a Unix socket."""

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path


class NotAvailable(Exception):
    """No cluster can be had here; says why."""


def find_programs():
    """The folder of initdb and pg_ctl: of the newest version of Debian's packages, or on the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[4]))
    found = debian[-1] if debian else shutil.which("initdb")
    if found is None:
        raise NotAvailable("PostgreSQL's initdb is not installed (Debian: apt-get install postgresql)")
    return Path(found).parent


def become_unprivileged():
    """The user to run as, and what goes before a command for it; PostgreSQL refuses to be root."""
    if os.geteuid() != 0:
        return None, []
    if shutil.which("setpriv") is None:
        raise NotAvailable("as root, PostgreSQL needs setpriv (util-linux) to run as somebody else")
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        return user, ["setpriv", *ids]
    raise NotAvailable("no user postgres or nobody to run PostgreSQL as")


def memory_folder():
    """A folder in memory, where there is one; None: the usual. Other tests may keep the disk busy."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() and os.access(folder, os.W_OK) else None


@contextmanager
def running_cluster():
    """Start a cluster in a folder of its own; the URL of its first database, without the name's query."""
    programs = find_programs()
    user, before = become_unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir=memory_folder()))  # short: a socket's path has 107 bytes
    environment = {**os.environ, "LC_ALL": "C", "HOME": str(folder)}

    def call(program, *arguments):
        done = subprocess.run(
            [*before, str(programs / program), *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        if done.returncode:
            log = folder / "log"
            raise NotAvailable(f"{program}: {done.stdout}{log.read_text() if log.exists() else ''}")

    try:
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        data = str(folder / "data")
        call("initdb", "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync")
        options = f"-k {folder} -c listen_addresses= -c fsync=off"
        call("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://tester@/{{}}?host={folder}"
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
