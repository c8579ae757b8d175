"""Finds the cloud of the edge that runs here, and asks it about galleries.

A running edge publishes its settings for the cloud in its folder: an address, paths and time limits, and no secret.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import ValidationError

from edge_service.cloud.client import CloudClient
from edge_service.settings import CloudSettings, EdgeSettings
from shared.errors import SetupError, UpstreamFailed, UpstreamUnavailable
from shared.logs import get_logger
from shared.metrics import Metrics
from shared.security.secret_files import read_secret, write_secret
from shared.urls import service_url
from shared.wire.common import GalleryInfo

_log = get_logger(__name__)
_SETTING = "PATRONUS_EDGE__CLOUD__URL"
# Galleries a page: the most that the cloud allows.
_PAGE: Final = 500
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class FoundCloud:
    """Settings for the cloud; ``found`` says where its address comes from."""

    settings: CloudSettings
    found: str


@contextlib.contextmanager
def published(settings: EdgeSettings) -> Iterator[None]:
    """Keeps the edge's address and its settings for the cloud in its folder while it runs.

    There the command line on this machine finds them. Logs it if the folder cannot be written.
    """
    cloud = settings.cloud
    files = {name: path for name in ("api_key_file", "ca", "certificate", "key") if (path := getattr(cloud, name))}
    absolute = cloud.model_copy(update={name: path.absolute() for name, path in files.items()})
    address = service_url(settings.host, settings.port, tls=settings.tls.certificate is not None)
    contents = {
        settings.address_file: f"{address}\n".encode(),
        settings.cloud_connection_file: absolute.model_dump_json().encode(),
    }
    try:
        for path, content in contents.items():
            write_secret(path, content, replace=True)
    except SetupError as error:
        _log.warning("connection_not_published", why=error.detail)
    try:
        yield
    finally:
        for path, content in contents.items():
            with contextlib.suppress(OSError, SetupError):
                if read_secret(path) == content:  # else another edge's, which may go on
                    path.unlink()


def find_cloud(settings: EdgeSettings) -> FoundCloud:
    """The cloud that the environment names, else the one of the edge that runs here, else the default.

    Raises:
        SetupError: the environment's settings contradict those that the edge published.
    """
    given = settings.cloud.model_dump(include=settings.cloud.model_fields_set)
    published = None if "url" in given else _published(settings)
    if published is None:
        return FoundCloud(settings.cloud, f"set by {_SETTING}" if "url" in given else "the default")
    try:
        merged = CloudSettings(**(published.model_dump() | given))
    except ValidationError as error:
        raise SetupError(
            f"The settings PATRONUS_EDGE__CLOUD__* do not go with {published.url}, where the running edge reaches "
            f"the cloud: {error.errors(include_input=False)[0]['msg']}. Set {_SETTING} too."
        ) from None
    return FoundCloud(merged, "where the edge that runs here reaches it")


def ask(cloud: FoundCloud, question: Callable[[CloudClient], Awaitable[Answer]], otherwise: str = "") -> Answer:
    """Asks the cloud one thing.

    Args:
        cloud: where it is.
        question: what to call.
        otherwise: what else the user can do where the cloud does not answer, as the end of a sentence.

    Raises:
        NotFound: there is no such gallery.
        SetupError: the API key for the cloud, or a file for TLS, is missing or wrong.
        UpstreamUnavailable: the cloud does not answer; names the address and the setting.
        UpstreamFailed: the cloud refuses the API key, or something else answers.
    """

    async def answered() -> Answer:
        client = CloudClient(cloud.settings, Metrics("edge"))
        try:
            return await question(client)
        finally:
            await client.close()

    try:
        return asyncio.run(answered())
    except UpstreamUnavailable as error:
        why = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
        raise UpstreamUnavailable(
            f"No cloud answers at {cloud.settings.url} ({cloud.found}).{why} Start it, or name its address with "
            f"{_SETTING}{otherwise}."
        ) from None
    except UpstreamFailed as error:
        raise UpstreamFailed(f"{error.detail} It was asked at {cloud.settings.url} ({cloud.found}).") from None


async def all_galleries(cloud: CloudClient) -> list[GalleryInfo]:
    """All galleries that the edge's API key for the cloud is valid for, sorted by name.

    The cloud leaves out galleries whose row in its record is damaged.
    """
    page = await cloud.galleries(_PAGE, None)
    found = page.items
    while page.next is not None:
        page = await cloud.galleries(_PAGE, page.next)
        found += page.items
    return found


def _published(settings: EdgeSettings) -> CloudSettings | None:
    try:
        return CloudSettings.model_validate_json(read_secret(settings.cloud_connection_file))
    except (FileNotFoundError, ValidationError):  # no edge runs here, or one of another version
        return None
