"""The two services of ``make run``: started one after the other, watched, and ended in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cloud_service.settings import Settings as CloudSettings
from deploy.pair import Pair, free_port
from edge_service.settings import EdgeSettings
from shared.errors import SetupError
from shared.service_settings import load_settings
from shared.urls import service_url


def serve_until(asked_to_end: Callable[[], bool], ready: Callable[[str, Path], object]) -> None:
    """Runs both until one of them ends, or this process is asked to.

    Whatever ends this, both have ended when it returns: each is asked to, the edge first, and killed after 15 s.

    Args:
        asked_to_end: whether both are to be ended now; asked several times a second.
        ready: called with the edge's address and the file of its API key when both are ready.

    Raises:
        SetupError: a setting is wrong, or a service did not start, or ended by itself.
        KeyboardInterrupt: this process was asked to end.
    """
    cloud = load_settings(CloudSettings)
    edge = load_settings(EdgeSettings)
    if cloud.tls.certificate or edge.tls.certificate:
        raise SetupError("This starts both services here, without TLS; with it, start each by itself.")
    port = cloud.port or free_port()  # the edge and this process must know which one the cloud takes
    cloud_url, edge_url = service_url(cloud.host, port), service_url(edge.host, edge.port)
    pair = Pair(asked_to_end)
    try:
        pair.start("cloud", "cloud_service", cloud_url, {"PATRONUS_CLOUD__PORT": str(port)})
        environment = {
            "PATRONUS_EDGE__CLOUD__URL": cloud_url,
            "PATRONUS_EDGE__CLOUD__API_KEY_FILE": str(cloud.first_key_file),
        }
        pair.start("edge", "edge_service", edge_url, environment)
        ready(edge_url, edge.first_key_file)
        pair.wait()
    finally:
        pair.stop()
