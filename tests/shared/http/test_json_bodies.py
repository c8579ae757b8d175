"""JSON is read in one way, or refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import BadRequest
from shared.http.json_bodies import read_json

characters = st.characters(codec="utf-8")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(characters),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(characters), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None)
@given(values, st.booleans())
def test_what_a_writer_of_json_writes_is_read_as_it_was(value: Any, ascii_only: bool) -> None:
    assert read_json(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@settings(max_examples=50, deadline=None)
@given(values, st.text(characters, max_size=5))
def test_a_name_that_comes_twice_is_refused_however_deep_and_however_written(value: Any, name: str) -> None:
    plain = json.dumps(name, ensure_ascii=False)
    escaped = '"' + "".join(f"\\u{unit:04x}" for unit in _utf16(name)) + '"'
    twice = f"[1, {{{plain}: {json.dumps(value)}, {escaped}: 0}}]"
    with pytest.raises(BadRequest) as refused:
        read_json(twice.encode())
    assert refused.value.reason == "repeated_member"


def _utf16(text: str) -> list[int]:
    raw = text.encode("utf-16-be")
    return [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('{"a": 1}'.encode("utf-16"), "not_utf8"),
        ('{"a": 1}'.encode("utf-16-le") + b"\xff", "not_utf8"),
        (b'"\xed\xa0\x80"', "not_utf8"),
        (b'\xef\xbb\xbf{"a": 1}', "not_utf8"),
        ('{"a": 1}'.encode("utf-16-le"), "not_utf8"),
        ("[1]".encode("utf-32-be"), "not_utf8"),
        (b'{"a": NaN}', "bad_json"),
        (b"[-Infinity]", "bad_json"),
        (b'{"\\ud800": 1}', "bad_json"),
        (b'["\\uDFFF\\uD800"]', "bad_json"),
        (b"[" * 200_000, "bad_json"),
        (b"9" * 5_000, "bad_json"),
    ],
)
def test_what_other_readers_read_otherwise_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_json(body)
    assert refused.value.reason == reason


@pytest.mark.parametrize("body", [b"", b"{} {}", b"{'a': 1}", b"[1,]", b"+1", b"01"])
def test_what_is_no_json_is_told_as_such(body: bytes) -> None:
    with pytest.raises(json.JSONDecodeError):
        read_json(body)


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert read_json(b'"\\ud83d\\ude00"') == "\U0001f600"
