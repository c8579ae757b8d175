"""deploy/requirements lists all that the services install, on every supported system, with digests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path

import pytest
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "requirements"
LIBRARY_ONLY = frozenset((FOLDER / "library-only.in").read_text().partition("\n\n")[2].split())
EXTRAS = {
    "edge": ("edge",),
    "cloud": ("cloud", "postgresql"),
    "milvus": ("cloud", "postgresql", "milvus"),
    "models": ("models",),
}
# What a plain installation brings, and the cloud and the converter of models run without.
WITHOUT = {name: frozenset() if name == "edge" else LIBRARY_ONLY for name in EXTRAS}
SYSTEMS = [
    {"sys_platform": platform, "platform_system": system, "platform_machine": machine}
    for platform, system, machines in (
        ("linux", "Linux", ("x86_64", "aarch64")),
        ("darwin", "Darwin", ("arm64", "x86_64")),
    )
    for machine in machines
]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
Locked = dict[str, tuple[str, Marker | None, list[str]]]


def locked(name: str) -> Locked:
    """By package: its version, the systems that it is for (None: all), and the digests of its files."""
    entries = (FOLDER / f"{name}.txt").read_text().replace("\\\n", " ").split("\n")
    found = {}
    for entry in entries:
        if not entry or entry.startswith("#"):
            continue
        what, *digests = re.split(r"\s+--hash=", entry)
        requirement = Requirement(what)
        (pin,) = requirement.specifier
        assert pin.operator == "=="
        found[canonicalize_name(requirement.name)] = (pin.version, requirement.marker, digests)
    return found


@pytest.mark.parametrize("name", [*EXTRAS, "tools"])
def test_every_package_has_one_version_and_digests(name: str) -> None:
    packages = locked(name)
    assert packages
    for _, _, digests in packages.values():
        assert digests
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest.strip()) for digest in digests)


@pytest.mark.parametrize("name", EXTRAS)
def test_nothing_that_is_needed_on_any_supported_system_is_missing(name: str) -> None:
    packages = locked(name)
    for environment in _environments():
        here = {name for name, (_, marker, _) in packages.items() if marker is None or marker.evaluate(environment)}
        needed = set(_needed("patronus-face", EXTRAS[name], environment, set(WITHOUT[name])))
        assert needed <= here, (environment["python_version"], environment["platform_machine"])


def test_the_versions_are_those_that_are_tested_here() -> None:
    tested = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().split("\n") if line and line[0] != "#"
    )
    constraints = {canonicalize_name(name): pin for name, pin in tested.items()}
    for name in EXTRAS:
        for package, (pin, _, _) in locked(name).items():
            assert constraints.get(package, pin) == pin
    for package, (pin, marker, _) in locked("edge").items():
        if marker is None:
            assert version(package) == pin


def _environments() -> Iterator[dict[str, str]]:
    here = {name: str(value) for name, value in default_environment().items()}
    for python in PYTHONS:
        for system in SYSTEMS:
            yield here | system | {"os_name": "posix", "python_version": python, "python_full_version": f"{python}.0"}


def _needed(package: str, extras: tuple[str, ...], environment: dict[str, str], seen: set[str]) -> Iterator[str]:
    """All that a package needs in an environment, by the metadata of what is installed here."""
    for text in requires(package) or ():
        requirement = Requirement(text)
        asked = ("", *extras)
        if requirement.marker and not any(requirement.marker.evaluate(environment | {"extra": one}) for one in asked):
            continue
        name = canonicalize_name(requirement.name)
        key = f"{name}[{','.join(sorted(requirement.extras))}]"
        if key in seen or name in seen:
            continue
        seen.add(key)
        if name != "patronus-face":
            yield name
        yield from _needed(name, tuple(requirement.extras), environment, seen)
