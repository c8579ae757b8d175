"""Tables of measurements can be read on a terminal of 80 columns."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from tests.load.bench_cloud import speed_table
from tests.load.overload import load_table
from tests.load.soak import Sample, growth_table

SPEEDS = {
    "size": 10_000_000,
    "what": "identify approximate",
    "concurrency": 64,
    "answered": 12_345.6,
    "p50": 1234.5,
    "p99": 1234.5,
    "ratio_to_faiss": 12.34,
    "ratio_to_product": 12.34,
    "start_seconds": 123.4,
    "memory_over_vectors": 12.34,
}
LOADS = {
    "times": 10.0,
    "sent_over_capacity": 10.0,
    "goodput": 12_345.0,
    "goodput_over_capacity": 0.93,
    "refused": 0.9,
    "failed": 1.0,
    "answered_p50_ms": 1234.0,
    "answered_p99_ms": 12345.0,
    "refused_p50_ms": 1234.0,
    "refused_p99_ms": 12345.0,
}
TABLES = {
    "speed": speed_table([SPEEDS]),
    "load": load_table([LOADS]),
    "growth": growth_table([Sample("cloud", 72_000, 12_345_600_000, 1234, 123, 123_456_000, 12_345_600_000, 1234.0)]),
}


@pytest.mark.parametrize("name", TABLES)
def test_no_heading_or_value_of_a_table_is_cut_at_80_columns(name: str) -> None:
    table: Table = TABLES[name]
    printed = io.StringIO()
    Console(file=printed, width=80, force_terminal=False).print(table)
    lines = printed.getvalue().split("\n")
    assert max(map(len, lines)) <= 80
    words = [word for line in lines for word in line.split()]
    for column in table.columns:
        for text in (str(column.header), *map(str, column.cells)):
            for word in text.split():
                assert word in words, (word, printed.getvalue())
