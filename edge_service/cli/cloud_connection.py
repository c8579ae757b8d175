"""How commands beside a running edge reach the cloud that this edge speaks to.

While an edge runs, its folder holds its settings for the cloud: an address, paths and time limits, and no secret.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

from pydantic import ValidationError

from edge_service.cloud_client import CloudClient
from edge_service.settings import CloudSettings, EdgeSettings
from shared.errors import SetupError, UpstreamUnavailable
from shared.logs import get_logger
from shared.metrics import Metrics
from shared.security.secret_files import read_secret, write_secret
from shared.wire.common import GalleryInfo

_log = get_logger(__name__)
_SETTING = "PATRONUS_EDGE__CLOUD__URL"
# The most that the cloud puts on one page.
_PAGE: Final = 500
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class CloudLine:
    """Settings for the cloud, and in words where its address was found."""

    settings: CloudSettings
    found: str


@contextlib.contextmanager
def cloud_line_left(settings: EdgeSettings) -> Iterator[None]:
    """Leaves the settings for the cloud in the edge's folder while it runs. Serves on where that cannot be written."""
    cloud = settings.cloud
    files = {name: path for name in ("api_key_file", "ca", "certificate", "key") if (path := getattr(cloud, name))}
    absolute = cloud.model_copy(update={name: path.absolute() for name, path in files.items()})
    content = absolute.model_dump_json().encode()
    try:
        write_secret(settings.cloud_connection_file, content, replace=True)
    except SetupError as error:
        _log.warning("cloud_line_not_left", why=error.detail)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, SetupError):
            if read_secret(settings.cloud_connection_file) == content:  # else another edge's, which may go on
                settings.cloud_connection_file.unlink()


def find_cloud(settings: EdgeSettings) -> CloudLine:
    """The cloud that the environment names, else the one of the edge that runs here, else the default.

    Raises:
        SetupError: the settings of the environment do not go with the address that the edge left.
    """
    given = settings.cloud.model_dump(include=settings.cloud.model_fields_set)
    left = None if "url" in given else _left(settings)
    if left is None:
        return CloudLine(settings.cloud, f"set by {_SETTING}" if "url" in given else "the default")
    try:
        merged = CloudSettings(**(left.model_dump() | given))
    except ValidationError as error:
        raise SetupError(
            f"The settings PATRONUS_EDGE__CLOUD__* do not go with {left.url}, where the edge that runs here reaches "
            f"the cloud: {error.errors(include_input=False)[0]['msg']}. Set {_SETTING} too."
        ) from None
    return CloudLine(merged, "where the edge that runs here reaches it")


def ask_for_gallery(gallery: str, settings: EdgeSettings, otherwise: str = "") -> GalleryInfo:
    """What the cloud says of a gallery.

    Args:
        gallery: its name.
        settings: of this edge.
        otherwise: what else the caller can do where the cloud does not answer, for the end of a sentence.

    Raises:
        NotFound: there is no such gallery.
        SetupError: the API key for the cloud, or a file for TLS, is missing or wrong.
        UpstreamUnavailable: the cloud does not answer; names the address and the setting.
        UpstreamFailed: the cloud refuses the API key, or is not one.
    """
    return _asked(find_cloud(settings), lambda cloud: cloud.gallery(gallery), otherwise)


def ask_for_galleries(line: CloudLine) -> list[GalleryInfo]:
    """All galleries that this edge's API key for the cloud is for, in the order of their names.

    The cloud leaves out those whose row in its record is damaged.

    Raises:
        SetupError, UpstreamUnavailable, UpstreamFailed: as of ``ask_for_gallery``.
    """
    return _asked(line, _all_galleries, "")


async def _all_galleries(cloud: CloudClient) -> list[GalleryInfo]:
    page = await cloud.galleries(_PAGE, None)
    found = page.items
    while page.next is not None:
        page = await cloud.galleries(_PAGE, page.next)
        found += page.items
    return found


def _asked(line: CloudLine, question: Callable[[CloudClient], Awaitable[Found]], otherwise: str) -> Found:
    try:
        return asyncio.run(_answered(line.settings, question))
    except UpstreamUnavailable as error:
        why = "".join(f" {note}" for note in getattr(error, "__notes__", ()))
        raise UpstreamUnavailable(
            f"No cloud answers at {line.settings.url} ({line.found}).{why} Start it, or name its address with "
            f"{_SETTING}{otherwise}."
        ) from None


async def _answered(settings: CloudSettings, question: Callable[[CloudClient], Awaitable[Found]]) -> Found:
    client = CloudClient(settings, Metrics("edge"))
    try:
        return await question(client)
    finally:
        await client.close()


def _left(settings: EdgeSettings) -> CloudSettings | None:
    try:
        return CloudSettings.model_validate_json(read_secret(settings.cloud_connection_file))
    except (FileNotFoundError, ValidationError):  # no edge runs here, or one of another version
        return None
