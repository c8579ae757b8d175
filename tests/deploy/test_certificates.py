"""What `deploy/make-certificates` makes is accepted at the names that it was made for, IPv6 addresses too."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import httpx
import pytest
from certificates import make_certificates
from cryptography import x509

from shared.tls import TlsSettings, client_context, server_context
from shared.urls import service_url


def test_a_name_may_be_an_ipv6_address_with_brackets_or_without(tmp_path: Path) -> None:
    tls = make_certificates(tmp_path / "tls", "[fd00::7]", "fd00::8", "cloud.example.org")
    made = x509.load_pem_x509_certificate((tls / "cloud.pem").read_bytes())
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = {str(address) for address in names.get_values_for_type(x509.IPAddress)}
    assert addresses == {"127.0.0.1", "::1", "fd00::7", "fd00::8"}
    assert set(names.get_values_for_type(x509.DNSName)) == {"cloud", "localhost", "cloud.example.org"}


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
