"""``make run``: both services in the foreground; the end of one of them, or of the runner, ends all."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from shared.processes import pair as pair_module
from shared.processes.pair import Pair, free_port
from shared.urls import service_url
from tests.support.servers import wait_until_ready

# A service closes within some 8 s of graceful shutdown; a loaded machine takes its time.
_END_SECONDS = 30


@pytest.mark.parametrize(
    ("number", "said"),
    [
        pytest.param(
            signal.SIGKILL,
            "The cloud was killed (SIGKILL); both services end here.",
            marks=pytest.mark.slow(reason="another start of a pair, for another signal"),
        ),
        (signal.SIGTERM, "The cloud was stopped (SIGTERM); both services end here."),
    ],
)
def test_a_service_that_a_signal_ended_is_reported_with_it_and_the_other_one_ends(
    tmp_path: Path, number: int, said: str
) -> None:
    ports = {"CLOUD": free_port(), "EDGE": free_port()}
    environment = {f"PATRONUS_{service}__PORT": str(port) for service, port in ports.items()}
    environment |= {"PATRONUS_HOME": str(tmp_path / "home")}
    with subprocess.Popen(
        [sys.executable, "-m", "deploy.run_pair"],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        with httpx.Client(base_url=f"http://127.0.0.1:{ports['EDGE']}") as edge:
            wait_until_ready(running, edge)
            _assert_link_signs_in(running, edge)
        address = tmp_path / "home" / "edge" / "address"
        assert address.read_text() == f"http://127.0.0.1:{ports['EDGE']}\n"
        address.write_text("http://127.0.0.1:1\n")  # as a second edge that was started on the same folder
        os.kill(_child(running.pid, "cloud_service"), number)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 1
    assert said in errors
    assert address.read_text() == "http://127.0.0.1:1\n"  # it is not ours to remove


def _assert_link_signs_in(running: subprocess.Popen[str], edge: httpx.Client) -> None:
    """Reads what `make run` says up to its link, and signs in with that."""
    assert running.stdout is not None
    marked = f"{edge.base_url}".rstrip("/") + "/#sign-in="
    [code] = next(line for line in running.stdout if marked in line).strip().split(marked)[1:]
    signed_in = edge.post("/console/sign-in", json={"code": code})
    assert signed_in.status_code == 200
    assert edge.post("/console/sign-in", json={"code": code}).status_code == 401


def _child(parent: int, module: str) -> int:
    """The process that a process started with this module."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_text()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == parent and module in command:
            return int(folder.name)
    raise AssertionError(f"{module} does not run")


class Runner:
    """``make run`` as a process of its own, in a process group of its own."""

    def __init__(self, home: Path, host: str = "127.0.0.1") -> None:
        self.home, self.host = home, host
        self.cloud, self.edge = free_port(), free_port()
        environment = {"PATRONUS_CLOUD__PORT": str(self.cloud), "PATRONUS_EDGE__PORT": str(self.edge)}
        environment |= {f"PATRONUS_{service}__HOST": host for service in ("CLOUD", "EDGE")}
        self._output = (home.parent / "output").open("w+b")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deploy.run_pair"],
            env=os.environ | environment | {"PATRONUS_HOME": str(home)},
            stdout=subprocess.DEVNULL,
            stderr=self._output,
            start_new_session=True,
        )

    def output(self) -> str:
        """Standard error of the runner and of the services."""
        self._output.seek(0)
        return self._output.read().decode()

    def services(self) -> list[int]:
        """The processes that were started with its home and have not ended."""
        mine, found = f"PATRONUS_HOME={self.home}".encode(), []
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == self.process.pid:
                continue
            with contextlib.suppress(OSError):  # it ended meanwhile
                if mine in (folder / "environ").read_bytes() and " Z " not in (folder / "stat").read_text():
                    found.append(int(folder.name))
        return found

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Returns when the condition holds."""
        deadline = time.monotonic() + _END_SECONDS
        while not condition():
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.02)

    def assert_all_ended(self) -> None:
        """Checks that no process is left, that the ports are free, and that there was no traceback."""
        self.process.wait(_END_SECONDS)
        self.wait_until(lambda: not self.services())
        for port in (self.cloud, self.edge):
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            with socket.socket(family) as taker:
                taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                taker.bind((self.host, port))
        assert "Traceback" not in self.output()

    def close(self) -> None:
        for pid in (self.process.pid, *self.services()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._output.close()


@pytest.fixture
def runner(tmp_path: Path, models_folder: Path) -> Iterator[Callable[..., Runner]]:
    """Starts one."""
    with contextlib.ExitStack() as opened:

        def start(host: str = "127.0.0.1") -> Runner:
            made = Runner(tmp_path / "home", host)
            opened.callback(made.close)
            return made

        yield start


@pytest.mark.slow(reason="starts a pair of its own")
def test_repeated_signals_during_the_start_leave_no_process_behind(runner: Callable[..., Runner]) -> None:
    running = runner()
    running.wait_until(lambda: bool(running.services()))
    # A supervisor signals the whole group, and `make` its child once more.
    os.killpg(running.process.pid, signal.SIGTERM)
    while running.services():
        running.process.send_signal(signal.SIGTERM)
        time.sleep(0.005)
    running.assert_all_ended()
    assert running.process.returncode == 0


@pytest.mark.slow(reason="starts a pair of its own")
def test_ctrl_c_twice_ends_a_pair_on_an_ipv6_address(runner: Callable[..., Runner]) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback address")
    running = runner("::1")
    url = service_url("::1", running.edge)
    with httpx.Client(base_url=url, trust_env=False) as edge:
        wait_until_ready(running.process, edge)
    assert (running.home / "edge" / "address").read_text() == f"http://[::1]:{running.edge}\n"
    started = running.services()
    running.process.send_signal(signal.SIGINT)
    running.wait_until(lambda: len(running.services()) < len(started))  # the edge has ended, and the cloud is next
    running.process.send_signal(signal.SIGINT)
    running.assert_all_ended()
    assert not (running.home / "edge" / "address").exists()


@pytest.mark.slow(reason="starts a pair of its own")
def test_the_services_of_a_runner_that_is_killed_end_too(runner: Callable[..., Runner]) -> None:
    running = runner()
    running.wait_until(lambda: len(running.services()) == 2)
    running.process.kill()
    running.assert_all_ended()


def test_a_service_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stubborn.py").write_text(_STUBBORN)
    monkeypatch.setattr(pair_module, "_STOP_SECONDS", 0.2)
    port, pair = free_port(), Pair()
    pair.start("stubborn", "stubborn", f"http://127.0.0.1:{port}", {"PYTHONPATH": str(tmp_path), "PORT": str(port)})
    pid = pair.process_id("stubborn")
    pair.stop()
    assert not Path(f"/proc/{pid}").exists()


_STUBBORN = """
import http.server, os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Ready).serve_forever()
"""
