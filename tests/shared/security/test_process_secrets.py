"""What a process that holds keys leaves behind when it is aborted, and who may look into it."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from edge_service.protection.keys import KeyStore
from shared.processes.pair import free_port
from shared.security.key_ring import KeyRing
from shared.security.secret_files import read_secret
from tests.support.servers import wait_until_ready

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
ROOT = Path(__file__).parents[3]
# As where an operator, or the system, wants core dumps.
DUMPS_ON = "import resource; resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)\n"
COMMAND = "from shared.command import main; main()"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where both services have their keys already."""
    home = tmp_path / "home"
    KeyStore(home / "edge")
    for service in ("edge", "cloud"):
        KeyRing(home / service / "api_keys.json").ensure_first_key(home / service / "api_key")
    return home


def started(code: str, folder: Path, home: Path, *arguments: str, **more: str) -> subprocess.Popen[bytes]:
    if resource.getrlimit(resource.RLIMIT_CORE)[1] != resource.RLIM_INFINITY:
        pytest.skip("core dumps cannot be switched on here")
    environment = {**os.environ, "PATRONUS_HOME": str(home), "PYTHONPATH": str(ROOT), **more}
    return subprocess.Popen(
        [sys.executable, "-c", DUMPS_ON + code, *arguments],
        env=environment,
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where a process works, and so leaves its core dump, unless the system takes dumps elsewhere."""
    folder = tmp_path / "work"
    folder.mkdir()
    yield folder
    for found in folder.iterdir():
        found.unlink()


def aborted(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Aborts it, and looks for what is left of it."""
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    [core] = [line.split()[4:6] for line in limits.splitlines() if line.startswith("Max core file size")]
    owner = Path(f"/proc/{process.pid}/mem").stat().st_uid
    process.send_signal(signal.SIGABRT)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGABRT
    assert core == ["0", "0"]
    assert owner == 0, "others of the same user cannot look into it"
    assert list(folder.iterdir()) == []


def test_without_its_own_care_a_process_leaves_its_keys_in_a_dump(folder: Path, home: Path) -> None:
    """That the tests below could see one, where dumps go into files here."""
    if Path("/proc/sys/kernel/core_pattern").read_text().strip() not in {"core", "core.%p"}:
        pytest.skip("core dumps do not go to the working folder here")
    code = (
        "import os, sys; from pathlib import Path; from edge_service.protection.keys import KeyStore\n"
        "store = KeyStore(Path(sys.argv[1])); os.abort()"
    )
    process = started(code, folder, home, str(home / "edge"))
    process.communicate(timeout=60)
    [core] = folder.iterdir()
    assert bytes.fromhex(read_secret(home / "edge" / "master.key").split()[0].decode()) in core.read_bytes()


@pytest.mark.parametrize("service", ["edge", "cloud"])
def test_an_aborted_service_leaves_no_dump(service: str, folder: Path, home: Path, models_folder: Path) -> None:
    port = free_port()
    code = f"import runpy, sys; sys.argv = ['', 'serve']; runpy.run_module('{service}_service', run_name='__main__')"
    more = {f"PATRONUS_{service.upper()}__PORT": str(port), "PATRONUS_MODELS": str(models_folder)}
    process = started(code, folder, home, **more)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        wait_until_ready(process, client, "/healthz")
    aborted(process, folder)


def test_an_aborted_command_that_holds_a_key_leaves_no_dump(folder: Path, home: Path) -> None:
    process = started(COMMAND, folder, home, "keys", "renew")
    assert process.stderr
    assert "Draw a new master key" in process.stderr.readline(50).decode(), "it has read the old one"
    aborted(process, folder)


@pytest.mark.parametrize("limited", [False, True])
def test_memory_is_locked_where_the_system_sets_no_limit_and_else_still_to_be_had(limited: bool) -> None:
    program = (
        "import os, resource, sys, threading; from pathlib import Path\n"
        "from shared.security.process_secrets import lock_memory, lock_pages\n"
        "if sys.argv[1] == 'True':\n"
        "    resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))\n"
        "    if os.geteuid() == 0: os.setuid(65534)\n"
        "key = os.urandom(32)\n"
        "done = lock_memory(), lock_pages(key)\n"
        "more = bytearray(64 << 20); thread = threading.Thread(target=print); thread.start(); thread.join()\n"
        "locked = next(l for l in Path('/proc/self/status').read_text().splitlines() if l.startswith('VmLck'))\n"
        "print(*done, int(locked.split()[1]) >> 10)\n"
    )
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if not limited and os.geteuid() != 0 and not unlimited:
        pytest.skip("memory cannot be locked here")
    ended = subprocess.run(
        [sys.executable, "-c", program, str(limited)], capture_output=True, text=True, timeout=60, check=True
    )
    what, key, megabytes = ended.stdout.split()
    assert key == "True", "some pages can be locked nearly everywhere"
    assert (what, int(megabytes) > 64) == (("nothing", False) if limited else ("all", True))
