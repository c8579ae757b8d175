"""Guarantees of docker-compose.yml and the Dockerfiles, checked without a Docker engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cloud_service.settings import Settings as CloudSettings
from edge_service.settings import EdgeSettings
from shared.service_settings import load_settings
from tests.deploy.compose_reader import read_compose
from tests.support.certificates import make_certificates

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("secrets", "cloud", "edge")
DOCKERFILES = {"edge": "cloud_service", "cloud": "edge_service"}  # and whose code must not be in it


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return read_compose((ROOT / "docker-compose.yml").read_text())


def _volumes(service: dict[str, Any]) -> dict[str, str]:
    return {volume.split(":")[0]: volume.partition(":")[2] for volume in service["volumes"]}


def test_there_are_these_services_and_no_others(compose: dict[str, Any]) -> None:
    assert tuple(compose["services"]) == SERVICES


def test_the_file_is_of_the_specification_that_both_composes_read(compose: dict[str, Any]) -> None:
    assert "version" not in compose


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["read_only"] == "true"
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] == "true"
    assert service["ulimits"] == {"core": "0"}
    assert int(service["pids_limit"]) <= 256
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])
    (tmp,) = service["tmpfs"]
    assert {"noexec", "nosuid", "nodev", "size=16m"} <= set(tmp.partition(":")[2].split(","))
    assert not {"privileged", "cap_add", "devices", "user", "pid", "ipc", "env_file"} & set(service)


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_may_swap_what_it_holds_to_a_disk(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["memswap_limit"] == service["mem_limit"]


def test_only_the_edge_is_published_and_only_on_loopback_by_default(compose: dict[str, Any]) -> None:
    assert [name for name in SERVICES if {"ports", "expose"} & set(compose["services"][name])] == ["edge"]
    assert compose["services"]["edge"]["ports"] == ["${PATRONUS_BIND:-127.0.0.1}:${PATRONUS_PORT:-8000}:8000"]


def test_the_cloud_is_on_a_network_without_a_way_out(compose: dict[str, Any]) -> None:
    assert compose["services"]["cloud"]["networks"] == ["inside"]
    assert compose["networks"]["inside"]["internal"] == "true"
    assert compose["services"]["edge"]["networks"] == ["inside", "front"]
    assert compose["services"]["secrets"]["network_mode"] == "none"


def test_each_service_sees_only_its_own_volumes(compose: dict[str, Any]) -> None:
    assert set(compose["volumes"]) == {"edge-keys", "edge-embedders", "cloud-key", "cloud-data"}
    assert _volumes(compose["services"]["edge"]) == {
        "edge-keys": "/var/lib/patronus/edge",
        "cloud-key": "/var/lib/patronus/cloud-key:ro",
        "edge-embedders": "/var/lib/patronus/embedders",
    }
    assert set(_volumes(compose["services"]["cloud"])) == {"cloud-data"}
    assert set(_volumes(compose["services"]["secrets"])) == {"cloud-data", "cloud-key"}


def test_services_start_in_their_order(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["cloud"]["depends_on"] == {"secrets": {"condition": "service_completed_successfully"}}
    assert services["edge"]["depends_on"] == {"cloud": {"condition": "service_healthy"}}
    assert services["secrets"]["restart"] == "no"
    assert services["cloud"]["restart"] == services["edge"]["restart"] == "unless-stopped"


def test_no_secret_stands_in_the_file_and_none_has_to_be_set(compose: dict[str, Any]) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    assert all(":-" in variable for variable in re.findall(r"(?<!\$)\$\{([^}]*)\}", text))
    for service in compose["services"].values():
        for name, value in (service.get("environment") or {}).items():
            secret = re.search("KEY|SECRET|PASSWORD|TOKEN", name)
            assert not secret or value.startswith("/var/lib/patronus/"), name


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile_ends_in_an_image_that_is_not_root_and_stops_on_sigterm(name: str) -> None:
    final = _stages(name)[-1]
    users = [line for line in final if line.startswith("USER ")]
    assert users == ["USER 10001:10001"]
    after = final[final.index(users[0]) :]
    assert not [line for line in after if line.startswith(("RUN", "COPY", "ADD"))]
    assert "STOPSIGNAL SIGTERM" in after
    (entry,) = (line for line in after if line.startswith("ENTRYPOINT "))
    assert json.loads(entry.removeprefix("ENTRYPOINT ")) == ["python", "-m", f"{name}_service"]
    (health,) = (line for line in after if line.startswith("HEALTHCHECK "))
    compile(json.loads(health.partition(" CMD ")[2])[2], "the health check", "exec")


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile_holds_neither_torch_nor_the_other_service(name: str) -> None:
    instructions = "\n".join(line for stage in _stages(name) for line in stage)
    assert "torch" not in instructions
    assert DOCKERFILES[name] not in instructions
    assert not [line for line in _stages(name)[-1] if " install " in line and "install -d" not in line]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_a_dockerfile_builds_with_every_builder_and_names_no_index(name: str) -> None:
    stages = _stages(name)
    instructions = "\n".join(line for stage in stages for line in stage)
    assert not re.search(r"--mount|<<|https?://|^ADD ", instructions, re.MULTILINE)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_the_base_image_can_be_named_by_its_digest(name: str) -> None:
    before, *stages = _stages(name)
    assert before == ["ARG PYTHON_IMAGE=python:3.11-slim-bookworm"]
    names = {stage[0].rpartition(" AS ")[2] for stage in stages}
    assert all(stage[0].split()[1] in {"${PYTHON_IMAGE}", *names} for stage in stages)


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_installs_only_wheels_whose_digests_are_known(name: str) -> None:
    commands = [command for stage in _stages(name) for line in stage for command in line.split(" && ")]
    installs = [command for command in commands if "/tools/bin/pip" in command]
    assert len(installs) >= 4
    for command in installs:
        from_locks = "--require-hashes" in command and "--only-binary :all:" in command and "requirements/" in command
        # The project itself, which no index serves: its wheel is built and installed without packages of others.
        assert from_locks or "--no-deps" in command, command


def test_the_builder_is_sent_only_what_the_images_are_made_from() -> None:
    lines = (ROOT / ".dockerignore").read_text().split("\n")
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {rule for rule in rules if rule.startswith("!")} == {
        f"!{name}"
        for name in (
            "pyproject.toml",
            "LICENSE",
            "shared",
            "edge_service",
            "cloud_service",
            "deploy/models.json",
            "deploy/requirements",
        )
    }


@pytest.mark.parametrize("files", [["docker-compose.yml"], ["docker-compose.yml", "deploy/compose.tls.yml"]])
def test_compose_accepts_the_files(tmp_path: Path, files: list[str]) -> None:
    command = next((command for command in (["docker", "compose"], ["docker-compose"]) if _answers(command)), None)
    if command is None:
        pytest.skip("Compose is not installed here")
    nothing = tmp_path / "env"
    nothing.touch()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PATRONUS_")}
    named = [part for file in files for part in ("-f", str(ROOT / file))]
    done = subprocess.run(
        [*command, "--env-file", str(nothing), *named, "config", "--quiet"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_overlay_for_tls_names_settings_and_mounts_their_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay = read_compose((ROOT / "deploy/compose.tls.yml").read_text())["services"]
    made = {path.name for path in make_certificates(tmp_path / "tls").iterdir()}
    for service in overlay.values():
        for name, value in service["environment"].items():
            monkeypatch.setenv(name, value)
    own, line = load_settings(CloudSettings).tls, load_settings(EdgeSettings).cloud
    named = {"cloud": (own.certificate, own.key, own.client_ca), "edge": (line.certificate, line.key, line.ca)}
    for name, files in named.items():
        volumes = [volume.rsplit(":", 2) for volume in overlay[name]["volumes"]]
        assert {inside for _, inside, _ in volumes} == set(map(str, files))
        assert {mode for *_, mode in volumes} == {"ro"}
        sources = {Path(outside).name for outside, *_ in volumes}
        assert sources < made - {"ca.key"}
    assert line.url == "https://cloud:8001"


def _answers(command: list[str]) -> bool:
    if not shutil.which(command[0]):
        return False
    return subprocess.run([*command, "version"], capture_output=True, timeout=60, check=False).returncode == 0


def _stages(name: str) -> list[list[str]]:
    """The instructions before the first stage and those of each stage, one a line, without comments."""
    text = (ROOT / "deploy" / f"{name}.Dockerfile").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    stages: list[list[str]] = []
    for line in filter(None, (re.sub(r"\s+", " ", line).strip() for line in text.split("\n"))):
        if line.startswith("FROM ") or not stages:
            stages.append([])
        stages[-1].append(line)
    return stages
