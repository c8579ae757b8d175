"""Every setting of the cloud, with its reason.

Read from the environment: the prefix ``PATRONUS_CLOUD__``, and ``__`` between levels, so that ``work.concurrency`` is
``PATRONUS_CLOUD__WORK__CONCURRENCY``. Settings do not change while the service runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.home import patronus_home
from shared.service_settings import ServiceSettings, SettingsGroup

# Seconds. Longer times are no settings but mistakes, and infinity is not a time.
_DAY = 86_400
_YEAR = 366 * _DAY


class BodySettings(SettingsGroup):
    """Limits of a request's body."""

    # 100 templates of 1,024 float32 values are 0.55 MB in base64; longer ones go in fewer a request.
    max_bytes: Annotated[int, Field(ge=1024, le=2**30)] = 1024 * 1024
    # Of a change of key: one matrix of 1,024 times 1,024 float64 values is 11 MB in base64, one of 128 0.17 MB.
    max_rekey_bytes: Annotated[int, Field(ge=1024, le=2**30)] = 16 * 1024 * 1024
    # Of an enrollment of many subjects: 2,000 templates of 128 values are 2 MB, of 1,024 values 11 MB.
    max_bulk_bytes: Annotated[int, Field(ge=1024, le=2**30)] = 12 * 1024 * 1024
    # 1 MiB over a slow uplink of 0.3 Mbit/s; a sender that drips bytes is cut off here.
    timeout_s: Annotated[float, Field(gt=0, le=600)] = 30.0


class RecordSettings(SettingsGroup):
    """Where the record is kept, and its limits."""

    # SQLAlchemy's URL of a SQLite file or a PostgreSQL database; absent: the file `record.db` in the home folder. May
    # hold a password.
    url: Annotated[str | None, Field(repr=False)] = None
    # The longest wait for another writer, a backup, or a reader of the operator's own.
    busy_timeout_s: Annotated[float, Field(ge=0, le=60)] = 5.0
    # The longest that PostgreSQL may take for a statement; the edge waits 10 s for the whole of an answer.
    statement_timeout_s: Annotated[float, Field(ge=0.1, le=600)] = 8.0
    # The index holds all of them in memory, twice while a key changes. Two million of 128 values take 0.34 GB with
    # their sketches, of 512 values 1.3 GB. More than `index.exact_up_to`: else the approximate index never begins.
    max_templates_a_gallery: Annotated[int, Field(ge=1, le=10**9)] = 2_000_000
    # Bounds the work of one verification, and how far one subject can crowd an identification.
    max_templates_a_subject: Annotated[int, Field(ge=1, le=10**9)] = 1_000


class IndexSettings(SettingsGroup):
    """Where and how galleries are searched.

    An index is derived from the record, and rebuilt when it is lost.
    """

    # Absent: in the memory of this process. `http://host:19530` or `https://…`: a Milvus, for several replicas. A path
    # that ends with `.db`: milvus-lite in this process, for trying it out.
    url: Annotated[str | None, Field(repr=False, pattern=r"^(https?://.+|.+\.db)$")] = None
    # Templates of a gallery beyond which an approximate index proposes: exact scores still decide. Up to a million, a
    # lone identification takes some 20 ms on two cores, exactly; two million would take twice that, and take a quarter
    # of it with the approximate index. In Milvus all is exact but what is pinned otherwise.
    exact_up_to: Annotated[int, Field(ge=0, le=10**9)] = 1_000_000
    # How often full segments are written to files, so that the next start need not read them from the record.
    snapshot_interval_s: Annotated[float, Field(ge=0.01, le=_DAY)] = 60.0
    # The longest that the end of the service waits for that.
    close_timeout_s: Annotated[float, Field(ge=0, le=600)] = 5.0


class RetentionSettings(SettingsGroup):
    """When templates that have expired are erased, and erased bytes overwritten."""

    # How often templates that have expired are erased. They stop matching in the second in which they expire.
    sweep_interval_s: Annotated[float, Field(ge=0.01, le=_DAY)] = 60.0
    # Templates that are erased in one transaction; other writers wait some hundredths of a second for it.
    sweep_batch: Annotated[int, Field(ge=1, le=10_000)] = 500
    # How far the machine's clock may be ahead of the record's own time and be trusted immediately: more than a restart
    # takes, less than a wrong time zone.
    clock_jump_s: Annotated[float, Field(gt=0, le=_YEAR)] = 300.0
    # How long a clock that jumped further must run on before anything is erased by it. Long enough for time servers to
    # set it right, and for an operator to see the warning; short enough for a machine that is switched off at night.
    clock_settle_s: Annotated[float, Field(ge=0, le=_YEAR)] = 3600.0
    # How often the service tries again to overwrite what it could not overwrite with the erasure.
    overwrite_interval_s: Annotated[float, Field(ge=0.01, le=_DAY)] = 5.0
    # `due_by` of an erasure of which something is left on disk: a backup, or a report, is done in a day.
    overwrite_within_s: Annotated[float, Field(gt=0, le=_YEAR)] = 86_400.0


class MilvusSettings(SettingsGroup):
    """How to deal with the Milvus that ``index.url`` names."""

    # `user:password`, or an API key. It holds templates, so let it ask for one.
    token: Annotated[str, Field(repr=False)] = ""
    # Whom to trust for `https`, as PEM; absent: the system's authorities.
    ca_file: Path | None = None
    # The longest that one call may take within a request; then that is answered with 503.
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 5.0
    # How long Milvus may lag behind a change before `/readyz` says that the index is not ready.
    max_lag_s: Annotated[float, Field(gt=0, le=_DAY)] = 10.0
    # How long it keeps what it dropped: by its own defaults, old files 3 hours and its log 3 days. An erasure is
    # pending in the index until then.
    retention_s: Annotated[float, Field(ge=0, le=_YEAR)] = 259_200.0


class WorkSettings(SettingsGroup):
    """How much is done at the same time; what exceeds it is refused with 429."""

    # Requests at work in threads; under the 40 threads that the API keys' checks share with them.
    concurrency: Annotated[int, Field(ge=1, le=32)] = 8
    # Requests of each kind that may wait.
    queue_length: Annotated[int, Field(ge=0, le=100_000)] = 256
    # A person at an entrance does not wait longer; the request is refused with 429.
    queue_timeout_s: Annotated[float, Field(gt=0, le=600)] = 2.0
    # Galleries that are searched at the same time, so that a small one does not wait for a large one. A search uses all
    # cores.
    search_threads: Annotated[int, Field(ge=1, le=32)] = 2
    # Probes that are searched together: at 64 the matrix product is nearly all of the cost of a search.
    max_batch_probes: Annotated[int, Field(ge=1, le=1024)] = 64


class Settings(ServiceSettings):
    """The cloud's settings."""

    model_config = SettingsConfigDict(env_prefix="PATRONUS_CLOUD__")

    # The folder of the record and of the API keys; readable by the service's user only.
    home: Path = Field(default_factory=lambda: patronus_home() / "cloud")
    # 0 takes a free one.
    port: Annotated[int, Field(ge=0, le=65535)] = 8001
    body: BodySettings = BodySettings()
    record: RecordSettings = RecordSettings()
    index: IndexSettings = IndexSettings()
    retention: RetentionSettings = RetentionSettings()
    milvus: MilvusSettings = MilvusSettings()
    work: WorkSettings = WorkSettings()

    @property
    def record_url(self) -> str:
        """The database's URL."""
        return self.record.url or f"sqlite:///{self.home.expanduser().resolve() / 'record.db'}"
