"""The errors of Patronus, in one tree. Services answer them as problem+json (RFC 9457).

::

    PatronusError                 500  unexpected-error (never shown with its text)
    ├── BadRequest                400  the request cannot be understood
    ├── Unauthenticated           401  no key, or a key that is not known
    ├── Forbidden                 403  the key is known but lacks the scope
    ├── NotFound                  404  gallery, subject or template that does not exist
    ├── RequestTimedOut           408  the body took longer than allowed
    ├── Conflict                  409  exists already with other properties
    │   └── ContractMismatch      409  a template made under another contract
    ├── TooLarge                  413  body, picture or pixel count over the limit
    ├── UnsupportedPicture        415  not a picture of a format that is taken
    ├── Unprocessable             422  well-formed but not usable
    │   ├── UnreadablePicture     422  damaged, animated or empty
    │   ├── FaceRefused           422  no face, several faces, or one too poor to use
    │   └── InvalidTemplate       422  wrong length, not finite, not a unit vector
    ├── Retryable                      the same request may be sent again after ``retry_after_s`` (Retry-After)
    │   ├── Overloaded            429  more work than the service carries
    │   │   └── RateLimited       429  more calls than the key may make
    │   ├── UpstreamUnavailable   503  the cloud cannot be reached
    │   ├── IndexUnavailable      503  the cloud's index cannot be reached, or is being rebuilt
    │   ├── RecordUnavailable     503  the record cannot be reached or written
    │   │   └── OutcomeUnknown    503  it went away while a change was being committed
    │   ├── RecordDamaged         503  a row of the record is damaged, and not used
    │   ├── KeysUnavailable       503  the file of API keys cannot be read
    │   └── InsufficientStorage   507  the record's disk is full
    ├── ProtectionFailed          500  a privacy step failed; nothing was sent
    ├── UpstreamFailed            502  the cloud answered something the edge does not understand
    ├── SetupError                500  a setting, key or model file is missing or wrong; stops a start
    └── ClientError                    raised by a client, and never answered
        ├── ServiceUnreachable         no service answers at this address
        └── AnswerNotUnderstood        what answers is not this service, or one of another version

``detail`` is one sentence that says what is wrong and how to correct it. Clients see it, so it never holds a biometric
value, a path, a key or the text of another exception.

The client of ``shared.client`` raises what a service answered as the same class. ``problem`` then holds the document.
A problem of a type that is not in this tree, from a newer service, is raised as the general class of its status.
"""

from __future__ import annotations

import math
import traceback
from typing import Any, ClassVar


