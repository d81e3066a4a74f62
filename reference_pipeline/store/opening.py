"""Open the database, bring its schema up to date, and give transactions.

SQLite (a file, WAL) needs no server and is the default; PostgreSQL is reached through psycopg 3 by a URL as
``postgresql://user@host/name``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, inspect, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from ..errors import StoreError

_MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_MS = 60_000  # how long a writer waits for another
_READ_ONLY = "read_only"  # the execution option of a connection that only reads
_LOCK = 7_146_831_904_452_117_291  # of PostgreSQL; any number that no one else takes


@dataclass(frozen=True)
class Store:
    """An open database with the schema of this version."""

    engine: Engine
    name: str  # the URL without its password

    @contextmanager
    def begin(self) -> Iterator[Session]:
        """Give a Session in one transaction: all of it is stored at the end, or nothing.

        One writes at a time: the transaction takes the database's one lock when it begins, so that what it
        reads cannot be changed under it. Raises StoreError for whatever the database refuses.
        """
        with _named_trouble(self.name), _sessions(self.engine).begin() as session:
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Give a Session that reads one state of the database and never waits for a writer.

        What it changes is not stored. Raises StoreError for whatever the database refuses.
        """
        reading = self.engine.execution_options(**{_READ_ONLY: True})
        with _named_trouble(self.name), _sessions(reading)() as session:
            yield session

    def close(self) -> None:
        """Close the connections; the store opens new ones when it is used again."""
        self.engine.dispose()


def open_store(url: str) -> Store:
    """Return the database at ``url`` (SQLAlchemy's form), made or migrated where needed.

    Raises StoreError where it cannot be reached, holds something else, or is of a newer version.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise StoreError(f"{url!r} is not a database URL, as sqlite:///night.sqlite") from error
    if parsed.drivername in ("postgresql", "postgres"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    name = parsed.render_as_string(hide_password=True)
    with _named_trouble(name):
        try:
            engine = create_engine(parsed, json_serializer=_json, pool_pre_ping=True)
        except ImportError as error:
            raise StoreError(f"{name}: {error}; pip install 'multiscale-stamps[postgres]'") from error
        if engine.dialect.name == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        elif engine.dialect.name == "postgresql":
            event.listen(engine, "begin", _begin_postgresql)
        else:
            raise StoreError(f"{name}: SQLite and PostgreSQL are known, not {engine.dialect.name}")
        try:
            _migrate(engine, name)
        except BaseException:
            engine.dispose()
            raise
    return Store(engine, name)


def _migrate(engine: Engine, name: str) -> None:
    """Bring the schema to the newest revision, in one transaction."""
    config = Config(attributes={})
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    scripts = ScriptDirectory.from_config(config)
    ours = scripts.get_current_head()
    with engine.execution_options(**{_READ_ONLY: True}).connect() as connection:
        if _revision(connection) == ours:
            return
    with engine.begin() as connection:
        found = _revision(connection)
        known = {script.revision for script in scripts.walk_revisions()}
        if found is not None and found not in known:
            raise StoreError(
                f"{name} has the tables of version {found}, this software knows those up to {ours}: "
                "update it, or name another database"
            )
        if found is None and (strangers := inspect(connection).get_table_names()):
            raise StoreError(f"{name} holds tables that are not ours: {', '.join(sorted(strangers)[:5])}")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _prepare_sqlite(connection: Any, record: object) -> None:
    """Settings of a new connection.

    WAL lets readers go on while one writes. ``synchronous=FULL`` costs one flush a commit (a few an exposure)
    and buys that what was committed, and maybe sent as an alert, outlives a power cut; a kill would be
    survived without.
    """
    connection.isolation_level = None  # transactions are begun by _begin_sqlite alone
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout={_BUSY_MS}", "journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"
    ):  # fmt: skip
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that read first could not write any more once another had: it takes its lock now.
    connection.exec_driver_sql("BEGIN DEFERRED" if _only_reads(connection) else "BEGIN IMMEDIATE")


def _begin_postgresql(connection: Connection) -> None:
    # The same bargain as SQLite's. The lock goes with the transaction, however that ends.
    if _only_reads(connection):
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
    else:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _only_reads(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get(_READ_ONLY, False))


def _sessions(engine: Engine) -> sessionmaker[Session]:
    return sessionmaker(engine, expire_on_commit=False)  # what was read stays readable after the commit


@contextmanager
def _named_trouble(name: str) -> Iterator[None]:
    """Raise StoreError, which names the database, in place of SQLAlchemy's errors."""
    try:
        yield
    except SQLAlchemyError as error:
        raise StoreError(f"{name}: {getattr(error, 'orig', None) or error}") from error


def _plain(value: Any) -> Any:
    """``value`` as JSON can hold it: NaN and infinities are null."""
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _json(value: Any) -> str:
    return json.dumps(_plain(value), allow_nan=False, sort_keys=True, ensure_ascii=False)
