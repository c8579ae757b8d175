"""Where keys and data are kept: ``PATRONUS_HOME``, or ``.patronus`` in the user's home."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def patronus_home() -> Path:
    """The folder for keys and data; it need not exist yet."""
    named = os.environ.get("PATRONUS_HOME")
    return Path(named).expanduser() if named else Path.home() / ".patronus"


def patronus_version() -> str:
    """The installed version, or ``0+checkout`` where the packages are not installed."""
    try:
        return version("patronus-face")
    except PackageNotFoundError:
        return "0+checkout"
