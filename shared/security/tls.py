"""TLS of the services' sockets, and from the edge to the cloud; checked at the start.

Where a certificate, a key or an authority is missing, wrong or out of date, the start is stopped with one sentence.
"""

from __future__ import annotations

import contextlib
import ssl
import time
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, model_validator

from shared.errors import SetupError
from shared.security.secret_files import read_secret

_DAY = 86_400.0
_SOON_DAYS = 21
# Python's own servers say no more than this of a certificate that they do not accept.
ENDED: Final = (
    "The other side ended the connection before it answered; where it always does, it does not accept this side's "
    "certificate, or its lack of one."
)


class TlsSettings(BaseModel):
    """TLS of a service towards its callers; absent: plain HTTP, for loopback or behind a proxy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # PEM: the service's certificate, and those between it and the authority if there are any.
    certificate: Path | None = None
    # PEM, without a passphrase, mode 0600.
    key: Path | None = None
    # PEM: only callers with a certificate of this authority get a connection at all. Absent: an API key suffices.
    client_ca: Path | None = None

    @model_validator(mode="after")
    def _whole(self) -> TlsSettings:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("a certificate and its key go together")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("callers can show a certificate only where the service has one: name certificate and key")
        return self


def server_context(settings: TlsSettings) -> ssl.SSLContext | None:
    """What a service listens with; None: plain HTTP.

    Raises:
        SetupError: a file is missing, readable by others, or not what it should be, or out of date.
    """
    if settings.certificate is None or settings.key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION
    _load_own(context, settings.certificate, settings.key, of_a_server=True)
    if settings.client_ca is not None:
        _load_authority(context, settings.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(ca: Path | None, certificate: Path | None, key: Path | None) -> ssl.SSLContext:
    """What a caller connects with: the name in the server's certificate is checked.

    Args:
        ca: the authority that alone is trusted; None: those that this system trusts.
        certificate: to show to the server; None: none.
        key: of the certificate.

    Raises:
        SetupError: a file is missing, readable by others, or not what it should be, or out of date.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is None:
        context.load_default_certs()
    else:
        _load_authority(context, ca)
    if certificate is not None and key is not None:
        _load_own(context, certificate, key, of_a_server=False)
    return context


def why_refused(error: BaseException | None) -> str | None:
    """Why a TLS handshake failed, for the operator; None if no handshake caused the error."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    if error is None:
        return None
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"The certificate of the other side is not accepted here: {error.verify_message}."
    if isinstance(error, ssl.SSLEOFError):
        return ENDED
    if error.reason and "ALERT" in error.reason:
        # Such as TLSV13_ALERT_CERTIFICATE_REQUIRED, TLSV1_ALERT_UNKNOWN_CA or SSLV3_ALERT_CERTIFICATE_EXPIRED.
        word = error.reason.partition("ALERT_")[2].lower().replace("_", " ")
        return f"The other side does not accept this side's certificate, or its lack of one: {word}."
    return "The other side does not speak TLS, or none that is safe."


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path, *, of_a_server: bool) -> None:
    try:
        read_secret(key)
        context.load_cert_chain(certificate, key, password=b"")  # a passphrase is not asked for at a terminal
        until = _valid_until(certificate, key, of_a_server=of_a_server)
    except FileNotFoundError:
        missing = key if certificate.exists() else certificate
        raise SetupError(f"The TLS file {missing} is not there; name the right one, or make it.") from None
    except ssl.SSLCertVerificationError as error:
        raise SetupError(f"The TLS certificate {certificate} cannot be used: {error.verify_message}.") from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SetupError(f"The TLS key {key} is not that of the certificate {certificate}.") from None
        raise SetupError(
            f"The TLS certificate {certificate} and key {key} cannot be read as PEM, or the key has a passphrase."
        ) from None
    except OSError as error:
        raise SetupError(f"The TLS certificate {certificate} cannot be read ({error.strerror}).") from None
    days = int((until - time.time()) / _DAY)
    if days < _SOON_DAYS:
        with contextlib.suppress(ModuleNotFoundError):  # a client can be installed without the services' log
            from shared.logs import get_logger  # noqa: PLC0415

            get_logger(__name__).warning("certificate_expires_soon", file=str(certificate), days=days)


def _load_authority(context: ssl.SSLContext, ca: Path) -> None:
    try:
        context.load_verify_locations(ca)
    except FileNotFoundError:
        raise SetupError(f"The TLS file {ca} is not there; name the right one, or make it.") from None
    except OSError:  # of which ssl.SSLError is one
        raise SetupError(f"The TLS authority {ca} cannot be read as certificates in PEM.") from None
    ends = [ssl.cert_time_to_seconds(str(found["notAfter"])) for found in context.get_ca_certs()]
    if not ends:
        raise SetupError(f"The file {ca} holds no certificate of an authority.")
    if max(ends) < time.time():
        raise SetupError(f"The TLS authority {ca} has expired; make a new one, and certificates under it.")


def _valid_until(certificate: Path, key: Path, *, of_a_server: bool) -> float:
    """Until when a certificate is valid for its purpose, in seconds since 1970.

    Python's ssl reports this about a peer only. So a handshake is made here in memory, in which one side shows the
    certificate and the other trusts it.

    Raises:
        ssl.SSLCertVerificationError: it is not valid now, or not for this purpose.
    """
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(certificate, key, password=b"")
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    trusting = client if of_a_server else server
    trusting.load_verify_locations(certificate)
    trusting.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    trusting.verify_mode = ssl.CERT_REQUIRED
    if not of_a_server:
        client.load_cert_chain(certificate, key, password=b"")
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = {client: client.wrap_bio(back, there), server: server.wrap_bio(there, back, server_side=True)}
    waiting = list(sides.values())
    while waiting:
        side = waiting.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(side)
    found = sides[trusting].getpeercert()
    assert found is not None  # noqa: S101 - required above
    return ssl.cert_time_to_seconds(str(found["notAfter"]))
