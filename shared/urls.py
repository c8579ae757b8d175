"""Addresses of services: made from a host and a port, and checked as settings."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator

_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_PATH: Final = re.compile(r"[!-~]*")
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")


def host_and_port(host: str, port: int) -> str:
    """``host:port`` as it stands in a URL; an IPv6 address is put in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def service_url(host: str, port: int, *, tls: bool = False) -> str:
    """The URL at which a service is reached from the machine that it runs on.

    Args:
        host: that the service listens at. For all addresses of a family, the loopback address of that family is named.
        port: that it listens at.
        tls: whether it speaks TLS.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        reachable = host
    else:
        reachable = str(address)
        if address.is_unspecified:
            reachable = "127.0.0.1" if address.version == 4 else "::1"
    return f"{'https' if tls else 'http'}://{host_and_port(reachable, port)}"


def _checked_host(host: str) -> str:
    if not _is_host(host):
        raise ValueError(
            "not a host name or an IP address; an IPv6 address is written without brackets and without a zone: ::1"
        )
    return host


def _checked_url(url: str) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port  # refuses what is no number, or over 65535
        bracketed = f"[{host}]" if ":" in host else host
        known = {bracketed, f"{bracketed}:{port}"}  # nothing else: no user, no password, no empty or odd port
        sound = parts.scheme in {"http", "https"} and _is_host(host) and parts.netloc.lower() in known and port != 0
        if sound and not parts.query and not parts.fragment and _PATH.fullmatch(url):
            return url
    raise ValueError("not an address such as http://127.0.0.1:8001 or https://[::1]:8001")


def _checked_origin(origin: str) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(_checked_url(origin))
        usual = {"http": 80, "https": 443}[parts.scheme]
        if f"{parts.scheme}://{parts.netloc}" == origin == origin.lower() and parts.port != usual:
            return origin
    raise ValueError(
        "not an exact origin as browsers send it, such as https://desk.example or http://127.0.0.1:3000: in lower "
        "case, without a path or the usual port, and never *"
    )


def _checked_prefix(path: str) -> str:
    if path and not (_PREFIX.fullmatch(path) and {".", ".."}.isdisjoint(path.split("/"))):
        raise ValueError("not a path such as /patronus, with a slash before it and none behind")
    return path


def _is_host(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ":" not in host and not host.replace(".", "").isdigit() and _NAME.fullmatch(host) is not None
    return "%" not in str(address)


# What a service listens at: an IPv4 or IPv6 address, or a host name.
Host = Annotated[str, AfterValidator(_checked_host)]

# Where a service is reached: `http` or `https`, a host, and perhaps a port and a path.
ServiceUrl = Annotated[str, AfterValidator(_checked_url)]

# The origin of web pages: a scheme, a host, and perhaps a port (RFC 6454).
Origin = Annotated[str, AfterValidator(_checked_origin)]

# The path of a service behind a proxy; empty at its top.
PathPrefix = Annotated[str, AfterValidator(_checked_prefix)]
