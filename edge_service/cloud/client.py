"""The only client of the cloud; it sends the models of ``shared.wire.cloud`` alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import stamina
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from edge_service.cloud.answers import AWAY, Answer, TryAgain, read, translated
from edge_service.cloud.recorder import current_recording
from edge_service.settings import CloudSettings
from shared.errors import (
    NotFound,
    SetupError,
    UpstreamUnavailable,
)
from shared.http.request_context import REQUEST_ID_HEADER, current_request_id
from shared.logs import get_logger
from shared.metrics import Metrics
from shared.security.secret_files import read_secret
from shared.security.tls import ENDED, client_context, why_refused
from shared.wire.cloud import (
    CONTRACT_HEADER,
    MAX_NAMES_A_PAGE,
    BulkEnrollAnswer,
    BulkEnrollRequest,
    ChangeGallery,
    CloudInfo,
    EnrollAnswer,
    EnrollRequest,
    GallerySpec,
    IdentifyAnswer,
    IdentifyRequest,
    MoveAnswer,
    MoveRequest,
    NamesPage,
    RekeyRequest,
    RekeyStatus,
    StoredDuplicates,
    StoredSubjectDetail,
    SubjectReport,
    VerifyRequest,
)
from shared.wire.common import (
    Erased,
    Erasure,
    Expiry,
    FindDuplicates,
    GalleryInfo,
    Page,
    Retention,
    VerifyAnswer,
)

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StoredSubjectPath:
    """Where a subject is at the cloud.

    Attributes:
        gallery: its name.
        name: the subject, as the cloud calls it: sealed, or plain in galleries made before names were sealed.
        contract: digest of the contract whose key the name is sealed under; the cloud refuses an outdated one.
    """

    gallery: str
    name: str
    contract: str

    @property
    def path(self) -> str:
        """Below the path of galleries."""
        return f"/{self.gallery}/subjects/{self.name}"


class _RecordingTransport(httpx.AsyncBaseTransport):
    """Notes each request as it leaves, where its caller asked for it: the last step before the network."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        recording = current_recording()
        if recording is None:
            return await self._transport.handle_async_request(request)
        body = await request.aread()
        sent = recording.note(request.method, request.url.raw_path, request.headers.raw, body)
        response = await self._transport.handle_async_request(request)
        if sent is not None:
            sent.answered = response.status_code
        return response

    async def aclose(self) -> None:
        await self._transport.aclose()


