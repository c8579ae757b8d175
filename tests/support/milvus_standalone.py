"""Runs a command beside a real Milvus server: ``make test-milvus``.

The server is that of the PyPI package ``milvus`` 2.3.5, the last one that holds one. It listens on all interfaces, so
it is started only where there is none but loopback, as in a network namespace of its own.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from milvus import MilvusServer, _initialize_data_files

_PORT, _METRICS_PORT = 19530, 9091
_GET_FLAGS, _SET_FLAGS, _UP = 0x8913, 0x8914, 0x1  # SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP


def _raise_loopback() -> None:
    others = {name for _, name in socket.if_nameindex()} - {"lo"}
    if others:
        sys.exit(
            f"Milvus would listen on {', '.join(sorted(others))}; run this in a network of its own (unshare --net)."
        )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        (flags,) = struct.unpack("16xh14x", fcntl.ioctl(control, _GET_FLAGS, struct.pack("16sh14x", b"lo", 0)))
        fcntl.ioctl(control, _SET_FLAGS, struct.pack("16sh14x", b"lo", flags | _UP))


def _server(folder: Path) -> subprocess.Popen[bytes]:
    server = MilvusServer(wait_for_started=False)
    server.set_base_dir(str(folder))
    server.config.configs.update(proxy_port=_PORT)
    server.config.resolve()
    _initialize_data_files(str(folder))
    environment = {
        **os.environ,
        "DEPLOY_MODE": "STANDALONE",
        "METRICS_PORT": str(_METRICS_PORT),
        "MILVUS_RUN_DIR": str(folder / "run"),
        "LD_LIBRARY_PATH": str(folder / "bin"),
    }
    with (folder / "log").open("wb") as log:
        return subprocess.Popen(
            [folder / "bin/milvus", "run", "standalone"], cwd=folder, env=environment, stdout=log, stderr=log
        )


def _wait_until_healthy(process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            sys.exit("Milvus did not start.")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{_METRICS_PORT}/healthz", timeout=5) as answer:
                if b"OK" in answer.read():
                    return
        except OSError:
            pass
        time.sleep(0.2)
    sys.exit("Milvus did not become healthy.")


def main() -> int:
    _raise_loopback()
    folder = Path(tempfile.mkdtemp(prefix="patronus-milvus-"))
    try:
        process = _server(folder)
        try:
            _wait_until_healthy(process)
            environment = {**os.environ, "PATRONUS_TEST_MILVUS": f"http://127.0.0.1:{_PORT}"}
            return subprocess.run(sys.argv[1:], env=environment, check=False).returncode
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
