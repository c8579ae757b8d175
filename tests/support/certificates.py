"""Certificates for tests: by the project's own recipe, and bad ones of the same authority."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
_CA = """
[ca]
default_ca = here
[here]
database = index
unique_subject = no
new_certs_dir = .
default_md = sha256
policy = any
rand_serial = yes
x509_extensions = leaf
[any]
commonName = supplied
[leaf]
basicConstraints = critical,CA:FALSE
subjectAltName = DNS:localhost,IP:127.0.0.1
"""


def make_certificates(folder: Path, *names: str) -> Path:
    """Runs the recipe; returns its folder."""
    subprocess.run([ROOT / "deploy/make-certificates", folder, *names], check=True, timeout=60)
    return folder


def signed(folder: Path, name: str, *options: str) -> Path:
    """A certificate of the folder's authority with other properties, and its key beside it."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    authority = ("-CA", "ca.pem", "-CAkey", "ca.key")
    _openssl(
        folder,
        "req",
        "-x509",
        *_CURVE,
        *authority,
        "-keyout",
        key,
        "-out",
        certificate,
        "-subj",
        f"/CN={name}",
        *options,
    )
    key.chmod(0o600)
    return certificate


def expired(folder: Path) -> Path:
    """A certificate of the folder's authority that was good for an hour, years ago, and its key beside it."""
    (folder / "ca.cnf").write_text(_CA)
    (folder / "index").touch()
    key, certificate = folder / "expired.key", folder / "expired.pem"
    _openssl(folder, "req", *_CURVE, "-noenc", "-keyout", key, "-out", "expired.csr", "-subj", "/CN=expired")
    days = ("-startdate", "20200101000000Z", "-enddate", "20200101010000Z")
    authority = ("-config", "ca.cnf", "-cert", "ca.pem", "-keyfile", "ca.key")
    _openssl(folder, "ca", "-batch", *authority, *days, "-notext", "-in", "expired.csr", "-out", certificate)
    key.chmod(0o600)
    return certificate


def _openssl(folder: Path, *arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)
