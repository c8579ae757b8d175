"""The page is served with a strict policy; a one-time code signs one browser in, once, for half a day."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from edge_service.console import browser_keys, sign_in_codes
from edge_service.console.sign_in_codes import SignInCodes
from shared.security.credentials import Scope
from shared.security.key_ring import KeyRing
from tests.support.cloud_client import assert_problem
from tests.support.edge import Edge, Pair
from tests.support.forked_commands import ForkedCommands

FORBIDDEN = ("unsafe-inline", "unsafe-eval", "http:", "https:", "*")


@pytest.fixture(scope="module")
def console(models_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    with Pair(tmp_path_factory.mktemp("console")) as pair:
        yield pair.edge()


def code_of(edge: Edge) -> str:
    return SignInCodes(edge.settings.sign_in_file).make()


def sign_in(edge: Edge, code: object) -> httpx.Response:
    return edge.call("POST", "/console/sign-in", {"Authorization": ""}, json={"code": code})


def printed_by(edge: Edge, *command: str, **environment: str) -> dict[str, Any]:
    """What a command of ``patronus`` beside an edge prints, and how it ends."""
    with contextlib.closing(ForkedCommands()) as commands:
        return commands.run([*command], {"PATRONUS_EDGE__HOME": str(edge.settings.home), **environment})


def clocks(monkeypatch: pytest.MonkeyPatch, module: object, *, day: float = 0, process: float = 0) -> None:
    """Sets the clocks that a module reads on by some seconds."""
    later = SimpleNamespace(time=lambda: time.time() + day, monotonic=lambda: time.monotonic() + process)
    monkeypatch.setattr(module, "time", later)


def test_the_page_and_its_files_need_no_key_and_may_load_nothing_from_elsewhere(console: Edge) -> None:
    for path in ("/", "/console/index.html"):
        for method in ("GET", "HEAD"):
            answer = console.call(method, path, {"Authorization": ""})
            assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
            policy = answer.headers["content-security-policy"]
            assert policy.startswith("default-src 'self';")
            assert not any(word in policy for word in FORBIDDEN)
            assert answer.headers["referrer-policy"] == "no-referrer"
            assert answer.headers["permissions-policy"] == "camera=(self)"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-request-id"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "none.js",
        "%2e%2e/pages.py",
        "%2e%2e/%2e%2e/app.py",
        "..%2f..%2fprotection/profiles/seal/profile.json",
        "/etc/passwd.js",
        "a%00.js",
        "x" * 3000 + ".js",
        "../browser_keys.py",
    ],
)
def test_no_file_but_those_of_the_page_is_served(console: Edge, path: str) -> None:
    assert_problem(console.call("GET", f"/console/{path}"), 404, "not-found")


def test_the_page_is_not_in_the_openapi_document(console: Edge) -> None:
    assert not any(path == "/" or path.startswith("/console") for path in console.app.openapi()["paths"])


def test_a_setting_turns_the_console_off(console: Edge) -> None:
    off = console.pair.edge("off", console=False)
    for path in ("/", "/console/index.html"):
        assert_problem(off.call("GET", path), 404, "not-found")
    assert_problem(sign_in(off, code_of(off)), 404, "not-found")
    refused = printed_by(off, "edge", "sign-in", PATRONUS_EDGE__CONSOLE="false")
    assert refused["status"] == 1
    assert "PATRONUS_EDGE__CONSOLE=true" in refused["err"]


def test_a_code_gives_a_key_with_every_scope_for_half_a_day_once(console: Edge) -> None:
    code = code_of(console)
    signed_in = sign_in(console, code)
    assert signed_in.status_code == 200, signed_in.text
    left = datetime.fromisoformat(signed_in.json()["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=11, minutes=59) < left <= timedelta(hours=12)
    key = {"Authorization": f"Bearer {signed_in.json()['api_key']}"}
    assert console.call("PUT", "/v1/galleries/of-a-browser", key).status_code == 201
    assert console.call("DELETE", "/v1/galleries/of-a-browser", key).status_code == 200
    answer = sign_in(console, code)
    assert_problem(answer, 401, "unauthenticated")
    assert answer.json()["reason"] == "code_not_valid"


def test_neither_the_code_nor_the_key_is_kept_in_a_file(console: Edge) -> None:
    unused, used = code_of(console), code_of(console)
    key = sign_in(console, used).json()["api_key"]
    content = b"".join(path.read_bytes() for path in console.settings.home.rglob("*") if path.is_file())
    assert not any(secret.encode() in content for secret in (unused, used, key, key.rpartition("_")[2]))
    assert console.settings.sign_in_file.stat().st_mode & 0o777 == 0o600


def test_of_many_that_use_a_code_at_once_one_gets_a_key(console: Edge) -> None:
    codes = SignInCodes(console.settings.sign_in_file)
    code = codes.make()
    with ThreadPoolExecutor(8) as threads:
        used = list(threads.map(lambda _: SignInCodes(codes.path).use(code), range(16)))
    assert used.count(True) == 1


def test_codes_that_are_made_at_once_are_all_valid(console: Edge) -> None:
    codes = SignInCodes(console.settings.sign_in_file)
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda _: codes.make(), range(8)))
    assert [codes.use(code) for code in made] == [True] * 8


@pytest.mark.parametrize("code", ["", "x" * 43, "x" * 201, "é" * 43, "../" * 14 + "a", None, 7, ["x" * 43], "a\0b"])
def test_a_wrong_code_gives_nothing(console: Edge, code: object) -> None:
    assert sign_in(console, code).status_code in {401, 422}


@pytest.mark.parametrize("seconds", [601, -3600])
def test_a_code_is_over_after_ten_minutes_and_when_the_clock_was_set_back(
    console: Edge, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    code = code_of(console)
    clocks(monkeypatch, sign_in_codes, day=seconds)
    assert_problem(sign_in(console, code), 401, "unauthenticated")


def test_a_damaged_file_of_codes_is_replaced_by_the_next_code(console: Edge) -> None:
    code_of(console)
    for damaged in (b"", b"{", b'{"codes": [{"digest": 7}]}'):
        console.settings.sign_in_file.write_bytes(damaged)
        assert_problem(sign_in(console, "x" * 43), 401, "unauthenticated")
        assert sign_in(console, code_of(console)).status_code == 200


def test_a_key_of_a_browser_ends_after_half_a_day_by_a_clock_that_nobody_sets(
    console: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = {"Authorization": f"Bearer {sign_in(console, code_of(console)).json()['api_key']}"}
    clocks(monkeypatch, browser_keys, process=12 * 3600 - 5)
    assert console.call("GET", "/v1/info", key).status_code == 200
    clocks(monkeypatch, browser_keys, process=12 * 3600 + 1)
    assert_problem(console.call("GET", "/v1/info", key), 401, "unauthenticated")


def test_a_browser_that_signs_out_ends_its_key_and_no_other(console: Edge) -> None:
    one, other = ({"Authorization": f"Bearer {sign_in(console, code_of(console)).json()['api_key']}"} for _ in range(2))
    assert console.call("POST", "/console/sign-out", one).status_code == 204
    assert_problem(console.call("GET", "/v1/key", one), 401, "unauthenticated")
    assert_problem(console.call("POST", "/console/sign-out", one), 401, "unauthenticated")
    assert console.call("GET", "/v1/key", other).status_code == 200


@pytest.mark.parametrize("header", ["", "Bearer", "Basic eDp5", "Bearer patronus_0_0"])
def test_nobody_else_is_signed_out(console: Edge, header: str) -> None:
    assert_problem(console.call("POST", "/console/sign-out", {"Authorization": header}), 401, "unauthenticated")
    answer = console.call("POST", "/console/sign-out")
    assert_problem(answer, 403, "forbidden")
    assert answer.json()["reason"] == "not_of_a_browser"
    assert console.call("GET", "/v1/key").status_code == 200


def test_a_key_that_manages_all_galleries_ends_a_browsers_key_and_no_other(console: Edge) -> None:
    ring = console.app.state.key_ring
    key, browser = ring.sign_in()
    _, of_the_file = ring.add("door", [Scope.MATCH], None, None)
    where = f"/console/sign-out/{browser.record.id}"
    for scopes, galleries in (([Scope.MANAGE], ["door"]), ([Scope.MATCH, Scope.ENROLL], None)):
        assert_problem(console.call("POST", where, console.key(*scopes, galleries=galleries)), 403, "forbidden")
    assert_problem(console.call("POST", where, {"Authorization": ""}), 401, "unauthenticated")
    assert ring.check(key) is not None
    assert console.call("POST", where, console.key(Scope.MANAGE)).status_code == 204
    assert ring.check(key) is None
    for unknown in (browser.record.id, of_the_file.id, "..", "%00"):
        answer = console.call("POST", f"/console/sign-out/{unknown}", console.key(Scope.MANAGE))
        assert answer.status_code in {404, 405}, unknown
    assert [record.revoked_at for record in ring.records() if record.id == of_the_file.id] == [None]


def test_keys_of_browsers_end_with_the_edge_and_are_in_no_file(console: Edge) -> None:
    key = sign_in(console, code_of(console)).json()["api_key"]
    assert console.app.state.key_ring.check(key) is not None
    assert KeyRing(console.settings.keys_file).check(key) is None


def test_of_many_browsers_the_oldest_key_ends(console: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser_keys, "_MOST_KEYS", 2)
    keys = [sign_in(console, code_of(console)).json()["api_key"] for _ in range(3)]
    assert [console.app.state.key_ring.check(key) is not None for key in keys] == [False, True, True]


def test_the_command_prints_a_link_that_signs_in_behind_any_address(console: Edge) -> None:
    for options, address in (((), "http://127.0.0.1:8000"), (("--url", "https://desk.example/faces/"), None)):
        printed = printed_by(console, "edge", "sign-in", *options)
        assert printed["status"] == 0, printed["err"]
        link, code = printed["out"].strip().split("#sign-in=")
        assert link == f"{address or 'https://desk.example/faces'}/"
        assert sign_in(console, code).status_code == 200
