"""Requests and answers of the cloud, which takes templates and never a picture."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from shared.contract import Contract
from shared.envelope import TemplateEnvelope
from shared.names import GalleryName, SubjectName, TemplateId
from shared.rotation import RotationMatrix
from shared.wire.common import Candidate, Cosine, Rate, TemplateInfo, Threshold, Wire

MAX_TEMPLATES_A_REQUEST = 100
MAX_PROBES_A_REQUEST = 64
MAX_TOP_K = 100
MAX_TURNS_A_REQUEST = 512


class GallerySpec(Wire):
    """What a gallery is pinned to when it is made."""

    contract: Contract
    threshold: Threshold


class NewTemplate(Wire):
    """A template to store under an identifier chosen by the sender, so that sending it twice stores it once."""

    id: TemplateId
    template: TemplateEnvelope


class EnrollRequest(Wire):
    """Templates of one subject."""

    templates: Annotated[list[NewTemplate], Field(min_length=1, max_length=MAX_TEMPLATES_A_REQUEST)]


class EnrollAnswer(Wire):
    """What was stored; committed and searchable when this is answered."""

    subject: str
    templates: list[TemplateInfo]


class VerifyRequest(Wire):
    """A probe for one subject."""

    probe: TemplateEnvelope


class IdentifyRequest(Wire):
    """Probes to look for in the whole gallery."""

    model_config = ConfigDict(strict=True)

    probes: Annotated[list[TemplateEnvelope], Field(min_length=1, max_length=MAX_PROBES_A_REQUEST)]
    top_k: Annotated[int, Field(ge=1, le=MAX_TOP_K)] = 5


class ProbeResult(Wire):
    """The subjects that one probe matched, best first; none is `unknown`."""

    decision: Literal["match", "unknown"]
    candidates: list[Candidate]


class IdentifyAnswer(Wire):
    """One result a probe, in the order of the probes."""

    results: list[ProbeResult]
    threshold: Cosine
    fmr_at_threshold: Rate


class Turn(Wire):
    """What turns the templates of a gallery, or of one subject where each has a seal of its own."""

    subject: SubjectName | None = Field(default=None, description="absent where the gallery has one seal")
    matrix: RotationMatrix = Field(repr=False)


class RekeyRequest(Wire):
    """A change of a gallery's key: the contract that is to hold, and matrices that turn old templates into new ones."""

    contract: Contract
    turns: Annotated[list[Turn], Field(default_factory=list, max_length=MAX_TURNS_A_REQUEST)]


class RekeyStatus(Wire):
    """How far a change of a gallery's key is."""

    gallery: GalleryName
    contract: Contract = Field(description="under which the gallery matches now")
    contract_digest: str
    turning_to: Contract | None = Field(description="under which it will match; null when no change is under way")
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