class CloudClient:
    """The cloud's REST interface, with timeouts, bounded retries, and errors of this edge.

    Args:
        settings: where the cloud is, timeouts, and attempts.
        metrics: where calls are timed.
        transport: instead of the network, in tests.

    Raises:
        SetupError: the API key's file, or one for TLS, is missing, wrong or readable by others.
    """

    def __init__(
        self, settings: CloudSettings, metrics: Metrics, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._attempts = settings.attempts
        self._metrics = metrics
        self._tls = settings.url.startswith("https:")
        self._http = httpx.AsyncClient(
            base_url=settings.url,
            headers={"Authorization": f"Bearer {_api_key(settings)}"},
            timeout=httpx.Timeout(settings.answer_timeout_s, connect=settings.connect_timeout_s),
            transport=_RecordingTransport(transport or _network(settings)),
            trust_env=False,  # a proxy named in the environment must not see templates
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def alive(self) -> bool:
        """Whether the cloud answers and says that it is ready."""
        try:
            return (await self._http.get("/readyz")).status_code == httpx.codes.OK
        except httpx.HTTPError as error:
            _logged_tls_failure(error)
            return False

    async def info(self) -> CloudInfo:
        """Versions and limits of the cloud."""
        return read(await self._call("GET", "/v1/info"), CloudInfo)

    async def put_gallery(self, gallery: str, spec: GallerySpec) -> tuple[GalleryInfo, bool]:
        """Creates a gallery, or finds it; says whether it was created now."""
        response = await self._call("PUT", f"/v1/galleries/{gallery}", spec)
        return read(response, GalleryInfo), response.status_code == httpx.codes.CREATED

    async def change_gallery(self, gallery: str, change: ChangeGallery) -> GalleryInfo:
        """Changes a gallery's threshold, or how its subjects are compared; safe to repeat."""
        return await self._answer(GalleryInfo, "PATCH", f"/{gallery}", change)

    async def gallery(self, gallery: str) -> GalleryInfo:
        """A gallery's contract and threshold."""
        return await self._answer(GalleryInfo, "GET", f"/{gallery}")

    async def find_gallery(self, gallery: str) -> GalleryInfo | None:
        """As ``gallery``; None if there is none."""
        try:
            return await self.gallery(gallery)
        except NotFound:
            return None

    async def galleries(self, limit: int, after: str | None) -> Page[GalleryInfo]:
        """A page of galleries."""
        return await self._answer(Page[GalleryInfo], "GET", "", params=_page(limit, after))

    async def names(self, gallery: str, contract: str, since: int | None, after: int | None) -> NamesPage:
        """A page of a gallery's subjects under a contract: all, or those that changed since a version of the list."""
        params = {"limit": str(MAX_NAMES_A_PAGE)}
        params |= {name: str(value) for name, value in (("since", since), ("after", after)) if value is not None}
        headers = {CONTRACT_HEADER: contract}
        response = await self._call("GET", f"/v1/galleries/{gallery}/names", params=params, headers=headers)
        return await run_in_threadpool(read, response, NamesPage)  # up to a megabyte of JSON

    async def subject(self, subject: StoredSubjectPath) -> StoredSubjectDetail:
        """A subject and its templates, without vectors."""
        return await self._of_subject(StoredSubjectDetail, "GET", subject)

    async def report(self, subject: StoredSubjectPath) -> SubjectReport:
        """All that the cloud holds about a subject."""
        return await self._of_subject(SubjectReport, "GET", subject, "/report")

    async def enroll(self, subject: StoredSubjectPath, request: EnrollRequest) -> EnrollAnswer:
        """Stores templates; safe to repeat, since the request names their ids."""
        return await self._of_subject(EnrollAnswer, "POST", subject, "/templates", request)

    async def enroll_many(self, gallery: str, request: BulkEnrollRequest) -> BulkEnrollAnswer:
        """Stores templates of many subjects; safe to repeat, since the request names their ids."""
        return await self._answer(BulkEnrollAnswer, "POST", f"/{gallery}/templates", request)

    async def move(self, subject: StoredSubjectPath, request: MoveRequest) -> MoveAnswer:
        """Gives templates of a subject another name. Not repeated by itself: it would report that nothing is there."""
        return await self._of_subject(MoveAnswer, "POST", subject, "/move", request, repeatable=False)

    async def expire(self, subject: StoredSubjectPath, expiry: Expiry | None) -> StoredSubjectDetail:
        """Sets when a subject expires; None: by its gallery's retention alone."""
        method = "DELETE" if expiry is None else "PUT"
        return await self._of_subject(StoredSubjectDetail, method, subject, "/expiry", expiry, repeatable=True)

    async def verify(self, subject: StoredSubjectPath, request: VerifyRequest) -> VerifyAnswer:
        """Compares a probe with a subject."""
        return await self._of_subject(VerifyAnswer, "POST", subject, "/verify", request)

    async def identify(self, gallery: str, request: IdentifyRequest) -> IdentifyAnswer:
        """Searches a gallery for probes."""
        return await self._answer(IdentifyAnswer, "POST", f"/{gallery}/identify", request)

    async def duplicates(self, gallery: str, contract: str, wanted: FindDuplicates) -> StoredDuplicates:
        """Subjects of a gallery under a contract that match each other."""
        headers = {CONTRACT_HEADER: contract}
        return await self._answer(StoredDuplicates, "POST", f"/{gallery}/duplicates", wanted, headers=headers)

    async def erase_gallery(self, gallery: str) -> Erased:
        """Erases a gallery with all of its subjects."""
        return await self._answer(Erased, "DELETE", f"/{gallery}", repeatable=False)

    async def erase(self, subject: StoredSubjectPath, template: str | None = None) -> Erased:
        """Erases a subject, or one template."""
        below = "" if template is None else f"/templates/{template}"
        return await self._of_subject(Erased, "DELETE", subject, below, repeatable=False)

    async def erasure(self, gallery: str, receipt: int) -> Erasure:
        """The progress of an erasure."""
        return await self._answer(Erasure, "GET", f"/{gallery}/erasures/{receipt}")

    async def keep(self, gallery: str, retention: Retention | None) -> GalleryInfo:
        """Sets how long a gallery keeps templates; None: until they are erased."""
        method = "DELETE" if retention is None else "PUT"
        return await self._answer(GalleryInfo, method, f"/{gallery}/retention", retention)

    async def rekey(self, gallery: str, request: RekeyRequest) -> RekeyStatus:
        """Changes a gallery's key; safe to repeat, since the request names the new contract."""
        return await self._answer(RekeyStatus, "POST", f"/{gallery}/rekey", request)

    async def rekey_status(self, gallery: str) -> RekeyStatus:
        """The progress of a change of a gallery's key."""
        return await self._answer(RekeyStatus, "GET", f"/{gallery}/rekey")

    async def abandon_rekey(self, gallery: str) -> RekeyStatus:
        """Cancels a change of a gallery's key."""
        return await self._answer(RekeyStatus, "DELETE", f"/{gallery}/rekey")

    async def _of_subject(
        self,
        model: type[Answer],
        method: str,
        subject: StoredSubjectPath,
        below: str = "",
        body: BaseModel | None = None,
        *,
        repeatable: bool = True,
    ) -> Answer:
        headers = {CONTRACT_HEADER: subject.contract}
        return await self._answer(model, method, subject.path + below, body, headers=headers, repeatable=repeatable)

    async def _answer(
        self, model: type[Answer], method: str, below_galleries: str, body: BaseModel | None = None, **options: Any
    ) -> Answer:
        return read(await self._call(method, f"/v1/galleries{below_galleries}", body, **options), model)

    async def _call(
        self,
        method: str,
        path: str,
        body: BaseModel | None = None,
        *,
        params: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        repeatable: bool = True,
    ) -> httpx.Response:
        content = None if body is None else body.model_dump_json().encode()
        headers = {REQUEST_ID_HEADER: current_request_id(), **(headers or {})}
        if content is not None:
            headers["Content-Type"] = "application/json"
        request = self._http.build_request(method, path, content=content, headers=headers, params=params)
        with self._metrics.step("cloud"):
            try:
                async for attempt in stamina.retry_context(
                    on=TryAgain, attempts=self._attempts, timeout=None, wait_initial=0.05, wait_max=0.5
                ):
                    with attempt:
                        return await self._once(request, repeatable=repeatable)
            except TryAgain as failure:
                _log.warning("cloud_call_failed", method=method, problem=failure.error.kind, why=failure.why)
                raise failure.error from None
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _once(self, request: httpx.Request, *, repeatable: bool) -> httpx.Response:
        try:
            response = await self._http.send(request)
        except httpx.HTTPError as failure:
            error, why = UpstreamUnavailable(AWAY), _logged_tls_failure(failure)
            if why is not None:  # no retry mends it; with TLS 1.3 the cloud's refusal comes after the handshake
                error.add_note(why)  # for the operator's command line
                raise error from None
            unsent = isinstance(failure, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
            if not (repeatable or unsent):  # it may be done: a retry would report that nothing was there
                raise error from None
            ended = isinstance(failure, httpx.RemoteProtocolError | httpx.ReadError)
            raise TryAgain(error, ENDED if self._tls and ended else None) from None
        if response.is_success:
            return response
        raise translated(response)


def _logged_tls_failure(failure: httpx.HTTPError) -> str | None:
    """Logs and returns why certificates made a call fail; None for another failure."""
    why = why_refused(failure)
    if why is not None:
        _log.error("cloud_connection_refused", why=why)
    return why


def _network(settings: CloudSettings) -> httpx.AsyncHTTPTransport:
    return httpx.AsyncHTTPTransport(
        verify=client_context(settings.ca, settings.certificate, settings.key),
        limits=httpx.Limits(max_connections=settings.connections, keepalive_expiry=20),
        trust_env=False,
    )


def _page(limit: int, after: str | None) -> dict[str, str]:
    return {"limit": str(limit), **({"after": after} if after is not None else {})}


def _api_key(settings: CloudSettings) -> str:
    try:
        return read_secret(settings.api_key_file).decode("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        raise SetupError(
            f"The cloud's API key is not at {settings.api_key_file}; start the cloud once, or name the file with "
            "PATRONUS_EDGE__CLOUD__API_KEY_FILE."
        ) from None
