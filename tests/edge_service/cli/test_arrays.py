"""Files of arrays that are damaged, or claim more than they hold, are refused for little memory."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_service.cli.arrays import Embeddings
from shared.errors import BadRequest

ROWS, DIM = 3, 8
# Reading an honest file of this size takes a few hundred KiB.
MOST_BYTES = 40 * 1024**2


def array(descr: str, shape: tuple[int, ...], content: bytes = b"") -> bytes:
    """An .npy whose header says what it likes."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content


GOOD = array("<f4", (ROWS, DIM), np.eye(ROWS, DIM, dtype=np.float32).tobytes())


def archive(path: Path, method: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(f"{name}.npy", content)
    return path


def with_claimed_sizes(path: Path, size: int) -> Path:
    """Says in the zip's directory that each member is of this size."""
    content, at = bytearray(path.read_bytes()), 0
    while (at := content.find(b"PK\x01\x02", at)) >= 0:
        struct.pack_into("<II", content, at + 20, size, size)
        at += 4
    path.write_bytes(content)
    return path


def read_all(path: Path) -> tuple[np.ndarray, list[str]]:
    found = Embeddings(path)
    names = found.strings("subjects") if "subjects" in found.names else []
    return np.concatenate(list(found.batches(2))), names


@pytest.fixture
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST_BYTES


NAMES = np.array(["ada", "grace", "joan"])
CLAIMS = {
    "rows": {"embeddings": array("<f4", (10**9, 128))},
    "values": {"embeddings": array("<f4", (1, 2**29))},
    "rows and names": {"embeddings": array("<f4", (10**9, 128)), "subjects": array("<U5", (10**9,))},
    "names": {"embeddings": GOOD, "subjects": array("<U250000000", (ROWS,), bytes(60))},
    "header": {"embeddings": b"\x93NUMPY\x02\x00" + (2**32 - 1).to_bytes(4, "little") + b" " * 9},
}


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("claimed", [None, 2**32 - 2])
@pytest.mark.parametrize("members", CLAIMS.values(), ids=CLAIMS)
def test_what_a_file_claims_is_compared_with_what_it_holds(
    tmp_path: Path, members: dict[str, bytes], claimed: int | None
) -> None:
    path = archive(tmp_path / "in.npz", **members)
    if claimed is not None:
        with_claimed_sizes(path, claimed)
    assert path.stat().st_size < 1_000
    with pytest.raises(BadRequest, match=r"not a whole \.npz|4,096"):
        read_all(path)


@pytest.mark.usefixtures("little_memory")
def test_a_header_is_not_unpacked_beyond_what_a_header_is(tmp_path: Path) -> None:
    long = b"\x93NUMPY\x02\x00" + (2**26).to_bytes(4, "little") + b" " * 2**26
    path = archive(tmp_path / "in.npz", zipfile.ZIP_DEFLATED, embeddings=long)
    assert path.stat().st_size < 200_000
    del long
    tracemalloc.reset_peak()
    with pytest.raises(BadRequest, match="not a whole"):
        Embeddings(path)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("member", ["embeddings", "subjects", "unused"])
@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_numpy_does_not_write_is_refused_before_it_is_unpacked(
    tmp_path: Path, method: int, member: str
) -> None:
    path = tmp_path / "in.npz"
    kept = {"embeddings": GOOD, "subjects": array("<U5", (ROWS,), NAMES.tobytes()), "unused": GOOD}
    with zipfile.ZipFile(path, "w") as file:
        for name, content in kept.items():
            info = zipfile.ZipInfo(f"{name}.npy")
            info.compress_type = method if name == member else zipfile.ZIP_STORED
            with file.open(info, "w") as out:
                out.write(content)
                for _ in range(200 if name == member else 0):
                    out.write(bytes(2**20))
    del out
    tracemalloc.reset_peak()
    with pytest.raises(BadRequest, match=r"^[^;]*: is compressed in a way that NumPy does not write; save it again"):
        read_all(path)


@pytest.mark.parametrize("member", ["embeddings", "subjects"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_content_after_an_array_is_refused(tmp_path: Path, method: int, member: str) -> None:
    members = {"embeddings": GOOD, "subjects": array("<U5", (ROWS,), NAMES.tobytes())}
    assert read_all(archive(tmp_path / "good.npz", method, **members))[1] == NAMES.tolist()
    members[member] += b"\x00"
    with pytest.raises(BadRequest, match="not a whole"):
        read_all(archive(tmp_path / "in.npz", method, **members))


@pytest.mark.parametrize("member", ["embeddings", "subjects"])
def test_a_wrong_checksum_is_damage(tmp_path: Path, member: str) -> None:
    path = archive(tmp_path / "in.npz", embeddings=GOOD, subjects=array("<U5", (ROWS,), NAMES.tobytes()))
    content = path.read_bytes()
    directory = content.find(b"PK\x01\x02")
    at = content.find(f"{member}.npy".encode(), directory) - 30  # of the checksum, in the entry of the directory
    path.write_bytes(content[:at] + bytes(byte ^ 1 for byte in content[at : at + 4]) + content[at + 4 :])
    with pytest.raises(BadRequest, match="not a whole"):
        read_all(path)


def test_a_header_that_python_2_wrote_is_read_without_a_warning(tmp_path: Path) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({ROWS}L, {DIM}L), }}".ljust(117) + "\n"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    rows = np.eye(ROWS, DIM, dtype=np.float32)
    path = archive(tmp_path / "in.npz", embeddings=content + rows.tobytes())
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(read_all(path)[0], rows)
    assert not warned


def test_a_refusal_names_the_arrays_that_are_there(tmp_path: Path) -> None:
    path = archive(tmp_path / "in.npz", stored=GOOD, labels=GOOD)
    with pytest.raises(BadRequest, match=r"holds no array named embeddings; it holds labels, stored\.$"):
        Embeddings(path)
    path = archive(tmp_path / "many.npz", **{f"array{number}": GOOD for number in range(9)})
    with pytest.raises(BadRequest, match=r"array7, …\.$"):
        Embeddings(path)
    with pytest.raises(BadRequest, match=r"it holds none\.$"):
        Embeddings(archive(tmp_path / "empty.npz"))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damage_is_one_sentence_however_the_file_is_compressed(tmp_path: Path, method: int) -> None:
    rows = np.random.default_rng(1).normal(size=(100, DIM)).astype(np.float32)
    path = archive(tmp_path / "in.npz", method, embeddings=array("<f4", rows.shape, rows.tobytes()))
    np.testing.assert_array_equal(read_all(path)[0], rows)
    content = path.read_bytes()
    for at in range(40, len(content) - 120, 97):
        spoilt = bytearray(content)
        spoilt[at : at + 4] = b"\xff\x00\xff\x00"
        path.write_bytes(spoilt)
        with pytest.raises(BadRequest, match="not a whole"):
            read_all(path)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code_point", [0x110000, 0xFFFFFFFF])
def test_text_beyond_unicode_is_damage(tmp_path: Path, code_point: int, order: str) -> None:
    text = struct.pack(f"{order}{ROWS}I", 65, code_point, 66)
    path = archive(tmp_path / "in.npz", embeddings=GOOD, subjects=array(f"{order}U1", (ROWS,), text))
    with pytest.raises(BadRequest, match="not a whole"):
        read_all(path)


@pytest.mark.parametrize("kept", [NAMES, NAMES.astype(">U9"), np.array(["", "", ""])])
def test_names_of_either_byte_order_are_read(tmp_path: Path, kept: np.ndarray) -> None:
    np.savez(tmp_path / "in.npz", embeddings=np.eye(ROWS, DIM, dtype=np.float32), subjects=kept)
    rows, names = read_all(tmp_path / "in.npz")
    assert (rows.shape, names) == ((ROWS, DIM), kept.tolist())


HEADERS = ["{[]: 1}", "{'a': 1, 2: 3}", "((", "'", "{'descr': [('a',)], 'fortran_order': False, 'shape': (1, 2)}"]
HEADERS += ["(" * 5000, "-" * 9000 + "1", "{'descr': ('<f4', 'x'), 'fortran_order': False, 'shape': (3, 8)}", "\x00"]


@pytest.mark.parametrize("header", HEADERS)
def test_a_header_that_is_none_is_damage(tmp_path: Path, header: str) -> None:
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    with pytest.raises(BadRequest, match="not a whole"):
        read_all(archive(tmp_path / "in.npz", embeddings=content))


@given(changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6))
def test_no_damage_ends_with_another_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "in.npz"
    text = NAMES.astype("<U5").tobytes()
    archive(path, zipfile.ZIP_DEFLATED, embeddings=GOOD, subjects=array("<U5", (ROWS,), text))
    content = bytearray(path.read_bytes())
    for at, value in changes:
        content[at % len(content)] = value
    path.write_bytes(content)
    with contextlib.suppress(BadRequest):
        read_all(path)
