"""A machine that reports many cores, and a container that may use few threads: both services start and answer."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from shared.processes.pair import Pair, free_port
from shared.security.secret_files import read_secret
from tests.support.servers import PICTURES

CORES = 96
# Half of what the compose file allows: 16 workers, 15 and 15 of the models, those of asyncio's and of the libraries.
MOST_THREADS = 128
CALLERS = 40
# What a C library is asked for the number of cores, by Python, numpy's OpenBLAS, OpenMP, OpenCV and ONNX Runtime.
PRETENDED = f"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>
int sched_getaffinity(pid_t process, size_t size, cpu_set_t *set) {{
    memset(set, 0, size);
    for (size_t core = 0; core < {CORES} && core < 8 * size; core++) CPU_SET_S(core, size, set);
    return 0;
}}
int pthread_getaffinity_np(pthread_t thread, size_t size, cpu_set_t *set) {{ return sched_getaffinity(0, size, set); }}
int sched_setaffinity(pid_t process, size_t size, const cpu_set_t *set) {{ return 0; }}
int pthread_setaffinity_np(pthread_t thread, size_t size, const cpu_set_t *set) {{ return 0; }}
int get_nprocs(void) {{ return {CORES}; }}
int get_nprocs_conf(void) {{ return {CORES}; }}
long sysconf(int name) {{
    long (*real)(int) = dlsym(RTLD_NEXT, "sysconf");
    return name == _SC_NPROCESSORS_ONLN || name == _SC_NPROCESSORS_CONF ? {CORES} : real(name);
}}
"""


@pytest.fixture(scope="module")
def many_cores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process to which every library reports 96 cores."""
    compiler = shutil.which("cc")
    if compiler is None or not Path("/proc/self/task").exists():
        pytest.skip("pretending cores needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("cores")
    (folder / "cores.c").write_text(PRETENDED)
    library = folder / "cores.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "cores.c", "-ldl"], check=True, timeout=60)
    return {"LD_PRELOAD": str(library)}


@contextmanager
def at_most_threads(process: int, most: int) -> Iterator[None]:
    """Moves a process into a control group with a limit of threads, where the system allows one."""
    base = Path("/sys/fs/cgroup")
    hierarchy = base if (base / "cgroup.controllers").exists() else base / "pids"
    group = hierarchy / f"patronus-test-{process}"
    with suppress(OSError):
        group.mkdir()
        (group / "pids.max").write_text(str(most))
        (group / "cgroup.procs").write_text(str(process))
    try:
        yield
    finally:
        with suppress(OSError):  # there is none, or the process has ended
            (hierarchy / "cgroup.procs").write_text(str(process))
        with suppress(OSError):
            group.rmdir()


def threads_of(process: int) -> int:
    return len(list(Path(f"/proc/{process}/task").iterdir()))


@pytest.fixture
def _no_pools_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes limits on the libraries' thread pools, which the lanes of tests set and services should not need."""
    for name in tuple(os.environ):
        if name.endswith("_NUM_THREADS"):
            monkeypatch.delenv(name)


@pytest.mark.slow(reason="starts services that find 96 cores")
@pytest.mark.usefixtures("_no_pools_named")
@pytest.mark.parametrize(
    "services",
    [("cloud",), ("cloud", "edge")],
)
def test_services_on_96_cores_answer_with_few_threads(
    services: tuple[str, ...], tmp_path: Path, models_folder: Path, many_cores: dict[str, str]
) -> None:
    ports = {name: free_port() for name in services}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    environment = many_cores | {f"PATRONUS_{name.upper()}__PORT": str(port) for name, port in ports.items()}
    environment |= {
        "PATRONUS_HOME": str(tmp_path),
        "PATRONUS_MODELS": str(models_folder),
        "PATRONUS_EDGE__CLOUD__URL": urls["cloud"],
    }
    picture = (PICTURES / "obama" / "portrait.jpg").read_bytes()
    pair = Pair()
    try:
        with ExitStack() as opened:
            for name, url in urls.items():
                pair.start(name, f"{name}_service", url, environment)
                opened.enter_context(at_most_threads(pair.process_id(name), MOST_THREADS))
            key = read_secret(tmp_path / services[-1] / "api_key").decode().strip()
            headers = {"Authorization": f"Bearer {key}"}
            client = opened.enter_context(
                httpx.Client(base_url=urls[services[-1]], headers=headers, trust_env=False, timeout=60)
            )

            def call(number: int) -> int:
                if "edge" not in services:
                    return client.get("/v1/galleries").status_code
                path = "identify" if number % 2 else f"subjects/s{number}/faces"
                return client.post(f"/v1/galleries/staff/{path}", files={"image": picture}).status_code

            if "edge" in services:
                assert client.put("/v1/galleries/staff").status_code == 201
            callers = opened.enter_context(ThreadPoolExecutor(CALLERS))
            answers = set(callers.map(call, range(CALLERS)))
            threads = [threads_of(pair.process_id(name)) for name in services]
    finally:
        pair.stop()
    assert answers <= {200, 201}
    assert max(threads) < MOST_THREADS
