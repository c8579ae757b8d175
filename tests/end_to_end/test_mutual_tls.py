"""Mutual TLS between real edges and clouds: which callers are accepted and which refused."""

from __future__ import annotations

import asyncio
import json
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_service.cloud.client import CloudClient
from edge_service.settings import CloudSettings
from shared.errors import SetupError, UpstreamUnavailable
from shared.metrics import Metrics
from shared.processes.pair import free_port
from shared.security.tls import client_context
from tests.support.certificates import ROOT, expired, make_certificates
from tests.support.servers import wait_until_ready


@contextmanager
def served(service: str, home: Path, log: Path, **settings: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "PATRONUS_HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment |= {f"PATRONUS_{service.upper()}__{name}": str(value) for name, value in settings.items()}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"{service}_service", "serve"], env=environment, stdout=output, stderr=output
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait(30)


class TlsCloud:
    """A cloud that accepts only callers with a certificate of its authority."""

    def __init__(self, home: Path, tls: Path, port: int) -> None:
        self.home, self.tls, self.port = home, tls, port
        self.url = f"https://127.0.0.1:{port}"

    def settings(self, **changed: Any) -> CloudSettings:
        files = {"ca": self.tls / "ca.pem", "certificate": self.tls / "edge.pem", "key": self.tls / "edge.key"}
        given: dict[str, Any] = {"url": self.url, "api_key_file": self.home / "cloud/api_key", **files, **changed}
        return CloudSettings(**given)

    def galleries(self, **changed: Any) -> int:
        """The number of galleries that an edge with these settings gets a list of."""

        async def ask() -> int:
            client = CloudClient(self.settings(**changed), Metrics("edge"))
            try:
                return len((await client.galleries(10, None)).items)
            finally:
                await client.close()

        return asyncio.run(ask())


def last_reason(log_events: list[dict[str, Any]]) -> str:
    """The reason of the last refusal in the log."""
    return str(next(line["why"] for line in reversed(log_events) if line.get("why")))


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsCloud]:
    folder = tmp_path_factory.mktemp("tls")
    tls, port = make_certificates(folder / "tls"), free_port()
    own = {"TLS__CERTIFICATE": tls / "cloud.pem", "TLS__KEY": tls / "cloud.key", "TLS__CLIENT_CA": tls / "ca.pem"}
    with served("cloud", folder, folder / "log", PORT=str(port), **own) as process:
        made = TlsCloud(folder, tls, port)
        context = client_context(tls / "ca.pem", tls / "edge.pem", tls / "edge.key")
        with httpx.Client(base_url=made.url, verify=context, trust_env=False) as client:
            wait_until_ready(process, client)
        yield made


def test_an_edge_with_the_right_certificate_is_answered(cloud: TlsCloud) -> None:
    assert cloud.galleries() == 0


def test_the_containers_health_check_passes_this_cloud_and_no_other(cloud: TlsCloud) -> None:
    overlay = (ROOT / "deploy/compose.tls.yml").read_text()
    (found,) = re.findall(r"test: (\[.*\])", overlay)
    _, _, flags, code = json.loads(found)
    for port, status in ((cloud.port, 0), (free_port(), 1)):
        here = code.replace("/run/patronus-tls", str(cloud.tls)).replace("8001", str(port))
        done = subprocess.run([sys.executable, flags, here], capture_output=True, timeout=60, check=False)
        assert done.returncode == status, done.stderr


def test_a_caller_without_a_certificate_gets_no_connection(cloud: TlsCloud, log_events: list[dict[str, Any]]) -> None:
    began = time.monotonic()
    with pytest.raises(UpstreamUnavailable) as raised:
        cloud.galleries(certificate=None, key=None)
    assert time.monotonic() - began < 10
    assert raised.value.status == 503
    assert raised.value.kind == "cloud-unavailable"
    assert "does not accept this side's certificate" in last_reason(log_events)


