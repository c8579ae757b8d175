"""The folder of an operator's own embedders, when two commands write to it at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_service.models.own_folder import own_embedders, write_embedder
from shared.errors import SetupError


def test_of_two_that_add_at_once_the_same_files_are_no_conflict(tmp_path: Path) -> None:
    write_embedder(tmp_path, "mine", b"a network", b"{}")
    write_embedder(tmp_path, "mine", b"a network", b"{}")
    with pytest.raises(SetupError, match="There is another embedder mine"):
        write_embedder(tmp_path, "mine", b"a network", b"{ }")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert [found.state for found in own_embedders(tmp_path)] == ["ready"]
