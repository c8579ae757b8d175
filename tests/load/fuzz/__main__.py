"""``make fuzz``: checks both running services against their OpenAPI documents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import httpx
import numpy as np
import torch
import typer

from edge_service.models.manifest import load_manifest
from edge_service.protection.profiles.decoder import write_decoder
from edge_service.settings import EdgeSettings
from lab.defence.decoders import build
from lab.export.decoder_export import decoder_file
from shared.command import run
from shared.contract import Contract
from shared.envelope import TemplateEnvelope
from shared.errors import SetupError
from shared.processes.pair import Pair, free_port
from shared.security.secret_files import read_secret

_HERE: Final = Path(__file__).parent
_PICTURE: Final = _HERE.parents[2] / "tests" / "pictures" / "obama" / "portrait.jpg"
# More than a run erases, most of which is aimed at somebody who is there.
_PEOPLE: Final = 64
_SPARE: Final = 4
# Pictures take a hundred times as long as templates.
_SHARE_OF_THE_CLOUD: Final = 1 / 3
# What schemathesis does besides, above what its time limit counts: loading, shrinking a failure, reporting.
_BESIDES_SECONDS: Final = 300
_DIM: Final = 16
_EDGE_DIM: Final = 128
app = typer.Typer()


class Service(StrEnum):
    """What can be tried."""

    CLOUD = "cloud"
    EDGE = "edge"


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """What came of it.

    Attributes:
        service: what was tried.
        requests: how many test cases.
        operations: how many operations of the document were tried, of how many.
        failures: what broke a promise, in words; empty: nothing.
    """

    service: str
    requests: int
    operations: tuple[int, int]
    failures: list[str]


@app.command()
def main(
    seconds: Annotated[int, typer.Option(min=10, help="Of all of it.")] = 600,
    seed: Annotated[int, typer.Option(help="The same one draws the same input.")] = 1,
    service: Annotated[list[Service] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the reports.")] = Path("bench-results/fuzz"),
) -> None:
    """Fuzz both services; the exit status is 1 where a promise was broken."""
    chosen = service or list(Service)
    shares = {Service.CLOUD: _SHARE_OF_THE_CLOUD, Service.EDGE: 1 - _SHARE_OF_THE_CLOUD}
    with services(chosen) as running:
        found = []
        for each in chosen:
            its_seconds = max(5, int(seconds * shares[each] / sum(shares[one] for one in chosen)))
            options = [f"--max-time={its_seconds}", f"--seed={seed}"]
            found.append(fuzzed(each, *running[each], out, options, within=its_seconds + _BESIDES_SECONDS))
    for result in found:
        typer.echo(json.dumps(asdict(result)))
    if any(result.failures for result in found):
        raise typer.Exit(1)


@contextmanager
def services(
    chosen: Sequence[Service], settings: dict[str, str] | None = None
) -> Iterator[dict[Service, tuple[str, str]]]:
    """A cloud, and before it an edge where that is wanted, as processes of their own with keys and data of their own.

    Args:
        chosen: which of them; the edge needs the face models.
        settings: further ones, as environment variables.

    Yields:
        the address and an API key of each.

    Raises:
        SetupError: a service did not start.
    """
    ports = {each: free_port() for each in Service}
    urls = {each: f"http://127.0.0.1:{port}" for each, port in ports.items()}
    pair = Pair()
    with tempfile.TemporaryDirectory() as home:
        environment = {
            "PATRONUS_HOME": home,
            "PATRONUS_EDGE__CLOUD__URL": urls[Service.CLOUD],
            "PATRONUS_EDGE__PROFILES": str(_with_a_decoder(Path(home) / "profiles")),
            **{f"PATRONUS_{each.upper()}__PORT": str(port) for each, port in ports.items()},
            **{f"PATRONUS_{each.upper()}__LOG_LEVEL": "error" for each in Service},
            **(settings or {}),
        }
        try:
            for each in Service:
                if each is Service.CLOUD or each in chosen:
                    pair.start(each, f"{each}_service", urls[each], environment)
            yield {each: (urls[each], read_secret(Path(home) / each / "api_key").decode().strip()) for each in chosen}
        finally:
            pair.stop()


def _with_a_decoder(profiles: Path) -> Path:
    """A folder of profiles with a decoder of random weights: what it rebuilds is no face, but it is asked."""
    embedder = load_manifest().for_role("face-embedder").converted.sha256
    with torch.random.fork_rng():
        torch.manual_seed(0)
        decoder = build("upsampling", _EDGE_DIM).eval().requires_grad_(requires_grad=False)
    found = decoder_file("upsampling", decoder, _EDGE_DIM, embedder)
    write_decoder(profiles, EdgeSettings().profile, found, replace=False)
    return profiles


def fuzzed(service: Service, url: str, key: str, out: Path, options: Sequence[str], within: float) -> Fuzzed:
    """Runs schemathesis on a service.

    Args:
        service: whose checks.
        url: where it runs.
        key: an API key with all scopes.
        out: folder for the report, and for the log, in which each failure stands with what was sent and answered.
        options: further ones of ``schemathesis run``: how much, from which seed.
        within: seconds after which it is stopped.

    Raises:
        SetupError: schemathesis did not run to its end.
    """
    out.mkdir(parents=True, exist_ok=True)
    report, log = (out / f"{service}.json").resolve(), out / f"{service}.log"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(_HERE / f"{service}.toml")]
    command += ["run", f"{url}/openapi.json", *options]
    command += ["--no-color", "--report", "json", "--report-json-path", str(report)]
    contract = _standing(service, url, key)
    people = _standing_people(service, url, key, contract)
    environment = {
        "PATRONUS_FUZZ_KEY": key,
        "PATRONUS_FUZZ_GALLERY": f"standing-{service}",
        "PATRONUS_FUZZ_SPARE": " ".join(_spare(service)),
        "PATRONUS_FUZZ_CONTRACT": contract.digest(),
        "PATRONUS_FUZZ_DIM": str(contract.dim),
        "PATRONUS_FUZZ_SUBJECTS": json.dumps(people),
        "PYTHONPATH": str(_HERE.parents[2]),
    }
    with log.open("wb") as output:
        ended = subprocess.run(
            command, env=os.environ | environment, cwd=out, stdout=output, stderr=output, timeout=within, check=False
        )
    result = json.loads(report.read_text()) if report.exists() else {}
    if not result.get("complete"):
        raise SetupError(f"schemathesis did not run to its end; see {log}.")
    failures = [
        f"{group['title']}: {', '.join(group.get('operations', []))}"
        for group in (*result["failures"], *result["errors"])
    ]
    if ended.returncode and not failures:
        failures = [f"schemathesis ended with status {ended.returncode}; see {log}"]
    operations = result["operations"]
    return Fuzzed(service, result["test_cases"]["generated"], (operations["tested"], operations["total"]), failures)


def _standing(service: Service, url: str, key: str) -> Contract:
    """Creates two galleries, in one of which people may expire, and some to be erased; returns a contract."""
    spec = {
        "contract": {
            "dim": _DIM,
            "embedder": {"name": "fuzz", "sha256": "0" * 64, "preprocessing": "none"},
            "profile": {"name": "fuzz", "version": 1, "sha256": "0" * 64},
            "seal": None,
        },
        "threshold": {"cosine": 0.5, "fmr": 0.001},
    }
    for name in (f"aging-standing-{service}", *_spare(service), f"standing-{service}"):
        made = httpx.put(
            f"{url}/v1/galleries/{name}",
            headers={"Authorization": f"Bearer {key}"},
            json=spec if service is Service.CLOUD else {},
            trust_env=False,
        ).raise_for_status()
    return Contract.model_validate(made.json()["contract"])


def _spare(service: Service) -> list[str]:
    """Names of galleries to be erased: few of the galleries that schemathesis erases were made before."""
    return [f"spare-{number}-{service}" for number in range(_SPARE)]


def _standing_people(service: Service, url: str, key: str, contract: Contract) -> dict[str, list[str]]:
    """Enrolls some people to be erased: few of the requests that schemathesis draws enroll anybody."""
    found = {}
    for number in range(_PEOPLE):
        subject, vector = f"standing-{number}", np.eye(contract.dim, dtype=np.float32)[number % contract.dim]
        envelope = TemplateEnvelope.pack(vector, contract.digest()).model_dump()
        what: dict[str, Any] = {"json": {"templates": [{"id": f"{number:032x}", "template": envelope}]}}
        held = "templates"
        if service is Service.EDGE:
            what, held = {"files": {"image": _PICTURE.read_bytes()}}, "faces"
        path = f"{url}/v1/galleries/standing-{service}/subjects/{subject}/{held}"
        answer = httpx.post(path, headers={"Authorization": f"Bearer {key}"}, trust_env=False, **what)
        found[subject] = [stored["id"] for stored in answer.raise_for_status().json()[held]]
    return found


if __name__ == "__main__":
    run(app)
