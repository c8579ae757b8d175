"""Any bit of any stored vector, flipped in any store: never a match that was not one before.

``pytest --hypothesis-profile=deep`` tries many more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import select

from cloud_service.index.flat import SegmentedIndex
from cloud_service.matching import Matcher, Verification
from cloud_service.record.backup import back_up, restore
from cloud_service.record.queries import Stored
from cloud_service.record.tables import rekeyed, template
from cloud_service.rekey.steps import RekeySteps
from cloud_service.settings import RecordSettings, Settings
from shared.envelope import TemplateEnvelope
from shared.errors import PatronusError, SetupError
from shared.wire.cloud import IdentifyRequest
from tests.support.cloud_client import Cloud, random_units
from tests.support.damaging import change_blob, flip, flip_in_file
from tests.support.postgres_server import PostgresServer
from tests.support.sealed import Key, plain

DIM = 8
BITS = 8 * (4 * DIM + 8)
PEOPLE = random_units(71, 8, DIM)
# Each axis in both directions: whichever value a flipped bit makes large, one of these points there.
AXES = np.concatenate([np.eye(DIM), -np.eye(DIM)]).astype(np.float32)
PROBES = np.concatenate([PEOPLE, AXES, random_units(72, 4, DIM)])
OLD, NEW = Key(DIM, 1), Key(DIM, 2)
Matches = set[tuple[str, str, int]]


class Examined:
    """A running cloud with two galleries of eight people, ``plain`` and ``rekeyed``.

    The change of key of ``rekeyed`` is not settled: matching reads the table of that name.
    """

    def __init__(self, cloud: Cloud) -> None:
        self.cloud = cloud
        self.store = cloud.services.store
        self._matcher = Matcher(self.store, self.store._metrics)
        for gallery in ("plain", "rekeyed"):
            cloud.put_gallery(gallery, contract=OLD.contract)
            for number, row in enumerate(PEOPLE):
                sent: list[dict[str, Any]] = [{"id": f"{number:032x}", "template": OLD.envelope(row)}]
                path = f"/v1/galleries/{gallery}/subjects/{OLD.name(f's{number}')}/templates"
                assert cloud.http.post(path, json={"templates": sent}).status_code == 201
        self._change_key_of_rekeyed()
        with self.store.record.database.read() as connection:
            galleries = {one.name: one.id for one in self.store.record.galleries()}
            query = select(template.c.id).order_by(template.c.id)
            self.rows = {
                name: list(connection.scalars(query.where(template.c.gallery_id == id_)))
                for name, id_ in galleries.items()
            }
        self.sound = self.matches()

    def _change_key_of_rekeyed(self) -> None:
        record = self.store.record
        steps = RekeySteps(record)
        pinned = record.gallery("rekeyed")

        def rotated(some: Stored) -> np.ndarray:
            matrix = NEW.seal() @ OLD.seal().T
            return (some.vectors.astype(np.float64) @ matrix.T).astype(np.float32)

        steps.begin(pinned, NEW.contract, None)
        names = [f"s{number}" for number in range(len(PEOPLE))]
        steps.name(pinned, NEW.contract, {OLD.name(name): NEW.name(name) for name in names})
        steps.switch(pinned, NEW.contract, rotated, 0, None)

    def matches(self) -> Matches:
        """Every match that verification or identification finds: how, whose, and with which probe."""
        found: Matches = set()
        for gallery, key in (("plain", OLD), ("rekeyed", NEW)):
            sent = [TemplateEnvelope.model_validate(key.envelope(probe)) for probe in PROBES]
            claims = [Verification(key.name(f"s{number}"), one) for number in range(len(PEOPLE)) for one in sent]
            for claim, answer in zip(claims, self._matcher.verify(gallery, claims), strict=True):
                if not isinstance(answer, PatronusError) and answer.decision == "match":
                    found.add((f"verify {gallery}", plain(claim.subject), sent.index(claim.probe)))
            [identified] = self._matcher.identify(gallery, [IdentifyRequest(probes=sent, top_k=8)])
            assert not isinstance(identified, PatronusError), "identification goes on"
            for number, result in enumerate(identified.results):
                found.update((f"identify {gallery}", plain(one.subject), number) for one in result.candidates)
        return found

    def sql(self, statement: str, *values: Any) -> list[Any]:
        """Runs a statement of SQLite, and gives its rows."""
        with self.store.record.database.write() as connection:
            done = connection.exec_driver_sql(statement, values)
            return [tuple(row) for row in done] if done.returns_rows else []

    @contextmanager
    def damaged(self, table: Any, row: int, *bits: int) -> Iterator[None]:
        sound = change_blob(self.cloud, row, flip(*bits), table)
        try:
            yield
        finally:
            change_blob(self.cloud, row, lambda _blob: sound, table)


_OTHER_ENGINE = pytest.param("postgresql", marks=pytest.mark.slow(reason="on the other engine, too"))


@pytest.fixture(scope="module", params=["sqlite", _OTHER_ENGINE])
def examined(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examined]:
    url = None
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres")
        url = server.url(server.new_database())
    home = tmp_path_factory.mktemp(request.param) / "cloud"
    with Cloud(Settings(home=home, record=RecordSettings(url=url))) as cloud:
        examined = Examined(cloud)
        assert {name for _, name, _ in examined.sound} == {f"s{number}" for number in range(len(PEOPLE))}
        yield examined


# A sixth of the profile's number, and nearly all of a deep one: each example asks some 300 questions.
_EXAMPLES = hypothesis_settings().max_examples
tried = hypothesis_settings(deadline=None, max_examples=max(_EXAMPLES // 6, _EXAMPLES - 100))
on_sqlite = pytest.mark.parametrize("examined", ["sqlite"], indirect=True)
some_bits = st.lists(st.integers(0, BITS - 1), min_size=1, max_size=3, unique=True)


@tried
@given(person=st.integers(0, len(PEOPLE) - 1), bits=some_bits)
def test_in_the_record(examined: Examined, person: int, bits: list[int]) -> None:
    row = examined.rows["plain"][person]
    with examined.damaged(template, row, *bits):
        found = examined.matches()
    mine = f"s{person}"
    assert found == {match for match in examined.sound if match[1] != mine or "rekeyed" in match[0]}


@tried
@given(person=st.integers(0, len(PEOPLE) - 1), bits=some_bits)
def test_in_what_a_change_of_key_wrote(examined: Examined, person: int, bits: list[int]) -> None:
    row = examined.rows["rekeyed"][person]
    with examined.damaged(rekeyed, row, *bits):
        found = examined.matches()
    assert found == {match for match in examined.sound if match[1] != f"s{person}" or "plain" in match[0]}


# Whatever SQLite lets a column hold. What is text in SQLite need not be UTF-8.
sqlite_values = st.one_of(
    st.binary(max_size=2 * BITS // 8),
    st.text(max_size=40),
    st.binary(min_size=BITS // 8, max_size=BITS // 8),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
)


@on_sqlite
@tried
@given(
    person=st.integers(0, len(PEOPLE) - 1),
    column=st.sampled_from(["template.vector", "rekeyed_template.vector", "subject.name"]),
    value=sqlite_values,
    as_text=st.booleans(),
)
def test_any_value_of_any_type(examined: Examined, person: int, column: str, value: Any, as_text: bool) -> None:
    table, name = column.split(".")
    gallery = "rekeyed" if table == "rekeyed_template" else "plain"
    row = examined.rows[gallery][person]
    key = {"template": "id", "rekeyed_template": "template_id", "subject": "id"}[table]
    if table == "subject":
        [(row,)] = examined.sql("SELECT subject_id FROM template WHERE id = ?", row)
    [(sound,)] = examined.sql(f"SELECT {name} FROM {table} WHERE {key} = ?", row)
    new = "CAST(? AS TEXT)" if as_text else "?"
    unlike = "NOT EXISTS (SELECT 1 FROM subject WHERE name = ?)" if table == "subject" else "? IS NOT NULL"
    examined.sql(f"UPDATE {table} SET {name} = {new} WHERE {key} = ? AND {unlike}", value, row, value)
    try:
        [(now,)] = examined.sql(f"SELECT {name} FROM {table} WHERE {key} = ?", row)
        found = examined.matches()
    finally:
        examined.sql(f"UPDATE {table} SET {name} = ? WHERE {key} = ?", sound, row)
    kept = {match for match in examined.sound if match[1] != f"s{person}" or gallery not in match[0]}
    assert found == (examined.sound if now == sound else kept)


@on_sqlite
@tried
@given(data=st.data())
def test_in_an_index_which_only_proposes(examined: Examined, data: st.DataObject) -> None:
    index = examined.store.indexes.of(examined.store.record.gallery("plain"))
    assert isinstance(index, SegmentedIndex)
    [segment] = [segment for segment in index.segments() if segment.used]
    arrays = [segment.codes[: segment.used].view(np.uint8), segment.ids[: segment.used].view(np.uint8)]
    before = [array.copy() for array in arrays]
    for array in arrays:
        flat = array.reshape(-1)
        for bit in data.draw(st.lists(st.integers(0, 8 * flat.size - 1), max_size=20)):
            flat[bit // 8] ^= 1 << bit % 8
    try:
        assert examined.matches() <= examined.sound
    finally:
        for array, sound in zip(arrays, before, strict=True):
            array[...] = sound


@on_sqlite
def test_in_a_backup(examined: Examined, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("backup")
    backup, restored = folder / "backup", folder / "restored.db"
    back_up(examined.cloud.settings.home / "record.db", backup)
    sound = change_blob(examined.cloud, examined.rows["plain"][3], lambda blob: blob)

    @hypothesis_settings(tried, max_examples=max(5, tried.max_examples // 5))
    @given(bit=st.integers(0, BITS - 1))
    def each(bit: int) -> None:
        flip_in_file(backup, sound, bit)
        with pytest.raises(SetupError, match=f"plain: row {examined.rows['plain'][3]}"):
            restore(backup, restored)
        flip_in_file(backup, flip(bit)(sound), bit)

    each()
    assert not restored.exists()
    assert restore(backup, restored).held.templates == 2 * len(PEOPLE)
