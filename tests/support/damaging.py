"""Damages stored templates behind a running service's back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import select, update

from cloud_service.record.tables import rekeyed, subject, template
from tests.support.cloud_client import Cloud

Change = Callable[[bytes], bytes]


def flip(*bits: int) -> Change:
    """Flips bits of a blob, counted from its first byte's lowest."""

    def change(blob: bytes) -> bytes:
        changed = bytearray(blob)
        for bit in bits:
            changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    return change


def huge(axis: int) -> Change:
    """Flips bit 30 of one float32: a value below 2 becomes one of up to 1e38."""
    return flip(32 * axis + 30)


def set_value(axis: int, value: float) -> Change:
    """Overwrites one float32."""
    return lambda blob: blob[: 4 * axis] + np.float32(value).tobytes() + blob[4 * axis + 4 :]


def change_blob(cloud: Cloud, row: int, change: Change, table: Any = template) -> bytes:
    """Rewrites the stored bytes of a template; what they were."""
    which = table.c.id if table is template else rekeyed.c.template_id
    with cloud.services.store.record.database.write() as connection:
        blob = bytes(connection.scalars(select(table.c.vector).where(which == row)).one())
        connection.execute(update(table).where(which == row).values(vector=change(blob)))
    return blob


def rows_of(cloud: Cloud, name: str) -> list[int]:
    """The ids of a subject's templates."""
    query = select(template.c.id).join(subject, subject.c.id == template.c.subject_id).where(subject.c.name == name)
    with cloud.services.store.record.database.read() as connection:
        return list(connection.scalars(query.order_by(template.c.id)))


def checks(cloud: Cloud) -> dict[str, bool]:
    """What readiness says; its status agrees."""
    answer = cloud.http.get("/readyz")
    found: dict[str, bool] = answer.json()["checks"]
    assert answer.status_code == (200 if all(found.values()) else 503)
    return found


def damaged_metric(cloud: Cloud) -> float:
    """How many damaged templates the metrics tell of."""
    lines = cloud.http.get("/metrics").text.splitlines()
    [line] = [line for line in lines if line.startswith("patronus_cloud_damaged_templates ")]
    return float(line.split()[1])


def flip_in_file(path: Path, content: bytes, bit: int = 30) -> None:
    """Flips a bit of the one place in a file that holds some bytes."""
    file = bytearray(path.read_bytes())
    assert file.count(content) == 1
    file[file.index(content) + bit // 8] ^= 1 << bit % 8
    path.write_bytes(file)
