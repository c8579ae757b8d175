"""Every knob of the cloud, with its reason.

Read from the environment: the prefix ``PATRONUS_CLOUD__``, and ``__`` between levels, so that ``work.at_once`` is
``PATRONUS_CLOUD__WORK__AT_ONCE``. Settings do not change while the service runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import SettingsConfigDict

from shared.home import patronus_home
from shared.logs import LogLevel
from shared.service_settings import ServiceSettings

_FROZEN = ConfigDict(frozen=True, extra="forbid")


class BodySettings(BaseModel):
    """What a request may carry."""

    model_config = _FROZEN

    max_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024
    """100 templates of 1,024 float32 values are 0.55 MB in base64; longer ones go in fewer a request."""
    max_rekey_bytes: Annotated[int, Field(ge=1024)] = 16 * 1024 * 1024
    """Of a change of key: one matrix of 1,024 times 1,024 float64 values is 11 MB in base64, one of 128 0.17 MB."""
    seconds: Annotated[float, Field(gt=0)] = 30.0
    """1 MiB over a slow uplink of 0.3 Mbit/s; a sender that drips bytes is cut off here."""


class RecordSettings(BaseModel):
    """Where the truth is kept, and how much of it."""

    model_config = _FROZEN

    url: Annotated[str | None, Field(repr=False)] = None
    """SQLAlchemy's URL of the database; absent: the file ``record.db`` in the home folder. May hold a password."""
    busy_seconds: Annotated[float, Field(ge=0, le=60)] = 5.0
    """How long to wait for an operator's own reader or a backup to let go of the file."""
    max_templates_a_gallery: Annotated[int, Field(ge=1)] = 1_000_000
    """The index holds all of them in memory: a million of 512 float32 values are 2 GB, twice while a key changes."""
    max_templates_a_subject: Annotated[int, Field(ge=1)] = 1_000
    """Bounds the work of one verification, and how far one subject can crowd an identification."""


class WorkSettings(BaseModel):
    """How much is done at once. What exceeds it is refused with 429, never queued without end."""

    model_config = _FROZEN

    at_once: Annotated[int, Field(ge=1, le=32)] = 8
    """Requests at work in threads; under the 40 threads that the API keys' checks share with them."""
    waiting: Annotated[int, Field(ge=0)] = 256
    """Requests that may wait for their turn, of each kind."""
    patience_seconds: Annotated[float, Field(gt=0)] = 2.0
    """A door does not wait longer; the caller is told to come again."""
    searches: Annotated[int, Field(ge=1, le=32)] = 2
    """Galleries that are searched at once: a small one does not wait for a large one. A search uses all cores."""
    probes_a_batch: Annotated[int, Field(ge=1, le=1024)] = 64
    """Probes that are worked on together: at 64 the matrix product is nearly all of the cost of a search."""


class Settings(ServiceSettings):
    """The cloud's settings."""

    model_config = SettingsConfigDict(env_prefix="PATRONUS_CLOUD__")

    home: Path = Field(default_factory=lambda: patronus_home() / "cloud")
    """The folder of the record and of the API keys; nobody else may look into it."""
    host: str = "127.0.0.1"
    """Loopback: to be reached from elsewhere is decided by a person, behind TLS."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8001
    """0 takes a free one."""
    log_level: LogLevel = "info"
    body: BodySettings = BodySettings()
    record: RecordSettings = RecordSettings()
    work: WorkSettings = WorkSettings()

    @property
    def record_url(self) -> str:
        """The database's URL."""
        return self.record.url or f"sqlite:///{self.home.expanduser().resolve() / 'record.db'}"
