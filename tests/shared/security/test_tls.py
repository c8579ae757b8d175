"""Certificates: the recipe makes good ones; what is missing, wrong or expired is told at the start in one sentence."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from pydantic import ValidationError

from shared.errors import SetupError
from shared.security.tls import TlsSettings, client_context, server_context
from tests.support.certificates import expired, make_certificates, signed


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls") / "made"
    return make_certificates(folder, "cloud.example", "10.0.0.5")


def server(folder: Path, name: str = "cloud", **changed: Path | None) -> TlsSettings:
    files = {"certificate": folder / f"{name}.pem", "key": folder / f"{name}.key", "client_ca": folder / "ca.pem"}
    return TlsSettings(**files | changed)


def shaken(here: ssl.SSLContext, there: ssl.SSLContext, name: str) -> str | None:
    """A handshake in memory; the version that was agreed on."""
    a, b = ssl.MemoryBIO(), ssl.MemoryBIO()
    waiting = [there.wrap_bio(b, a, server_hostname=name), here.wrap_bio(a, b, server_side=True)]
    sides = list(waiting)
    for _ in range(10):
        for side in list(waiting):
            try:
                side.do_handshake()
                waiting.remove(side)
            except ssl.SSLWantReadError:
                pass
    assert not waiting
    return sides[0].version()


@pytest.mark.parametrize("name", ["cloud", "localhost", "127.0.0.1", "cloud.example", "10.0.0.5"])
def test_the_two_sides_of_the_recipe_trust_each_other(made: Path, name: str) -> None:
    here = server_context(server(made))
    assert here is not None
    there = client_context(made / "ca.pem", made / "edge.pem", made / "edge.key")
    assert shaken(here, there, name) == "TLSv1.3"
    there.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shaken(here, there, name) == "TLSv1.2"


def test_another_name_and_an_older_version_are_refused(made: Path) -> None:
    here = server_context(server(made))
    assert here is not None
    there = client_context(made / "ca.pem", made / "edge.pem", made / "edge.key")
    with pytest.raises(ssl.SSLCertVerificationError, match="elsewhere"):
        shaken(here, there, "elsewhere")
    assert here.minimum_version == there.minimum_version == ssl.TLSVersion.TLSv1_2


def test_the_recipe_keeps_the_authority_and_the_private_files_private(made: Path) -> None:
    before = (made / "ca.pem").read_bytes()
    make_certificates(made)
    assert (made / "ca.pem").read_bytes() == before
    assert {path.stat().st_mode & 0o777 for path in made.glob("*.key")} == {0o600}
    assert server_context(server(made)) is not None


def test_a_certificate_that_cannot_be_used_stops_the_start_with_one_sentence(made: Path, tmp_path: Path) -> None:
    old = expired(made)
    nothing, noise, locked = tmp_path / "nothing", tmp_path / "noise", signed(made, "locked", "-passout", "pass:abcd")
    noise.write_text("noise\n")
    noise.chmod(0o600)
    public = tmp_path / "public.key"
    public.write_bytes((made / "cloud.key").read_bytes())
    public.chmod(0o644)
    wrong = {
        "is not there": {"certificate": nothing},
        "not there": {"key": nothing},
        "can be read by others": {"key": public},
        "not that of the certificate": {"key": made / "edge.key"},
        "cannot be read as PEM": {"certificate": noise},
        "or the key has a passphrase": {"certificate": locked, "key": locked.with_suffix(".key")},
        "certificate has expired": {"certificate": old, "key": old.with_suffix(".key")},
        "holds no certificate of an authority": {"client_ca": made / "edge.pem"},
        "cannot be read as certificates": {"client_ca": noise},
        f"{nothing} is not there": {"client_ca": nothing},
    }
    for sentence, changed in wrong.items():
        with pytest.raises(SetupError, match=sentence) as raised:
            server_context(server(made, **changed))
        assert "\n" not in raised.value.detail
    with pytest.raises(SetupError, match="certificate has expired"):
        client_context(made / "ca.pem", old, old.with_suffix(".key"))


def test_a_certificate_for_one_purpose_is_not_taken_for_the_other(made: Path) -> None:
    leaf = ("-noenc", "-addext", "basicConstraints=critical,CA:FALSE", "-addext")
    one = signed(made, "server-only", *leaf, "extendedKeyUsage=serverAuth")
    assert server_context(server(made, "server-only")) is not None
    with pytest.raises(SetupError, match="purpose"):
        client_context(made / "ca.pem", one, one.with_suffix(".key"))


def test_an_operator_is_warned_before_the_end(made: Path, log_events: list[dict[str, object]]) -> None:
    assert server_context(server(made)) is not None
    assert not log_events
    signed(made, "soon", "-noenc", "-days", "5", "-addext", "basicConstraints=critical,CA:FALSE")
    assert server_context(server(made, "soon")) is not None
    assert [(line["event"], line["days"]) for line in log_events] == [("certificate_expires_soon", 4)]


@pytest.mark.parametrize("given", [{"certificate": "a"}, {"key": "a"}, {"client_ca": "a"}])
def test_half_of_a_setting_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="certificate"):
        TlsSettings.model_validate(given)
