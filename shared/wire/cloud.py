"""Requests and answers of the cloud, which takes templates and never a picture."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from shared.contract import Contract
from shared.envelope import RotationMatrix, TemplateEnvelope
from shared.names import GalleryName, HexDigest, SubjectName, TemplateId
from shared.strict_types import JsonInteger
from shared.wire.common import Candidate, Cosine, ExactMoment, NewThreshold, Number, Rate, TemplateInfo, Wire

MAX_TEMPLATES_A_REQUEST = 100
MAX_PROBES_A_REQUEST = 64
MAX_TOP_K = 100
MAX_ROTATIONS_A_REQUEST = 512


class GallerySpec(Wire):
    """What a gallery is pinned to when it is made."""

    contract: Contract
    threshold: NewThreshold


class NewTemplate(Wire):
    """A template to store under the sender's identifier; sent twice, it is stored once."""

    id: TemplateId
    template: TemplateEnvelope


class EnrollRequest(Wire):
    """Templates of one subject."""

    templates: Annotated[list[NewTemplate], Field(min_length=1, max_length=MAX_TEMPLATES_A_REQUEST)]


class EnrolledTemplate(TemplateInfo):
    """A template of an enrollment."""

    stored: Literal["now", "before"] = Field(
        description="before: the subject had a template with this id, which stays as it was, whatever was sent"
    )


class EnrollAnswer(Wire):
    """The templates of an enrollment; committed and searchable when this is answered."""

    subject: str
    templates: list[EnrolledTemplate]


class VerifyRequest(Wire):
    """A probe for one subject."""

    probe: TemplateEnvelope


class IdentifyRequest(Wire):
    """Probes to search for in the whole gallery."""

    model_config = ConfigDict(strict=True)

    probes: Annotated[list[TemplateEnvelope], Field(min_length=1, max_length=MAX_PROBES_A_REQUEST)]
    top_k: JsonInteger = Field(default=5, ge=1, le=MAX_TOP_K)


class ProbeResult(Wire):
    """The subjects that one probe matched, best first; none is `unknown`."""

    decision: Literal["match", "unknown"]
    candidates: list[Candidate]


class IdentifyAnswer(Wire):
    """One result a probe, in the order of the probes."""

    results: list[ProbeResult]
    threshold: Cosine
    fmr_at_threshold: Rate = Field(description="as the gallery was made with; the cloud measures nothing")


# How a gallery is searched: each template compared, or only those that a coarser search proposes.
IndexKind = Literal["exact", "approximate"]


class IndexChoice(Wire):
    """How a gallery shall be searched; `auto` leaves it to the number of templates."""

    kind: Literal["auto", "exact", "approximate"]


class IndexStats(Wire):
    """The index of a gallery. Its candidates are scored exactly, from the record."""

    backend: Literal["faiss", "milvus"]
    kind: IndexKind = Field(description="as it is now; what is in no full segment of 65,536 is always compared exactly")
    pinned: IndexKind | None = Field(description="as an operator chose; null: by the number of templates")
    templates: int = Field(ge=0)
    memory_bytes: int | None = Field(ge=0, description="null where it is not in this process")
    snapshot_templates: int | None = Field(ge=0, description="how many a start reads from files; null: it needs none")


class SnapshotInfo(Wire):
    """What of a gallery's index stands in files; a start reads the rest from the record."""

    files: int = Field(ge=0)
    templates: int = Field(ge=0)


class AuditEntry(Wire):
    """Something that was done. ``digest`` is over all members before it, in this order."""

    seq: Number
    at: ExactMoment
    key_id: str | None = Field(description="of the API key; null: the service itself, or its operator")
    action: str
    gallery: str | None
    details: dict[str, Any]
    previous: HexDigest = Field(description="digest of the entry before; zeros of the first")
    digest: HexDigest


class AuditPage(Wire):
    """A page of the audit log, oldest first."""

    items: list[AuditEntry]
    next: Number | None = Field(description="pass as `after` for the next page; null on the last one")


class AuditHead(Wire):
    """The last entry of the audit log. A copy kept elsewhere shows later changes of the log."""

    seq: Number
    digest: HexDigest


class Rotation(Wire):
    """The rotation of a gallery's templates, or of one subject's where each has a seal."""

    subject: SubjectName | None = Field(default=None, description="absent where the gallery has one seal")
    matrix: RotationMatrix = Field(repr=False)


class RekeyRequest(Wire):
    """A change of a gallery's key: the next contract, and the matrices that lead to it."""

    contract: Contract
    replaces: HexDigest = Field(description="digest of the contract that the matrices turn from")
    rotations: Annotated[list[Rotation], Field(default_factory=list, max_length=MAX_ROTATIONS_A_REQUEST)]


class RekeyStatus(Wire):
    """How far a change of a gallery's key is."""

    gallery: GalleryName
    contract: Contract = Field(description="under which the gallery matches now")
    contract_digest: str
    next_contract: Contract | None = Field(description="under which it will match; null when no change is under way")
    state: Literal["settled", "staging", "settling"] = Field(
        description="staging: it matches under the old key, and each template is written under the new one beside; "
        "settling: it matches under the new key, and what is left of the old one is overwritten; settled: neither"
    )
    working: bool = Field(
        description="whether the cloud is at it now; where it is not while staging, send the matrices (again)"
    )
    templates: int = Field(ge=0)
    left: int = Field(ge=0, description="templates that are still to be written, or to be overwritten")
    subjects: list[SubjectName] = Field(
        description="of a verify-only gallery while staging: some of those whose matrices are needed next"
    )


class CloudInfo(Wire):
    """What this cloud runs and what it accepts."""

    service: Literal["patronus-cloud"] = "patronus-cloud"
    version: str
    max_body_bytes: int
    max_templates_a_request: int = MAX_TEMPLATES_A_REQUEST
    max_probes_a_request: int = MAX_PROBES_A_REQUEST
    max_top_k: int = MAX_TOP_K
