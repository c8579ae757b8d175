"""Runs an edge and a cloud on this machine, in the foreground, until Ctrl-C. What ``make run`` starts."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_service.settings import EdgeSettings


def main() -> None:
    """Runs the pair; the exit status is 0 after Ctrl-C, and 1 after an error."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started this with SIGINT ignored
        # The handler only sets a flag: an exception could interrupt an import, or the code that stops the services.
        signal.signal(number, lambda *_: stop.set())
    # Loading takes a second, in which a signal must be noticed already.
    from shared.command import run

    with contextlib.suppress(KeyboardInterrupt):
        run(lambda: _serve_until(stop.is_set))


def _serve_until(stop_requested: Callable[[], bool]) -> None:
    """Runs both services until one ends or a stop is requested. Both have ended when this returns.

    Raises:
        SetupError: a setting is wrong, or a service did not start, or ended by itself.
        KeyboardInterrupt: a stop was requested.
    """
    from cloud_service.settings import Settings as CloudSettings
    from edge_service.settings import EdgeSettings
    from shared.errors import SetupError
    from shared.processes.pair import Pair, free_port
    from shared.service_settings import load_settings
    from shared.urls import service_url

    cloud = load_settings(CloudSettings)
    edge = load_settings(EdgeSettings)
    if cloud.tls.certificate or edge.tls.certificate:
        raise SetupError("This starts both services without TLS; to use TLS, start each service by itself.")
    port = cloud.port or free_port()  # the edge and this process must know which one the cloud takes
    cloud_url, edge_url = service_url(cloud.host, port), service_url(edge.host, edge.port)
    pair = Pair(stop_requested)
    try:
        pair.start("cloud", "cloud_service", cloud_url, {"PATRONUS_CLOUD__PORT": str(port)})
        environment = {
            "PATRONUS_EDGE__CLOUD__URL": cloud_url,
            "PATRONUS_EDGE__CLOUD__API_KEY_FILE": str(cloud.first_key_file),
        }
        pair.start("edge", "edge_service", edge_url, environment)
        print(_welcome(edge_url, edge.first_key_file) + _console(edge_url, edge), flush=True)
        pair.wait()
    finally:
        pair.stop()


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


def _console(edge_url: str, edge: EdgeSettings) -> str:
    if not edge.console:
        return ""
    from edge_service.console.sign_in_codes import SignInCodes, sign_in_link

    link = sign_in_link(edge_url, SignInCodes(edge.sign_in_file))
    return f"""
The console, signed in (this link works once, within ten minutes; `patronus edge sign-in` makes another):

  {link}
"""


if __name__ == "__main__":
    main()
