"""The commands: keys are made, left in private files, listed and revoked; help is quick; mistakes are one sentence."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cloud_service.bootstrap import open_store
from cloud_service.cli import app
from cloud_service.settings import Settings
from shared.errors import NotFound, PatronusError, SetupError
from shared.metrics import Metrics
from shared.security.credentials import Scope
from shared.security.key_ring import KeyRing
from shared.service_settings import load_settings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATRONUS_HOME", str(tmp_path))
    return tmp_path / "cloud"


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    if result.exception:
        raise result.exception
    return result.output


def test_init_leaves_the_first_key_in_private_files_and_never_shows_it(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "edge" / "cloud_key"
    shown = run("init", "--api-key-out", out)
    key = (home / "api_key").read_text().strip()
    assert out.read_text().strip() == key
    assert out.stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    assert key not in shown
    assert KeyRing(home / "api_keys.json").check(key) is not None


def test_a_key_is_left_in_a_folder_that_is_there(home: Path, tmp_path: Path) -> None:
    run("init")
    with pytest.raises(SetupError, match="There is no folder"):
        run("keys", "create", "--label", "x", "--scope", "match", "--out", tmp_path / "disk" / "key")
    assert not (tmp_path / "disk").exists()
    assert len(KeyRing(home / "api_keys.json").records()) == 1


def test_init_is_harmless_when_repeated(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "cloud_key"
    run("init")
    run("init", "--api-key-out", out)
    before = out.read_text()
    (home / "api_key").unlink()
    run("init", "--api-key-out", out)
    assert out.read_text() == before
    assert len(KeyRing(home / "api_keys.json").records()) == 1


def test_init_replaces_a_copy_of_a_key_that_is_not_known_here(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "cloud_key"
    run("init", "--api-key-out", out)
    stale = out.read_text()
    (home / "api_keys.json").unlink()
    run("init", "--api-key-out", out)
    assert out.read_text() != stale
    assert out.read_text() == (home / "api_key").read_text()


def test_init_cannot_copy_a_first_key_that_is_gone(home: Path, tmp_path: Path) -> None:
    run("init")
    (home / "api_key").unlink()
    with pytest.raises(SetupError, match="keys create"):
        run("init", "--api-key-out", tmp_path / "cloud_key")


def test_keys_are_made_listed_and_revoked(home: Path) -> None:
    run("init")
    key = run("keys", "create", "--label", "door 3", "--scope", "match", "--scope", "enroll", "--gallery", "g").strip()
    record = KeyRing(home / "api_keys.json").check(key)
    assert record is not None
    assert record.scopes == {Scope.MATCH, Scope.ENROLL}
    assert record.galleries == {"g"}
    assert f"{record.id}  valid    enroll,match         g  door 3" in run("keys", "list")
    run("keys", "revoke", record.id)
    assert f"{record.id}  revoked" in run("keys", "list")
    assert KeyRing(home / "api_keys.json").check(key) is None
    with pytest.raises(NotFound):
        run("keys", "revoke", "0" * 12)


def test_a_key_may_have_a_rate_of_its_own(home: Path) -> None:
    run("init")
    made = ("keys", "create", "--label", "import", "--scope", "enroll")
    record = KeyRing(home / "api_keys.json").check(run(*made, "--rate", "50/second;20000/hour").strip())
    assert record is not None
    assert record.rate == "50/second;20000/hour"
    assert "import  (50/second;20000/hour)" in run("keys", "list")
    with pytest.raises(SystemExit):
        run(*made, "--rate", "fast")


def test_a_key_can_be_left_in_a_new_file_instead_of_shown(home: Path, tmp_path: Path) -> None:
    run("init")
    out = tmp_path / "key"
    shown = run("keys", "create", "--label", "x", "--scope", "match", "--out", out)
    assert out.read_text().strip() not in shown
    assert out.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SetupError, match="there already"):
        run("keys", "create", "--label", "x", "--scope", "match", "--out", out)
    assert len(KeyRing(home / "api_keys.json").records()) == 2


def _python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, cloud_service.cli; "
        "print(sorted({'alembic', 'fastapi', 'sqlalchemy', 'faiss', 'numpy', 'uvicorn'} & set(sys.modules)))"
    )
    assert _python("-c", code).stdout.strip() == "[]"


def test_a_wrong_setting_gives_one_sentence_without_its_value() -> None:
    answer = _python("-m", "cloud_service", "serve", PATRONUS_CLOUD__BODY__MAX_BYTES="a-secret")
    assert answer.returncode == 1
    assert "PATRONUS_CLOUD__BODY__MAX_BYTES" in answer.stderr
    assert "a-secret" not in answer.stderr
    assert "Traceback" not in answer.stderr


def test_settings_come_from_the_environment_and_the_command_line_goes_first(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Settings().home == home
    monkeypatch.setenv("PATRONUS_CLOUD__PORT", "9001")
    monkeypatch.setenv("PATRONUS_CLOUD__WORK__CONCURRENCY", "3")
    monkeypatch.setenv("PATRONUS_CLOUD__RECORD__URL", "sqlite:////elsewhere/r.db")
    assert (
        load_settings(Settings).port,
        load_settings(Settings, port=9002).port,
        load_settings(Settings, port=None).port,
    ) == (9001, 9002, 9001)
    assert load_settings(Settings).work.concurrency == 3
    assert load_settings(Settings).record_url == "sqlite:////elsewhere/r.db"
    assert "elsewhere" not in repr(load_settings(Settings))


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATRONUS_CLOUD__WORK__CONCURRENCY", "0")
    with pytest.raises(SetupError, match="PATRONUS_CLOUD__WORK__CONCURRENCY"):
        load_settings(Settings)


def test_a_setting_under_its_former_name_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATRONUS_CLOUD__MILVUS__KEEPS_HOURS", "5")
    with pytest.raises(SetupError, match=r"no setting PATRONUS_CLOUD__MILVUS__KEEPS_HOURS.*RETENTION_S"):
        load_settings(Settings)


# As Python reads the byte FF of a command line in UTF-8.
NOT_UTF8 = "\udcff"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["audit", "find", "door", NOT_UTF8], "The name of a subject is a text in UTF-8, and this one is not"),
        (["audit", "find", NOT_UTF8, "anna"], "a gallery's name is 1 to 64 letters"),
        (["backup", f"{{}}/{NOT_UTF8}"], "is a path that is not in UTF-8, which SQLite needs; choose another."),
        (["restore", f"{{}}/{NOT_UTF8}"], "There is no backup"),
        (["erasures", "apply", f"{{}}/{NOT_UTF8}"], "There is no list of erasures"),
        (["audit", "verify", "--head", NOT_UTF8], "A head is a number"),
        (["keys", "create", "--label", NOT_UTF8, "--scope", "match"], "a label is at most"),
        (["keys", "create", "--label", "x", "--scope", "match", "--gallery", NOT_UTF8], "a gallery's name is"),
        (["keys", "create", "--label", "x", "--scope", "match", "--rate", NOT_UTF8], "a rate is like"),
        (["keys", "revoke", NOT_UTF8], "There is no API key with this id"),
    ],
)
def test_a_word_that_is_not_in_utf8_is_refused_in_a_sentence(tmp_path: Path, words: list[str], says: str) -> None:
    run("init")
    open_store(load_settings(Settings), Metrics("cloud"), None).close()
    ended = CliRunner().invoke(app, [word.replace("{}", str(tmp_path)) for word in words])
    if ended.exit_code == 2:
        assert says in ended.stderr
    else:
        assert isinstance(ended.exception, PatronusError)
        assert says in ended.exception.detail
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cloud"]
