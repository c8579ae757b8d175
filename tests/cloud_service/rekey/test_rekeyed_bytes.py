"""After a change of key nothing that the old one sealed is on the disk; what is erased meanwhile is erased whole."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from cloud_service.record.tables import rekeyed, template
from tests.support.cloud_client import Cloud, random_units
from tests.support.sealed import Key, Rows

PATH = "/v1/galleries/door"


def _left(folder: Path, rows: Rows | list[Rows]) -> int:
    """Of how many rows the files hold the beginning, the middle or the end."""
    files = b"\0".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    blobs = [row.astype("<f4").tobytes() for row in rows]
    return sum(any(blob[at : at + 16] in files for at in (0, len(blob) // 2, len(blob) - 16)) for blob in blobs)


def _enroll(cloud: Cloud, key: Key, rows: Rows, first: int = 0, subjects: int = 10) -> None:
    for start in range(0, len(rows), len(rows) // subjects):
        name = f"s{(first + start) // (len(rows) // subjects)}"
        sent: list[dict[str, Any]] = [
            {"id": f"{first + number:032x}", "template": key.envelope(rows[number], name)}
            for number in range(start, start + len(rows) // subjects)
        ]
        answer = cloud.http.post(f"{PATH}/subjects/{key.name(name)}/templates", json={"templates": sent})
        assert answer.status_code == 201, answer.text


def _stored(cloud: Cloud) -> list[Rows]:
    """Every vector of the record, whatever its key."""
    import numpy as np

    with cloud.services.store.record.database.read() as connection:
        blobs = [*connection.scalars(select(template.c.vector)), *connection.scalars(select(rekeyed.c.vector))]
    return [np.frombuffer(blob, "<f4") for blob in blobs]


@pytest.mark.parametrize(
    ("dim", "count"),
    [
        (128, 300),
        *(pytest.param(*size, marks=pytest.mark.slow(reason="other sizes")) for size in ((8, 300), (1100, 20))),
    ],
)
def test_no_byte_of_an_old_template_is_left_and_erasures_stay_whole(cloud: Cloud, dim: int, count: int) -> None:
    keys = [Key(dim, number) for number in range(3)]
    rows = random_units(dim, count, dim)
    cloud.put_gallery(contract=keys[0].contract)
    _enroll(cloud, keys[0], rows)
    for before, after in pairwise(keys):
        old = _stored(cloud)
        assert _left(cloud.settings.home, old) == count
        assert cloud.http.post(f"{PATH}/rekey", json=before.rekey(after)).is_success
        while cloud.http.get(f"{PATH}/rekey").json()["state"] != "settled":
            time.sleep(0.05)
        assert _left(cloud.settings.home, old) == 0
    now = _stored(cloud)
    assert len(now) == count
    for number in (1, 4, 8):
        assert cloud.http.delete(f"{PATH}/subjects/{keys[-1].name(f's{number}')}").status_code == 200
    assert _left(cloud.settings.home, now) == 7 * count // 10


@pytest.mark.parametrize("dim", [8, 128])
def test_what_is_erased_or_given_up_while_the_key_changes_is_gone_under_both_keys(cloud: Cloud, dim: int) -> None:
    old, new = Key(dim, 1, verify_only=True), Key(dim, 2, verify_only=True)
    cloud.put_gallery(contract=old.contract)
    _enroll(cloud, old, random_units(dim, 40, dim))
    plain = _stored(cloud)
    cloud.http.post(f"{PATH}/rekey", json=old.rekey(new, *(f"s{number}" for number in range(8))))
    deadline = time.monotonic() + 30
    while cloud.http.get(f"{PATH}/rekey").json()["left"] > 8 and time.monotonic() < deadline:
        time.sleep(0.05)  # the cloud goes on after it answered
    both = _stored(cloud)
    assert (len(plain), len(both), _left(cloud.settings.home, both)) == (40, 72, 72)
    assert (
        cloud.http.delete(f"{PATH}/subjects/{old.name('s1')}").json().items() >= {"subjects": 1, "templates": 4}.items()
    )
    assert (
        cloud.http.delete(f"{PATH}/subjects/{old.name('s2')}/templates/{8:032x}").json().items()
        >= {"subjects": 0, "templates": 1}.items()
    )
    assert _left(cloud.settings.home, both) == len(_stored(cloud)) == 72 - 8 - 2
    staged = _stored(cloud)[35:]
    assert cloud.http.delete(f"{PATH}/rekey").json()["state"] == "settled"
    assert (_left(cloud.settings.home, staged), len(_stored(cloud))) == (0, 35)
    cloud.http.post(f"{PATH}/rekey", json=old.rekey(new, "s0", "s3"))
    assert len(_stored(cloud)) == 43
    assert cloud.http.delete(PATH).status_code == 200
    assert _left(cloud.settings.home, both) == 0
