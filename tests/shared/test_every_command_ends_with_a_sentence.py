"""Whatever goes wrong around a command of ``patronus``: one sentence on standard error, status 1, no traceback."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from edge_service.protection.keys import KeyStore
from shared.command import build
from shared.processes.pair import free_port
from shared.security.key_ring import KeyRing
from tests.support.forked_commands import ForkedCommands

# What each is called with; {} is a folder of files that may be read.
COMMANDS: dict[str, list[str]] = {
    "cloud audit find": ["mine", "ada"],
    "cloud audit verify": [],
    "cloud backup": ["{}/new/backup"],
    "cloud check": [],
    "cloud erasures apply": ["{}/erasures.json"],
    "cloud erasures export": ["{}/new/erasures"],
    "cloud init": ["--api-key-out", "{}/new/key"],
    "cloud keys create": ["--label", "x", "--scope", "match"],
    "cloud keys list": [],
    "cloud keys revoke": ["ID"],
    "cloud restore": ["{}/record.db", "--force"],
    "cloud serve": [],
    "compare": ["{}/picture.jpg", "{}/picture.jpg"],
    "detect": ["{}/picture.jpg"],
    "edge keys create": ["--label", "x", "--scope", "match"],
    "edge keys list": [],
    "edge keys revoke": ["ID"],
    "edge serve": [],
    "edge sign-in": [],
    "enroll": ["mine", "ada", "{}/picture.jpg"],
    "gallery create": ["mine"],
    "gallery delete": ["mine", "--yes"],
    "gallery duplicates": ["mine"],
    "gallery erasure": ["mine", "1"],
    "gallery list": [],
    "gallery rekey": ["mine"],
    "gallery retention": ["mine", "--forever"],
    "gallery score": ["mine", "mean"],
    "gallery threshold": ["mine", "--threshold", "0.5", "--fmr", "0.001"],
    "gallery show": ["mine"],
    "identify": ["mine", "{}/picture.jpg"],
    "keys export": ["--unchecked", "mine", "{}/new/export", "--passphrase-file", "{}/passphrase"],
    "keys fingerprint": ["mine"],
    "keys forget": ["--yes"],
    "keys import": ["--unchecked", "{}/imported", "--passphrase-file", "{}/passphrase"],
    "keys list": [],
    "keys renew": ["--yes"],
    "migrate": ["mine", "{}/embeddings.npz"],
    "models add": ["{}/embedder.onnx"],
    "models fetch": [],
    "models list": [],
    "protect": ["{}/embeddings.npz", "{}/new/out.npz", "--gallery", "mine"],
    "status": [],
    "subject delete": ["mine", "ada", "--yes"],
    "subject expiry": ["mine", "ada", "--never"],
    "subject list": ["mine"],
    "subject merge": ["mine", "ada", "bob", "--yes"],
    "subject move": ["mine", "ada", "0" * 32, "bob"],
    "subject rename": ["mine", "ada", "bob"],
    "subject report": ["mine", "ada", "--out", "{}/new/report.json"],
    "subject show": ["mine", "ada"],
    "verify": ["mine", "ada", "{}/picture.jpg"],
}
KEEPS_RUNNING = {"edge serve", "cloud serve"}
# They change something on the disk, whatever is there before.
WRITES = {
    "cloud backup",
    "cloud init",
    "cloud keys create",
    "cloud keys revoke",
    "edge keys create",
    "edge keys revoke",
    "edge sign-in",
    "keys export",
    "keys import",
    "keys renew",
}
# They show what is in a key file.
SHOWS = {"cloud keys create", "cloud keys list", "edge keys create", "edge keys list", "keys fingerprint", "keys renew"}


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    for name, below in getattr(command, "commands", {}).items():
        yield from leaves(below, (*path, name))
    if not hasattr(command, "commands"):
        yield " ".join(path)


def test_no_command_is_forgotten_here() -> None:
    found = set(leaves(typer.main.get_command(build())))
    # The lab's take neither keys nor settings, and start by loading torch; tests/lab has their refusals.
    assert {name for name in found if not name.startswith("lab ")} == set(COMMANDS)


def damage(home: Path) -> None:
    for file in home.rglob("*"):
        if file.is_file():
            file.write_bytes(b"\xff\x00 damaged " * 100)


def make_a_file_of_it(home: Path) -> None:
    shutil.rmtree(home)
    home.write_text("")


def nothing(_home: Path) -> None:
    pass


def lock(home: Path) -> None:
    if os.geteuid() != 0:  # root lets the command run as nobody instead
        home.chmod(0)


CIRCUMSTANCES: dict[str, tuple[Callable[[Path], None], dict[str, str]]] = {
    "unreadable home": (lock, {}),
    "a home that is a file": (make_a_file_of_it, {}),
    "full disk": (nothing, {}),
    "damaged files": (damage, {}),
    "closed pipe": (nothing, {}),
    "full output": (nothing, {}),
    "wrong setting": (nothing, {"PATRONUS_EDGE__PORT": "many", "PATRONUS_CLOUD__PORT": "many"}),
    "setting that is no JSON": (nothing, {"PATRONUS_EDGE__WORK": "{", "PATRONUS_CLOUD__WORK": "{"}),
}
# Verbs of a client go the same way to an edge that is away, and read no setting and no key but the first API key.
CLIENT = {"compare", "detect", "enroll", "identify", "migrate", "status", "verify"} | {
    name for name in COMMANDS if name.startswith(("gallery", "subj"))
}
MUST_FAIL = {
    "unreadable home": WRITES | SHOWS | KEEPS_RUNNING,
    "a home that is a file": WRITES | SHOWS | KEEPS_RUNNING,
    "full disk": WRITES,
    "damaged files": SHOWS | KEEPS_RUNNING | {"cloud audit verify", "cloud backup"},
    "closed pipe": SHOWS,
    "full output": SHOWS,
    "wrong setting": WRITES | SHOWS | KEEPS_RUNNING,
    "setting that is no JSON": KEEPS_RUNNING | {"cloud keys list", "keys renew"},
}


def is_tried(command: str, circumstance: str) -> bool:
    if command in KEEPS_RUNNING and command not in MUST_FAIL[circumstance]:
        return False
    if command in CLIENT:
        return circumstance in {"unreadable home", "damaged files"}
    if circumstance in {"unreadable home", "full disk", "damaged files", "closed pipe"}:
        return True
    return command in MUST_FAIL[circumstance]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with keys and a record, and files that commands take."""
    from edge_service.protection.key_transfer import wrap

    folder = tmp_path_factory.mktemp("files")
    home = folder / "home"
    KeyStore(home / "edge").put(KeyStore(folder / "other").gallery("roof"))
    for service in ("edge", "cloud"):
        KeyRing(home / service / "api_keys.json").ensure_first_key(home / service / "api_key")
    code = "import sys; from cloud_service.settings import Settings; from cloud_service.bootstrap import open_store"
    code += "; from shared.metrics import Metrics; open_store(Settings(), Metrics('cloud'), None).close()"
    environment = os.environ | {"PATRONUS_HOME": str(home)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)
    shutil.copy(home / "cloud" / "record.db", folder / "record.db")
    (folder / "passphrase").write_text("correct horse battery")
    (folder / "imported").write_text(wrap(KeyStore(folder / "other").gallery("mine"), "correct horse battery"))
    (folder / "passphrase").chmod(0o600)
    (folder / "picture.jpg").write_bytes(b"")
    (folder / "embedder.onnx").write_bytes(b"")
    rows = np.eye(3, 128, dtype=np.float32)
    np.savez(folder / "embeddings.npz", embeddings=rows, subjects=np.array(["a", "b", "c"]))
    return folder


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkedCommands]:
    running = ForkedCommands()
    yield running
    running.close()


