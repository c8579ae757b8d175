"""What the schema says of a subject's name is what the service takes."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.names import SUBJECT_NAME_PATTERN, is_subject_name

_ENDS = st.sampled_from(["", ".", "..", " ", "/", "\\", "\n", "\u2028", "\u00a0", "\ufffd", "a"])


@given(text=st.builds("".join, st.tuples(_ENDS, st.text(st.characters(exclude_categories=["Cs"]), max_size=6), _ENDS)))
@example(text="a" * 128)
@example(text="a" * 129)
def test_the_pattern_of_the_schema_takes_what_the_service_takes(text: str) -> None:
    name = unicodedata.normalize("NFC", text)
    assert bool(re.search(SUBJECT_NAME_PATTERN, name)) == is_subject_name(name)


@pytest.mark.parametrize("name", ["Ada Lovelace", "Ærøskøbing", "李小龍", "محمد", "a.b", ".hidden", "👩‍🚀", "~x"])
def test_names_of_every_script_fit_the_pattern(name: str) -> None:
    assert re.search(SUBJECT_NAME_PATTERN, name)
    assert is_subject_name(name)
