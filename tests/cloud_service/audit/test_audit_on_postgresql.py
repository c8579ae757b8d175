"""On PostgreSQL too, where several services write at the same moment, the log is one chain."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import Engine, create_engine, insert, make_url

from cloud_service.audit.check import check, reading
from cloud_service.audit.log import HEAD, NO_ENTRY, Action, append, head
from cloud_service.record.tables import metadata, record_value


@pytest.fixture
def engine() -> str:
    return "postgresql"


@pytest.fixture
def url(record_url: str | None) -> str:
    """A database with the record's tables."""
    assert record_url is not None
    url = make_url(record_url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    engine = create_engine(url)
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(insert(record_value).values(name=HEAD, value=f"0:{NO_ENTRY}"))
    engine.dispose()
    return url


def test_services_that_write_at_the_same_moment_make_one_chain(url: str) -> None:
    def write(engine: Engine, by: str) -> None:
        for number in range(25):
            with engine.begin() as connection:
                append(connection, Action.TEMPLATES_ENROLLED, by=by, gallery="door", details={"templates": number})
                if number % 5 == 4:
                    connection.rollback()  # what was undone was never in the log, and leaves no gap

    engines = [create_engine(url, isolation_level="READ COMMITTED") for _ in range(6)]
    writers = [threading.Thread(target=write, args=(engine, f"{at:012x}")) for at, engine in enumerate(engines)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    for engine in engines:
        engine.dispose()
    with reading(url) as connection:
        found = check(connection)
        assert (found.head.seq, found.wrong) == (6 * 20, None)
        assert head(connection) == found.head
