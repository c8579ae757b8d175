"""Certificates of `deploy/make-certificates` are accepted at the names given, IPv6 addresses too."""

from __future__ import annotations

import socket
import subprocess
import threading
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from shared.security.tls import TlsSettings, client_context, server_context
from shared.urls import service_url
from tests.support.certificates import ROOT, make_certificates


def test_a_name_may_be_an_ipv6_address_with_brackets_or_without(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path / "tls", "[fd00::7]", "fd00::8", "cloud.example.org")
    made = x509.load_pem_x509_certificate((tls / "cloud.pem").read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert addresses == {"127.0.0.1", "::1", "fd00::7", "fd00::8"}
    assert set(names.get_values_for_type(x509.DNSName)) == {"cloud", "localhost", "cloud.example.org"}


def test_renewed_without_names_certificates_keep_theirs(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path / "tls", "fd00::7", "cloud.example.org")
    before = {side: _names(tls / f"{side}.pem") for side in ("cloud", "edge")}
    key = (tls / "cloud.key").read_bytes()
    output = _run(tls)
    assert {side: _names(tls / f"{side}.pem") for side in before} == before
    assert (tls / "cloud.key").read_bytes() != key
    for side, line in zip(("cloud", "edge"), output.stdout.splitlines(), strict=True):
        end = x509.load_pem_x509_certificate((tls / f"{side}.pem").read_bytes()).not_valid_after_utc
        assert line.startswith(f"{side}.pem: {side}, localhost, 127.0.0.1, ")
        assert line.endswith(f"cloud.example.org; good until {end:%Y-%m-%d %H:%M:%S}Z")
    make_certificates(tls, "other.example.org")
    assert _names(tls / "cloud.pem") == {"cloud", "localhost", "127.0.0.1", "::1", "other.example.org"}


@pytest.mark.parametrize("gone", [None, "ca.key"])
def test_a_failed_renewal_is_reported_and_changes_nothing(tmp_path: Path, gone: str | None) -> None:
    tls = make_certificates(tmp_path / "tls")
    if gone is not None:
        (tls / gone).unlink()
    before = {file.name: file.read_bytes() for file in tls.iterdir()}
    refused = _run(tls, *([] if gone else ["999.1.1"]))
    assert refused.returncode == 1
    assert ("ca.key is not there" if gone else "999.1.1; is each a host name") in refused.stderr
    assert {file.name: file.read_bytes() for file in tls.iterdir()} == before


def _run(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    command = [ROOT / "deploy/make-certificates", folder, *names]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def _names(certificate: Path) -> set[str]:
    made = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


def test_a_caller_accepts_the_certificate_at_the_ipv6_loopback_address(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path / "tls")
    context = server_context(TlsSettings(certificate=tls / "cloud.pem", key=tls / "cloud.key"))
    assert context is not None
    try:
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6 loopback address")

    def answer_one() -> None:
        near, _ = listener.accept()
        with context.wrap_socket(near, server_side=True) as line:
            line.recv(4096)
            line.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")

    with listener:
        answering = threading.Thread(target=answer_one)
        answering.start()
        url = service_url("::1", listener.getsockname()[1], tls=True)
        assert url.startswith("https://[::1]:")
        verify = client_context(tls / "ca.pem", None, None)
        assert httpx.get(url, verify=verify, trust_env=False).status_code == 204
        answering.join()
