"""A client for collections of unit vectors in Milvus; every call has a time limit."""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable
from functools import cached_property
from operator import methodcaller
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from shared.errors import IndexUnavailable, SetupError, place_of
from shared.logs import get_logger

_log = get_logger(__name__)
T = TypeVar("T")

# The most that Milvus returns for one probe, or of one listing.
MOST_HITS: Final = 16_384

# Rows that one message carries: under Milvus' 64 MB, and few enough to be taken in well under a second.
_BATCH_BYTES: Final = 4 * 1024 * 1024
# Making, filling, loading and compacting a collection is no step of a request; an idle Milvus needs some seconds.
_SLOW_SECONDS: Final = 60.0
_PING_SECONDS: Final = 2.0
# Milvus' own codes, the same in its server and in milvus-lite.
_NO_COLLECTION: Final = 100
_NOT_LOADED: Final = 101
# HNSW's usual figures, for a recall above 99 % at widths of a few dozen.
_GRAPH: Final = {"M": 32, "efConstruction": 256}
_LEAST_EF: Final = 128


class CollectionLost(IndexUnavailable):
    """A collection is not there, or not loaded; it is made again from the record."""


class Milvus:
    """A connection to Milvus, made with the first call.

    Changes of a whole collection may take a minute; with ``patient=False``, as within a request, they may not.

    Args:
        url: ``http://host:19530``, ``https://…``, or a path that ends with ``.db``: milvus-lite in this process.
        token: ``user:password`` or an API key of Milvus; empty: none.
        ca_file: whom to trust for ``https``; None: the system's authorities.
        seconds: the longest that one call of a request may take.

    Raises:
        SetupError: pymilvus (for a path: milvus-lite) is not installed, or the path cannot be used.
    """

    def __init__(self, url: str, token: str, ca_file: Path | None, seconds: float) -> None:
        self._lite = Path(url).expanduser().resolve() if url.endswith(".db") else None
        self._pymilvus = _loaded("pymilvus", "pip install 'patronus-face[milvus]'")
        if self._lite is not None:
            _loaded("milvus_lite", "pip install milvus-lite")
            _make_private(self._lite)
        # A connection of its own: shared ones stay open behind everybody's back.
        self._options: dict[str, Any] = {"uri": str(self._lite or url), "token": token, "dedicated": True}
        if ca_file is not None:
            self._options |= {"secure": True, "server_pem_path": str(ca_file)}
        self._seconds = seconds
        # Of reads: all that was written before is taken into account.
        self._strong: dict[str, Any] = {"consistency_level": "Strong", "timeout": seconds}
        self._connecting = threading.Lock()
        self._client: Any = None

    def ping(self) -> None:
        """Makes a real call.

        Raises:
            IndexUnavailable: no answer.
        """
        self._ask(lambda client: client.list_collections(timeout=_PING_SECONDS))

    def collections(self) -> list[str]:
        """The names of all collections."""
        names: list[str] = self._ask(lambda client: client.list_collections(timeout=self._seconds))
        return names

    def create(self, name: str, dim: int, approximate: bool = False, *, patient: bool = True) -> None:
        """Makes an empty collection with its index: HNSW if approximate, else FLAT."""
        kinds = self._pymilvus.DataType
        schema = self._pymilvus.MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", kinds.INT64, is_primary=True)
        schema.add_field("vector", kinds.FLOAT_VECTOR, dim=dim)
        index = self._pymilvus.MilvusClient.prepare_index_params()
        index.add_index(
            "vector",
            index_type="HNSW" if approximate else "FLAT",
            metric_type="IP",
            params=_GRAPH if approximate else {},
        )

        def make(client: Any) -> None:
            client.create_collection(name, schema=schema, consistency_level="Strong", timeout=self._limit(patient))
            client.create_index(name, index, timeout=self._limit(patient), sync=False)

        self._ask(make)

    def rename(self, old: str, new: str, *, patient: bool = True) -> None:
        """Gives a collection another name, at once or not at all.

        Raises:
            IndexUnavailable: the name is taken, or Milvus does not answer.
        """
        self._ask(lambda client: client.rename_collection(old, new, timeout=self._limit(patient)))

    def load(self, name: str, *, patient: bool = True) -> None:
        """Makes a collection searchable; nothing if it is."""
        self._ask(lambda client: client.load_collection(name, timeout=self._limit(patient)))

    def drop(self, name: str, *, patient: bool = True) -> None:
        """Removes a collection; nothing if it is not there."""
        limit = self._limit(patient)
        if self._ask(lambda client: client.has_collection(name, timeout=limit)):
            self._ask(lambda client: client.drop_collection(name, timeout=limit))

    def put(self, name: str, ids: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Stores (n, d) float32 rows under n ids, found when this returns. May be repeated."""
        rows = max(1, _BATCH_BYTES // (4 * vectors.shape[1]))
        for start in range(0, len(ids), rows):
            part = zip(ids[start : start + rows].tolist(), vectors[start : start + rows], strict=True)
            data = [{"id": one, "vector": vector} for one, vector in part]
            self._ask(methodcaller("upsert", name, data, timeout=self._seconds))

    def remove(self, name: str, ids: NDArray[np.int64]) -> None:
        """Removes n ids; those that are not there are passed over."""
        for start in range(0, len(ids), MOST_HITS):
            part = ids[start : start + MOST_HITS].tolist()
            self._ask(methodcaller("delete", name, ids=part, timeout=self._seconds))

    def count(self, name: str) -> int:
        """How many vectors a collection holds."""
        found = self._ask(lambda client: client.query(name, filter="", output_fields=["count(*)"], **self._strong))
        return int(found[0]["count(*)"])

    def ids(self, name: str, after: int, last: int) -> NDArray[np.int64]:
        """The ids in (after, last] that a collection holds, at most MOST_HITS, in no order."""
        which, fields = _between(after, last), ["id"]
        found = self._ask(
            lambda client: client.query(name, filter=which, output_fields=fields, limit=MOST_HITS, **self._strong)
        )
        return np.array([row["id"] for row in found], dtype=np.int64)

    def search(
        self,
        name: str,
        probes: NDArray[np.float32],
        limit: int,
        between: tuple[int, int] | None = None,
        approximate: bool = False,
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """The nearest by inner product for each row of (m, d) float32, after all writes.

        Args:
            name: of the collection.
            probes: unit rows.
            limit: the most for each, up to MOST_HITS.
            between: only ids in (first, second].
            approximate: whether the collection was made so.

        Returns:
            for each probe ids and scores, best first.
        """
        parameters = {"ef": max(_LEAST_EF, limit)} if approximate else {}
        found = self._ask(
            lambda client: client.search(
                name,
                data=list(probes),
                filter=_between(*between) if between else "",
                limit=limit,
                output_fields=["id"],
                search_params={"metric_type": "IP", "params": parameters},
                **self._strong,
            )
        )
        return [(np.array(row.ids, np.int64), np.array(row.distances, np.float32)) for row in found]

    @cached_property
    def compacts(self) -> bool:
        """Whether this Milvus rewrites its files on request, which milvus-lite does not."""
        version = self._ask(lambda client: client.get_server_version(timeout=self._seconds))
        return not str(version).startswith("milvus_lite")

    def compact(self, name: str) -> int:
        """Has a collection's files rewritten without what was removed; returns the job's number."""

        def begin(client: Any) -> int:
            client.flush(name, timeout=_SLOW_SECONDS)
            return int(client.compact(name, timeout=_SLOW_SECONDS))

        return self._ask(begin)

    def compacted(self, job: int) -> bool:
        """Whether a job is done."""
        state = self._ask(lambda client: client.get_compaction_state(job, timeout=self._seconds))
        return str(state) == "Completed"

    def close(self) -> None:
        """Ends the connection, and milvus-lite with it."""
        with self._connecting:
            if self._client is not None:
                self._client.close()
                self._client = None
            if self._lite is not None:
                importlib.import_module("milvus_lite").server_manager_instance.release_server(str(self._lite))

    def _limit(self, patient: bool) -> float:
        return _SLOW_SECONDS if patient else self._seconds

    def _ask(self, question: Callable[[Any], T]) -> T:
        """One exchange with Milvus.

        Raises:
            CollectionLost: the collection is not there, or not loaded.
            IndexUnavailable: Milvus cannot be reached, does not answer in time, or refuses.
        """
        try:
            return question(self._connected())
        except IndexUnavailable:
            raise
        except Exception as error:  # pymilvus, gRPC and milvus-lite share no base class; the log has kind and place
            code = getattr(error, "code", None)
            if code in (_NO_COLLECTION, _NOT_LOADED):
                raise CollectionLost("The index of this gallery is being made; try again in a moment.") from None
            _log.warning("milvus_call_failed", code=code if isinstance(code, int) else str(code), **place_of(error))
            raise IndexUnavailable("The index cannot be reached; try again in a moment.") from None

    def _connected(self) -> Any:
        if self._client is None:
            with self._connecting:
                if self._client is None:
                    self._client = self._pymilvus.MilvusClient(timeout=_PING_SECONDS, **self._options)
        return self._client


def _between(after: int, last: int) -> str:
    return f"id > {after} and id <= {last}"


def _loaded(package: str, remedy: str) -> Any:
    """Imports a package that only this index needs, and silences its log.

    It would log what it was sent.

    Raises:
        SetupError: it is not installed.
    """
    os.environ.setdefault("PYTHON_DOTENV_DISABLED", "1")  # pymilvus reads a .env file that nobody here asked for
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise SetupError(f"An index in Milvus needs a package that is not installed: {remedy}.") from None
    logging.getLogger(package).setLevel(logging.CRITICAL + 1)
    return module


def _make_private(folder: Path) -> None:
    """Makes milvus-lite's folder with mode 0700; it would be readable for all."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError:
        raise SetupError(f"The index {folder} cannot be opened by this user for reading and writing.") from None