# The others take as long, each, or longer.
FAST = {"full output", "a home that is a file"}
SLOW = pytest.mark.slow(reason="forks each command once more, under a circumstance much like the fast ones")


@pytest.mark.parametrize(
    "circumstance", [pytest.param(name, marks=[] if name in FAST else SLOW) for name in CIRCUMSTANCES]
)
def test_every_command_ends_with_a_sentence(
    circumstance: str, files: Path, forks: ForkedCommands, tmp_path: Path, models_folder: Path
) -> None:
    away = f"http://127.0.0.1:{free_port()}"
    spoil, settings = CIRCUMSTANCES[circumstance]
    wrong = []
    for number, (command, arguments) in enumerate(COMMANDS.items()):
        if not is_tried(command, circumstance):
            continue
        own = tmp_path / str(number)
        shutil.copytree(files, own)
        (own / "new").mkdir()
        given = [word.replace("{}", str(own)) for word in arguments]
        if "ID" in given:
            given = [KeyRing(own / "home" / command.split()[0] / "api_keys.json").records()[0].id]
        environment = {
            "PATRONUS_HOME": str(own / "home"),
            "PATRONUS_MODELS": str(models_folder),
            "PATRONUS_EDGE_URL": away,
            "PATRONUS_EDGE__CLOUD__URL": away,
            "PATRONUS_EDGE__CLOUD__ATTEMPTS": "1",
            "PATRONUS_EDGE__PORT": str(free_port()),
            "PATRONUS_CLOUD__PORT": str(free_port()),
        }
        spoil(own / "home")
        ended = forks.run([*command.split(), *given], environment | settings, circumstance)
        if (why := why_wrong(command, circumstance, ended)) is not None:
            wrong.append((command, why, ended))
    assert wrong == []


def why_wrong(command: str, circumstance: str, ended: dict[str, Any]) -> str | None:
    status = ended["status"]
    # A service logs beside what it says, one JSON object a line.
    lines = [line for line in ended["err"].splitlines() if line.strip() and not line.startswith('{"service"')]
    if (command, circumstance, status) == ("keys import", "unreadable home", 2):
        return None  # the file that is to be imported cannot be read: wrong usage
    if status not in {0, 1}:
        return "its status"
    if command in MUST_FAIL[circumstance] and status == 0:
        return "it did not fail"
    if "Traceback" in ended["err"] + ended["out"]:
        return "a traceback"
    if status == 1 and len(lines) != 1:
        return "not one sentence"
    return None
