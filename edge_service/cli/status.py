"""Shows whether edge and cloud can be reached and are ready."""

from __future__ import annotations

from typing import Any

from edge_service.cli.session import Session
from shared.errors import PatronusError, ServiceUnreachable
from shared.home import patronus_version


def show_status(session: Session) -> bool:
    """Asks the edge, and its cloud where the edge runs on this machine, and prints what they are.

    Returns:
        Whether both are ready.

    Raises:
        PatronusError: the edge refuses the API key, or something else answers there.
    """
    edge = _edge(session)
    cloud = _cloud(session, edge)
    found = {"edge": edge, "cloud": cloud}
    ready = bool(edge["ready"] and cloud["ready"])
    own = patronus_version()
    lines = [status_line(name, one) for name, one in found.items()]
    session.out.result({"ready": ready, "version": own, **found}, "\n".join(lines))
    versions = {"this command": own, "the edge": edge["version"], "the cloud": cloud["version"]}
    if len(set(versions.values()) - {None}) > 1:
        named = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
        session.out.warn(f"The versions differ: {named}. Install the same.")
    return ready


def _edge(session: Session) -> dict[str, Any]:
    client = session.client
    try:
        readiness, info = client.get_readiness(), client.get_info()
    except ServiceUnreachable as error:
        absent: dict[str, Any] = {"version": None, "profile": None, "embedder": None, "checks": {}}
        return {"url": client.url, "reachable": False, "ready": False, **absent, "detail": error.detail}
    # Whether the cloud is there is the cloud's own line.
    ready = all(holds for name, holds in readiness.checks.items() if name != "cloud")
    return {
        "url": client.url,
        "reachable": True,
        "ready": ready,
        "version": info.version,
        "profile": info.profile.name,
        "embedder": info.embedder.name,
        "checks": readiness.checks,
    }


def _cloud(session: Session, edge: dict[str, Any]) -> dict[str, Any]:
    """The cloud as the edge sees it. Its address and version are known only where the edge runs."""
    seen = edge["checks"].get("cloud")
    found = {"url": None, "reachable": seen, "ready": seen, "version": None}
    if not edge["reachable"] or not session.is_of_this_machine:
        return found
    from edge_service.cli.cloud_lookup import ask, find_cloud
    from edge_service.settings import EdgeSettings
    from shared.service_settings import load_settings

    try:
        cloud = find_cloud(load_settings(EdgeSettings))
        found["url"] = cloud.settings.url
        return found | {"reachable": True, "version": ask(cloud, lambda client: client.info()).version}
    except PatronusError as error:
        return found | {"detail": error.detail}


def status_line(name: str, found: dict[str, Any]) -> str:
    """What a service is, in one line."""
    if found["ready"] is None:
        state = "not known, since the edge does not answer"
    elif found["ready"]:
        state = "ready"
    elif found["reachable"]:
        failing = [check for check, holds in found.get("checks", {}).items() if not holds and check != "cloud"]
        state = ": ".join(["not ready", *([", ".join(failing)] if failing else [])])
    else:
        state = found.get("detail", "does not answer the edge, or is not ready").removesuffix(".")
    known = [f"{member} {found[member]}" for member in ("version", "profile") if found.get(member) is not None]
    address = [found["url"]] if found["url"] is not None and found["url"] not in state else []
    return "; ".join([f"{name}: {state}", *address, *known])
