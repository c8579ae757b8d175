"""Addresses of services: one function makes them, and settings take no address that is none."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from pydantic import TypeAdapter, ValidationError

from cloud_service.settings import Settings
from edge_service.settings import EdgeSettings
from shared.service_settings import load_settings
from shared.urls import Host, ServiceUrl, host_and_port, service_url


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8122"),
        ("::1", "http://[::1]:8122"),
        ("fd00:0:0::7", "http://[fd00::7]:8122"),
        ("edge.example.org", "http://edge.example.org:8122"),
        ("0.0.0.0", "http://127.0.0.1:8122"),
        ("::", "http://[::1]:8122"),
        ("0:0:0:0:0:0:0:0", "http://[::1]:8122"),
    ],
)
def test_a_service_is_reached_at_its_host_or_at_loopback_where_it_listens_everywhere(host: str, url: str) -> None:
    assert service_url(host, 8122) == url
    assert service_url(host, 8122, tls=True) == url.replace("http:", "https:")
    assert httpx.URL(url).port == 8122
    assert TypeAdapter(ServiceUrl).validate_python(url) == url


def test_an_ipv6_address_stands_in_brackets_before_a_port() -> None:
    assert host_and_port("::1", 1) == "[::1]:1"
    assert host_and_port("127.0.0.1", 1) == "127.0.0.1:1"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::", "0.0.0.0", "localhost", "a-b.example", "under_score"])
def test_addresses_and_names_are_hosts(host: str) -> None:
    assert TypeAdapter(Host).validate_python(host) == host


@pytest.mark.parametrize(
    "host", ["", "[::1]", "fe80::1%eth0", "a b", "999.1.1.1", "1.2.3", "http://x", "x:80", "-x", "a..b", "\u00e4"]
)
def test_what_is_neither_is_no_host(host: str) -> None:
    with pytest.raises(ValidationError, match="not a host name or an IP address"):
        TypeAdapter(Host).validate_python(host)


@pytest.mark.parametrize("url", ["http://cloud:8001", "https://[::1]:8001/base", "http://127.0.0.1", "http://Cloud:1"])
def test_addresses_of_a_cloud(url: str) -> None:
    assert TypeAdapter(ServiceUrl).validate_python(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "http://::1:8122",
        "http://[::1]:99999",
        "http://[:::]:1",
        "http://[::1",
        "http://h:",
        "http://h:0",
        "http://h:+1",
        "http://user:word@h:1",
        "http://h:1?x",
        "http://h:1/a b",
        "ftp://h:1",
        "h:1",
        "",
    ],
)
def test_what_is_no_address_of_a_cloud_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="not an address such as"):
        TypeAdapter(ServiceUrl).validate_python(url)


def test_both_services_take_an_ipv6_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATRONUS_HOME", str(tmp_path))
    monkeypatch.setenv("PATRONUS_EDGE__HOST", "::1")
    monkeypatch.setenv("PATRONUS_CLOUD__HOST", "::1")
    assert load_settings(EdgeSettings).host == load_settings(Settings).host == "::1"
