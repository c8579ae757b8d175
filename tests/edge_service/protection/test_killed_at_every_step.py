"""A change of a key folder that is killed at any step has happened or has not, and leaves nothing behind."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge_service.protection.keys import GalleryKey, KeyStore
from shared.contract import SealPin
from shared.errors import Conflict
from shared.security.credentials import Scope
from shared.security.key_ring import KeyRing
from shared.security.secret_files import read_secret

GALLERIES = ("door", "roof", "cellar")
EPOCH = "0" * 16
KILLED = 77
STEPS = range(1, 60)  # more than any change takes
CHANGES = {"os.rename", "os.remove", "os.link", "os.mkdir", "os.rmdir"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def exit_status(work: Callable[[], object], step: int) -> int:
    """Does it in a process that dies, as by SIGKILL, when it is about to take this step in the file system."""
    process = os.fork()
    if process == 0:
        left = itertools.count(step, -1)

        def die(event: str, arguments: tuple[Any, ...]) -> None:
            changes = event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITES)
            if changes and next(left) == 1:
                os._exit(KILLED)

        sys.addaudithook(die)
        try:
            work()
        except BaseException:  # a forked test must not go on in pytest
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def files(folder: Path) -> set[str]:
    """The names of the files, without empty locks, and without keys of picture ids, which outlive every change."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    ids = {name for name in found if Path(name).parent.name == "picture_ids"}
    assert {Path(name).name for name in ids} <= {"roof.key"}
    return {name for name in found - ids if not name.endswith(".lock")}


@dataclass
class Opened:
    """What a key folder opens, as the next program finds it."""

    newest: dict[str, GalleryKey]
    seals: frozenset[str]
    files: set[str]
    picture_ids: dict[str, bytes]


