"""Settings that both services have, and how they are read from the environment."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from shared.errors import SetupError
from shared.logs import LogLevel
from shared.security.credentials import UNLIMITED, Rate
from shared.security.tls import TlsSettings
from shared.urls import Host

S = TypeVar("S", bound="ServiceSettings")


class SettingsGroup(BaseModel):
    """Base of the groups of settings: constant, and without unknown members."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RateSettings(SettingsGroup):
    """How often one API key may call, by kind of request, unless the key has a rate of its own.

    Counted over a sliding window in the memory of this process: each of several replicas counts for itself. Load
    shedding keeps one key from taking all of a small machine (``shared/http/load_shedding.py``).
    """

    # Listings and queries by name.
    reading: Rate = UNLIMITED
    # Probes that are verified or identified, and pictures that are examined: what a stolen key is used for. 20,000 an
    # hour are five a second all day, in any bursts, or twenty entrances at rush hour: none is locked out. A thief needs
    # days for the millions of a search, and is in the log.
    matching: Rate = "20000/hour"
    # Enrollments, erasures, and everything else.
    writing: Rate = UNLIMITED


class ServiceSettings(BaseSettings):
    """Settings that both services have; constant while the service runs."""

    model_config = SettingsConfigDict(env_nested_delimiter="__", frozen=True, extra="forbid")

    # The folder of the API keys, and of the service's own files; readable by the service's user only.
    home: Path
    # Loopback: to be reached from elsewhere is decided by a person, behind TLS.
    host: Host = "127.0.0.1"
    port: int
    log_level: LogLevel = "info"
    rates: RateSettings = RateSettings()
    tls: TlsSettings = TlsSettings()

    @property
    def keys_file(self) -> Path:
        """The file of the API keys' digests."""
        return self.home / "api_keys.json"

    @property
    def first_key_file(self) -> Path:
        """The private file that the first API key is left in."""
        return self.home / "api_key"


def load_settings(settings: type[S], **chosen: Any) -> S:
    """The settings of the environment; those of the command line go first.

    Args:
        settings: their class.
        chosen: on the command line; None: not chosen.

    Raises:
        SetupError: one of them is wrong; names it, never its value.
    """
    _refuse_unknown(settings)
    try:
        return settings(**{name: value for name, value in chosen.items() if value is not None})
    except SettingsError as error:
        raise SetupError(f"A setting is not the JSON it should be: {error}.") from None
    except ValidationError as error:
        prefix = settings.model_config.get("env_prefix", "")
        wrong = "; ".join(
            _problem(settings, f"{prefix}{'__'.join(str(part) for part in found['loc']).upper()}", found)
            for found in error.errors(include_input=False)
        )
        raise SetupError(f"A setting is wrong: {wrong}.") from None


def _problem(settings: type[ServiceSettings], name: str, found: ErrorDetails) -> str:
    """What is wrong with one setting, in our own words where there are any."""
    if found["type"] == "extra_forbidden":
        *groups, wrong = (str(part) for part in found["loc"])
        fields: dict[str, FieldInfo] = settings.model_fields
        for group in groups:
            fields = _below(fields[group])
        return f"there is no setting {name}; {_there_are(name[: -len(wrong)], wrong, fields)}".rstrip(".")
    said = found["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{name}: {said}" if found["loc"] else said


def _refuse_unknown(settings: type[ServiceSettings]) -> None:
    """Refuses unknown variables, which pydantic ignores: a misspelled limit would not hold."""
    prefix = str(settings.model_config.get("env_prefix", ""))
    for name in os.environ:
        if name.upper().startswith(prefix):
            field = name.upper().removeprefix(prefix).split("__", maxsplit=1)[0].lower()
            if field not in settings.model_fields:
                raise SetupError(f"There is no setting {name}; {_there_are(prefix, field, settings.model_fields)}")


def _there_are(prefix: str, wrong: str, fields: dict[str, FieldInfo]) -> str:
    meant = get_close_matches(wrong.lower(), fields, n=1)
    names = ", ".join(f"{name.upper()}__…" if _below(field) else name.upper() for name, field in fields.items())
    question = f"did you mean {prefix}{meant[0].upper()}? " if meant else ""
    return f"{question}{'B' if meant else 'b'}ehind {prefix} may stand: {names}."


def _below(field: FieldInfo) -> dict[str, FieldInfo]:
    """The settings of a group; empty of a setting that is none."""
    kind = field.annotation
    return kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}