def test_a_certificate_of_another_authority_is_refused_by_either_side(
    cloud: TlsCloud, tmp_path: Path, log_events: list[dict[str, Any]]
) -> None:
    other = make_certificates(tmp_path / "other")
    with pytest.raises(UpstreamUnavailable):
        cloud.galleries(certificate=other / "edge.pem", key=other / "edge.key")
    assert "does not accept this side's certificate" in last_reason(log_events)
    with pytest.raises(UpstreamUnavailable):
        cloud.galleries(ca=other / "ca.pem")
    assert "is not accepted here" in last_reason(log_events)
    with pytest.raises(UpstreamUnavailable):
        cloud.galleries(ca=None)
    assert "is not accepted here" in last_reason(log_events)


def test_plain_http_is_refused(cloud: TlsCloud, log_events: list[dict[str, Any]]) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{cloud.port}/healthz", trust_env=False)
    with pytest.raises(UpstreamUnavailable):
        cloud.galleries(url=f"http://127.0.0.1:{cloud.port}", ca=None, certificate=None, key=None)
    with pytest.raises(ValueError, match="https"):
        cloud.settings(url=f"http://127.0.0.1:{cloud.port}")


def test_a_certificate_that_has_expired_is_refused_at_the_start_and_by_the_other_side(cloud: TlsCloud) -> None:
    old = expired(cloud.tls)
    with pytest.raises(SetupError, match="certificate has expired"):
        cloud.galleries(certificate=old, key=old.with_suffix(".key"))
    context = ssl.create_default_context(cafile=cloud.tls / "ca.pem")
    context.load_cert_chain(old, old.with_suffix(".key"))
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{cloud.url}/readyz", verify=context, trust_env=False)


@pytest.mark.slow(reason="starts a service for each bad certificate")
def test_a_cloud_does_not_start_with_an_expired_certificate_or_a_public_key(cloud: TlsCloud, tmp_path: Path) -> None:
    old = expired(cloud.tls)
    public = tmp_path / "public.key"
    public.write_bytes((cloud.tls / "cloud.key").read_bytes())
    public.chmod(0o644)
    for certificate, key, sentence in (
        (old, old.with_suffix(".key"), "certificate has expired"),
        (cloud.tls / "cloud.pem", public, "can be read by others"),
    ):
        log = tmp_path / "log"
        own = {"TLS__CERTIFICATE": certificate, "TLS__KEY": key, "PORT": str(free_port())}
        with served("cloud", tmp_path / "home", log, **own) as process:
            assert process.wait(60) == 1
        output = log.read_text()
        assert sentence in output.strip().splitlines()[-1]
        assert "Traceback" not in output


def test_an_edge_and_its_command_line_speak_tls_from_end_to_end(
    cloud: TlsCloud, models_folder: Path, tmp_path: Path
) -> None:
    port = free_port()
    own = {"TLS__CERTIFICATE": cloud.tls / "edge.pem", "TLS__KEY": cloud.tls / "edge.key", "PORT": str(port)}
    of_cloud = {
        "CLOUD__URL": cloud.url,
        "CLOUD__API_KEY_FILE": cloud.home / "cloud/api_key",
        "CLOUD__CA": cloud.tls / "ca.pem",
        "CLOUD__CERTIFICATE": cloud.tls / "edge.pem",
        "CLOUD__KEY": cloud.tls / "edge.key",
    }
    with served("edge", tmp_path, tmp_path / "log", **own, **of_cloud) as process:
        context = client_context(cloud.tls / "ca.pem", None, None)
        with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=context, trust_env=False) as client:
            wait_until_ready(process, client)  # it is ready when its cloud is
        environment = {**os.environ, "PATRONUS_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", "from shared.command import main; main()", "gallery", "create", "tls"]
        for ca, status in ((cloud.tls / "ca.pem", 0), (None, 1)):
            named = {"PATRONUS_EDGE_CA": str(ca)} if ca else {}
            done = subprocess.run(
                command, env=environment | named, capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == status, done.stderr
        passphrase = tmp_path / "passphrase"
        passphrase.write_text("correct horse battery")
        passphrase.chmod(0o600)
        export = [*command[:3], "keys", "export", "tls", tmp_path / "key.json", "--passphrase-file", passphrase]
        exported = subprocess.run(export, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert "PATRONUS_EDGE_CA" in done.stderr
    assert cloud.galleries() == 1
    assert (exported.returncode, exported.stderr) == (0, ""), "it finds the cloud, and the files for TLS"
