"""Runs an edge and a cloud on this machine, in the foreground, until Ctrl-C. What ``make run`` starts."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path

from cloud_service.settings import Settings as CloudSettings
from edge_service.settings import EdgeSettings
from lab.pair import Pair
from shared.errors import PatronusError, SetupError
from shared.service_settings import load_settings


def main() -> int:
    """Runs the pair; the exit status is 0 after Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started this with SIGINT ignored
        signal.signal(number, signal.default_int_handler)
    pair = Pair()
    try:
        cloud = load_settings(CloudSettings)
        edge = load_settings(EdgeSettings)
        if cloud.tls.certificate or edge.tls.certificate:
            raise SetupError("This starts both services here, without TLS; with it, start each by itself.")
        cloud_url = f"http://{cloud.host}:{cloud.port}"
        pair.start("cloud", "cloud_service", cloud_url, {})
        environment = {
            "PATRONUS_EDGE__CLOUD__URL": cloud_url,
            "PATRONUS_EDGE__CLOUD__API_KEY_FILE": str(cloud.first_key_file),
        }
        edge_url = f"http://{edge.host}:{edge.port}"
        pair.start("edge", "edge_service", edge_url, environment)
        print(_welcome(edge_url, edge.first_key_file), flush=True)  # noqa: T201
        pair.wait()
    except PatronusError as error:
        print(error.detail, file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        pair.stop()
    return 1


def _welcome(edge_url: str, key_file: Path) -> str:
    patronus = Path(sys.executable).with_name("patronus")
    with contextlib.suppress(ValueError):
        patronus = patronus.relative_to(Path.cwd())
    pictures = "tests/pictures"
    return f"""
Patronus is running. The edge is at {edge_url}; Ctrl-C stops both services.

A first call, in another terminal, in this folder:

  {patronus} gallery create staff
  {patronus} enroll staff obama {pictures}/obama/portrait.jpg
  {patronus} verify staff obama {pictures}/obama/speech.jpg
  {patronus} identify staff {pictures}/obama/speech.jpg

The same with curl:

  KEY=$(cat {key_file})
  GALLERY={edge_url}/v1/galleries/staff
  curl -H "Authorization: Bearer $KEY" -X PUT $GALLERY
  curl -H "Authorization: Bearer $KEY" -F image=@{pictures}/obama/portrait.jpg $GALLERY/subjects/obama/faces
  curl -H "Authorization: Bearer $KEY" -F image=@{pictures}/obama/speech.jpg $GALLERY/subjects/obama/verify
"""


if __name__ == "__main__":
    sys.exit(main())
