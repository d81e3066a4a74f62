"""Databases for the tests: each runs on SQLite, and on a PostgreSQL that is started for it."""

import tempfile
from uuid import uuid4

import pytest
from postgresql import NotAvailable, memory_folder, running_cluster
from sqlalchemy import create_engine

from reference_pipeline.store.opening import open_store


@pytest.fixture(scope="session")
def cluster():
    """The form of the URLs of a PostgreSQL cluster, with {} for the database."""
    try:
        with running_cluster() as url:
            yield url
    except NotAvailable as error:
        pytest.skip(str(error))


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request):
    """The URL of an empty database."""
    if request.param == "sqlite":
        with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
            yield f"sqlite:///{folder}/night.sqlite"
        return
    cluster = request.getfixturevalue("cluster")
    name = f"t{uuid4().hex[:12]}"
    admin = create_engine(
        cluster.format("postgres").replace(":", "+psycopg:", 1), isolation_level="AUTOCOMMIT"
    )
    with admin.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    admin.dispose()
    yield cluster.format(name)


@pytest.fixture
def store(store_url):
    """An open store with nothing in it."""
    opened = open_store(store_url)
    yield opened
    opened.close()
