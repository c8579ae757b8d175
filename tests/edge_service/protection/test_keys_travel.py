"""A gallery's key travels from edge to edge under a passphrase."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from shared.command import build
from tests.support.cloud_client import assert_problem
from tests.support.edge import Pair, sample

PORTRAIT, SPEECH = sample("obama/portrait.jpg"), sample("obama/speech.jpg")


@pytest.mark.slow(reason="scrypt, several times")
@pytest.mark.usefixtures("models_folder")
def test_keys_travel_between_edges_under_a_passphrase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pair(tmp_path / "pair") as pair:
        first, second = pair.edge("first"), pair.edge("second")
        first.make("door")
        first.enroll("door", "obama", PORTRAIT)
        for refused in (second.call("PUT", "/v1/galleries/door"), second.verify("door", "obama", SPEECH)):
            body = assert_problem(refused, 409, "contract-mismatch")
            assert body["detail"].startswith("The gallery is under another key than this edge has for it; import the")
            assert "patronus keys import" in body["detail"]
            assert body["differing"] == ["seal"]
        assert [sent.url.path for sent in second.transport.requests if sent.method in {"POST", "PUT"}] == []

        passphrase, carried = pair.folder / "passphrase", pair.folder / "door.json"
        passphrase.write_text("correct horse battery\n")
        passphrase.chmod(0o600)
        for home, arguments in (
            ("first", ["export", "door", str(carried)]),
            ("second", ["import", str(carried)]),
        ):
            monkeypatch.setenv("PATRONUS_EDGE__HOME", str(pair.folder / home))
            words = ["keys", *arguments, "--unchecked", "--passphrase-file", str(passphrase)]
            ended = CliRunner().invoke(build(), words)
            assert ended.exit_code == 0, ended.output
        again = pair.edge("second")
        assert again.verify("door", "obama", SPEECH).json()["decision"] == "match"