class PatronusError(Exception):
    """An unexpected error inside the service.

    Base of every error that Patronus raises on purpose.

    Args:
        detail: one sentence for the caller: what is wrong and how to correct it.
        reason: a stable word for programs, such as ``too_small``; defaults to the class's own.
        extra: further members of the problem document; plain JSON values, never biometric.

    Example:
        >>> from patronus_face import Key, PatronusError, Protector
        >>> try:
        ...     Protector.open("nothing", key=Key.load_or_create("acme.key"))
        ... except PatronusError as error:
        ...     print(error.detail)
        There is no protection profile 'nothing'; there are: default, default-2, dlib, dlib-2, plugin, seal.
    """

    # Of the class; at a client, that of the answer.
    status: int = 500
    kind: ClassVar[str] = "unexpected-error"
    title: ClassVar[str] = "Unexpected error"

    def __init_subclass__(cls) -> None:
        """Makes the title of an error's kind, unless the class has one of its own."""
        if "kind" in cls.__dict__ and "title" not in cls.__dict__:
            cls.title = cls.kind.replace("-", " ").capitalize()

    def __init__(self, detail: str, *, reason: str | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.reason = reason
        self.extra = extra
        # The document as a service answered it, at a client; None: raised in this process.
        self.problem: dict[str, Any] | None = None

    @property
    def request_id(self) -> str | None:
        """The id of the request in the service's log, at a client; None: raised in this process."""
        found = (self.problem or {}).get("request_id")
        return found if isinstance(found, str) else None

    @property
    def retry_after(self) -> int | None:
        """Seconds after which the same request may be sent again; None: repeating it would not help."""
        return None


class Retryable(PatronusError):
    """The same request may be sent again after some seconds; answered with ``Retry-After``.

    Args:
        detail: one sentence for the caller.
        retry_after_s: seconds to wait; None: as the class says.
        extra: ``reason``, a stable word for programs, and further members of the problem document.
    """

    status = 503
    retry_after_s: int = 2

    def __init__(self, detail: str, *, retry_after_s: int | None = None, **extra: Any) -> None:
        super().__init__(detail, **extra)
        if retry_after_s is not None:
            self.retry_after_s = retry_after_s

    @property
    def retry_after(self) -> int | None:
        """Seconds after which the same request may be sent again."""
        return self.retry_after_s


class BadRequest(PatronusError):
    """The request cannot be understood."""

    status = 400
    kind = "bad-request"


class Unauthenticated(PatronusError):
    """No API key was given, or one that is not known."""

    status = 401
    kind = "unauthenticated"
    title = "API key required"


class Forbidden(PatronusError):
    """The API key is valid, but its scope does not allow this."""

    status = 403
    kind = "forbidden"
    title = "Not allowed"


class NotFound(PatronusError):
    """The gallery, subject, face or template does not exist, or the key is not for this gallery."""

    status = 404
    kind = "not-found"


class RequestTimedOut(PatronusError):
    """The body of the request took longer than allowed to arrive."""

    status = 408
    kind = "request-timed-out"


class Conflict(PatronusError):
    """The state of the gallery does not allow this, such as when it exists with other properties.

    Example:
        >>> from patronus_face import Conflict, Key, Protector
        >>> key = Key.load_or_create("acme.key")
        >>> protector = Protector.open(key=key, gallery="staff")
        >>> try:
        ...     Protector.open(key=key, gallery="roof")
        ... except Conflict as error:
        ...     print(error)
        The key file acme.key is of the gallery 'staff', and this is 'roof'; use the key file of this gallery, or ...
    """

    status = 409
    kind = "conflict"


class ContractMismatch(Conflict):
    """The gallery's contract (models, profile, key) is not that of the template or the edge.

    Example:
        >>> from patronus_face import ContractMismatch, Key, Protector
        >>> key = Key.load_or_create("acme.key")
        >>> protector = Protector.open("default-2", key=key)
        >>> try:
        ...     Protector.open("dlib", key=key)
        ... except ContractMismatch as error:
        ...     print(error.extra["differing"])
        ['embedder', 'profile']
    """

    kind = "contract-mismatch"


class TooLarge(PatronusError):
    """The body, picture or number of pixels is over the limit."""

    status = 413
    kind = "too-large"


class UnsupportedPicture(PatronusError):
    """The bytes are not a picture of an allowed format."""

    status = 415
    kind = "unsupported-picture"


class Unprocessable(PatronusError):
    """The request is well-formed, but cannot be used; `detail` says why.

    Example:
        >>> import numpy as np
        >>> from patronus_face import Key, Protector, Unprocessable
        >>> protector = Protector.open("default-2", key=Key.load_or_create("acme.key"))
        >>> try:
        ...     protector.protect(np.zeros(128))
        ... except Unprocessable as error:
        ...     print(error.reason, error.extra["embedding"])
        zero_vector 0
    """

    status = 422
    kind = "unprocessable"
    title = "Cannot be processed"


class UnreadablePicture(Unprocessable):
    """The picture is damaged, empty or animated."""

    kind = "unreadable-picture"


class FaceRefused(Unprocessable):
    """No face, several faces, or a face of too poor quality; `reason` says which."""

    kind = "face-refused"


class InvalidTemplate(Unprocessable):
    """A template of wrong length, not finite, or not a unit vector."""

    kind = "invalid-template"


class Overloaded(Retryable):
    """The service is working at its limit; try again later."""

    status = 429
    kind = "overloaded"
    retry_after_s = 1


class RateLimited(Overloaded):
    """The API key has reached its rate limit.

    Args:
        detail: one sentence for the caller.
        counted: what was counted: ``matching``, or ``all``.
        quota: calls that may be made in the window.
        window_s: the window.
        free_in_s: seconds until the next call may be made.
    """

    kind = "rate-limited"
    title = "Too many calls"

    def __init__(self, detail: str, *, counted: str, quota: int, window_s: int, free_in_s: float) -> None:
        super().__init__(detail, retry_after_s=max(1, math.ceil(free_in_s)))
        self.counted = counted
        self.quota = quota
        self.window_s = window_s
        self.free_in_s = free_in_s


class ProtectionFailed(PatronusError):
    """A protection step failed or did not return a template. Nothing was sent.

    Example:
        >>> from patronus_face import PatronusError, ProtectionFailed
        >>> issubclass(ProtectionFailed, PatronusError)  # there is no template then
        True
    """

    kind = "protection-failed"


class UpstreamFailed(PatronusError):
    """The cloud answered something the edge does not understand."""

    status = 502
    kind = "cloud-failed"


class UpstreamUnavailable(Retryable):
    """The cloud cannot be reached, or does not answer in time."""

    kind = "cloud-unavailable"


class IndexUnavailable(Retryable):
    """The cloud's index cannot be reached, does not answer in time, or is being rebuilt."""

    kind = "index-unavailable"


class RecordUnavailable(Retryable):
    """The record's database cannot be reached or written, or does not answer in time."""

    kind = "record-unavailable"


class OutcomeUnknown(RecordUnavailable):
    """The database failed during a commit. The change may be stored or not."""

    def __init__(self) -> None:
        super().__init__(
            "The record went away before it said whether this was stored; send the same again in a moment.",
            reason="outcome_unknown",
        )


class RecordDamaged(Retryable):
    """A row of the record is damaged and not used. An operator has to act; other rows work."""

    kind = "record-damaged"
    retry_after_s = 60


class KeysUnavailable(Retryable):
    """The file of API keys is missing, damaged, or readable by others. No request is accepted."""

    kind = "keys-unavailable"
    title = "API keys unavailable"
    retry_after_s = 10


class InsufficientStorage(Retryable):
    """The record's disk is full. Stored data can be read; nothing acknowledged is lost."""

    status = 507
    kind = "insufficient-storage"
    retry_after_s = 30


class SetupError(PatronusError):
    """A setting, key or model file is missing or wrong. Stops a start, with one sentence.

    Example:
        >>> from pathlib import Path
        >>> from patronus_face import Key, SetupError
        >>> _ = Path("acme.key").write_text("no key"); Path("acme.key").chmod(0o600)
        >>> try:
        ...     Key.load("acme.key")
        ... except SetupError as error:
        ...     print(error)
        The file acme.key is not a key file of Patronus, or is damaged; put its backup back.
    """

    kind = "setup-error"
    title = "Set-up error"


class ClientError(PatronusError):
    """A call failed at the client; no service answers this."""

    kind = "client-error"


class ServiceUnreachable(ClientError):
    """No service answers at this address, or not in time, or its certificate is not accepted."""

    kind = "service-unreachable"


class AnswerNotUnderstood(ClientError):
    """What answers at this address is not this service, or one of another version."""

    kind = "answer-not-understood"


def place_of(error: BaseException) -> dict[str, str]:
    """The kind and place of an exception for a log: ``log.error("word", **place_of(error))``.

    Our own code logs so, and never with ``exc_info``: a program that embeds a service may have set structlog up
    otherwise, and its default prints the values of local variables.
    """
    places = [
        f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{line} {frame.f_code.co_name}"
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    return {"exception": type(error).__name__, "at": " < ".join(reversed(places[-8:]))}