class World:
    """Every gallery key that there is in a test, and the folders that it starts from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.roof, self.roof_again, self.roof_third = (KeyStore(folder / f"o{n}").gallery("roof") for n in range(3))
        self.cellar = KeyStore(folder / "o0").gallery("cellar")
        self.seals: dict[str, tuple[str, SealPin]] = {}
        for key in (self.roof, self.roof_again, self.roof_third, self.cellar):
            self._know(key)

        self.plain = folder / "plain"
        plain = KeyStore(self.plain)
        plain.put(self.roof)
        plain.put(self.cellar)
        self.renewed = shutil.copytree(self.plain, folder / "renewed")
        KeyStore(self.renewed).renew()
        self.aside = shutil.copytree(self.plain, folder / "aside")
        KeyStore(self.aside).put(self.roof_again, replace=True)
        for home in (self.plain, self.renewed, self.aside):
            store = KeyStore(home)
            for name in GALLERIES:
                self._know(store.gallery(name))

    def _know(self, key: GalleryKey) -> None:
        pin = key.seal_pin(EPOCH, "gallery")
        self.seals[pin.key_id] = (key.gallery, pin)

    def opened(self, folder: Path) -> Opened:
        store = KeyStore(folder)
        newest = {name: store.gallery(name) for name in GALLERIES}
        opens = frozenset(name for name, (gallery, pin) in self.seals.items() if store.named_by(gallery, pin))
        ids = {name: key.picture_ids() for name, key in newest.items()}
        return Opened(newest, opens, files(folder), ids)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("keys"))


STARTS: dict[str, tuple[str, Callable[[World, Path], object]]] = {
    "renew": ("plain", lambda world, home: KeyStore(home).renew()),
    "forget after renew": ("renewed", lambda world, home: KeyStore(home).forget()),
    "forget after import --replace": ("aside", lambda world, home: KeyStore(home).forget()),
    "import again": ("renewed", lambda world, home: KeyStore(home).put(world.roof)),
    "import --replace": ("plain", lambda world, home: KeyStore(home).put(world.roof_again, replace=True)),
    "import --replace after it": ("aside", lambda world, home: KeyStore(home).put(world.roof_third, replace=True)),
}


# One that replaces keys, and one that destroys them; the others take as long again, each.
FAST = {"renew", "forget after renew"}
SLOW = pytest.mark.slow(reason="the same at each step of further changes: up to 8 s each")


@pytest.mark.parametrize("change", [pytest.param(name, marks=() if name in FAST else SLOW) for name in STARTS])
def test_every_gallery_key_opens_as_before_or_as_after_and_can_be_renewed(
    world: World, change: str, tmp_path: Path
) -> None:
    start, work = STARTS[change]
    before = world.opened(shutil.copytree(getattr(world, start), tmp_path / "before"))
    whole = shutil.copytree(getattr(world, start), tmp_path / "whole")
    work(world, whole)
    after = world.opened(whole)
    for step in STEPS:
        home = shutil.copytree(getattr(world, start), tmp_path / f"killed at {step}")
        status = exit_status(lambda home=home: work(world, home), step)  # type: ignore[misc]
        if status == 0:
            break
        assert status == KILLED
        found = world.opened(home)
        assert found.seals in (before.seals, after.seals), step
        assert found.files in (before.files, after.files), step
        if "renew" not in change:  # which draws another key each time
            assert found.newest in (before.newest, after.newest), step
            assert found.picture_ids in (before.picture_ids, after.picture_ids), step
            assert change == "import again" or before.picture_ids == after.picture_ids
        _assert_it_can_be_renewed_and_forgotten(home)
    assert step > 3


def _assert_it_can_be_renewed_and_forgotten(home: Path) -> None:
    store = KeyStore(home)
    now = {name: store.gallery(name) for name in GALLERIES}
    try:
        store.renew()
    except Conflict:
        assert store.has_old_keys()
        store.forget()
        store.renew()
    store = KeyStore(home)
    for name, key in now.items():
        assert store.named_by(name, key.seal_pin(EPOCH, "gallery")) == key
        assert store.gallery(name) != key
    assert store.has_old_keys()
    store.forget()
    store = KeyStore(home)
    assert all(store.named_by(name, key.seal_pin(EPOCH, "gallery")) is None for name, key in now.items())
    assert files(home) == {"master.key"}


def test_a_first_start_that_was_killed_is_begun_again(tmp_path: Path) -> None:
    for step in STEPS:
        home = tmp_path / f"killed at {step}" / "edge"
        status = exit_status(lambda home=home: KeyStore(home), step)  # type: ignore[misc]
        made = (home / "master.key").read_bytes() if (home / "master.key").exists() else None
        KeyStore(home)
        assert files(home) == {"master.key"}
        assert made in (None, (home / "master.key").read_bytes())
        if status == 0:
            break
    assert step > 3


def _first(ring: KeyRing) -> None:
    ring.ensure_first_key(ring.path.with_name("api_key"))


@pytest.mark.parametrize("change", ["first", "add", "add to a file", "revoke"])
def test_api_keys_are_those_of_before_or_after(change: str, tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir(mode=0o700)
    if change != "first":
        _first(KeyRing(start / "api_keys.json"))
    for step in STEPS:
        home = shutil.copytree(start, tmp_path / f"killed at {step}")
        ring = KeyRing(home / "api_keys.json")
        first = [] if change == "first" else ring.records()
        out = tmp_path / f"out {step}"
        work: dict[str, Callable[[], object]] = {
            "first": lambda ring=ring: _first(ring),  # type: ignore[misc]
            "add": lambda ring=ring: ring.add("door", [Scope.MATCH], None),  # type: ignore[misc]
            "add to a file": lambda ring=ring, out=out: ring.add(  # type: ignore[misc]
                "door", [Scope.MATCH], None, shown_in=out
            ),
            "revoke": lambda ring=ring, first=first: ring.revoke(first[0].id),  # type: ignore[misc]
        }
        status = exit_status(work[change], step)
        ring = KeyRing(home / "api_keys.json")
        _first(ring)  # the next start
        assert files(home) == {"api_key", "api_keys.json"}
        kept = ring.check(read_secret(home / "api_key").decode().strip())
        if change != "revoke":
            assert kept is not None, "nobody is locked out"
        if out.exists() and len(ring.records()) == 2:
            assert ring.check(read_secret(out).decode().strip()), "whoever has a key in the list can use it"
        assert change != "add to a file" or out.exists() or len(ring.records()) == 1
        if status == 0:
            break
    assert step > 3
