"""Settings come from the environment, and a wrong one stops the start with a sentence that names it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from fastapi import FastAPI
from pydantic_settings import SettingsConfigDict

from shared.errors import SetupError
from shared.http.serving import serve
from shared.service_settings import ServiceSettings, load_settings


class Settings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="PATRONUS_TRIED__")

    home: Path = Path("nowhere")
    port: int = 1


def test_the_environment_is_read_and_the_command_line_goes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATRONUS_TRIED__PORT", "5")
    assert load_settings(Settings).port == 5
    assert load_settings(Settings, port=7).port == 7
    assert load_settings(Settings, port=None).port == 5


def test_a_wrong_value_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATRONUS_TRIED__PORT", "secret-word")
    with pytest.raises(SetupError, match="PATRONUS_TRIED__PORT") as told:
        load_settings(Settings)
    assert "secret-word" not in told.value.detail


@pytest.mark.parametrize("name", ["PATRONUS_TRIED__PROT", "PATRONUS_TRIED__PROT__DEEP", "patronus_tried__prot"])
def test_a_misspelt_setting_is_not_passed_over(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "5")
    with pytest.raises(SetupError, match=name) as told:
        load_settings(Settings)
    known = "HOME, HOST, PORT, LOG_LEVEL, RATES__…, TLS__…"
    assert f"did you mean PATRONUS_TRIED__PORT? Behind PATRONUS_TRIED__ may stand: {known}." in told.value.detail


def test_a_misspelt_setting_of_a_group_is_told_like_one_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATRONUS_TRIED__TLS__CERTIFICAT", "5")
    with pytest.raises(SetupError) as told:
        load_settings(Settings)
    assert told.value.detail == (
        "A setting is wrong: there is no setting PATRONUS_TRIED__TLS__CERTIFICAT; did you mean "
        "PATRONUS_TRIED__TLS__CERTIFICATE? Behind PATRONUS_TRIED__TLS__ may stand: CERTIFICATE, KEY, CLIENT_CA."
    )


def test_a_sentence_of_ours_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATRONUS_TRIED__HOST", "[::1]")
    with pytest.raises(SetupError, match="PATRONUS_TRIED__HOST: not a host name"):
        load_settings(Settings)


def test_a_port_that_is_taken_is_told_with_the_setting_that_mends_it(log_as_before: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupError, match="PATRONUS_EDGE__PORT"):
            serve("edge", FastAPI(), Settings(port=port, log_level="error"))
