"""Requests and answers of the cloud, which takes templates and never a picture."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from shared.contract import Contract
from shared.envelope import TemplateEnvelope
from shared.names import TemplateId
from shared.wire.common import Candidate, Cosine, Rate, TemplateInfo, Threshold, Wire

MAX_TEMPLATES_A_REQUEST = 100
MAX_PROBES_A_REQUEST = 64
MAX_TOP_K = 100


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


class CloudInfo(Wire):
    """What this cloud runs and what it accepts."""

    service: Literal["patronus-cloud"] = "patronus-cloud"
    version: str
    max_body_bytes: int
    max_templates_a_request: int = MAX_TEMPLATES_A_REQUEST
    max_probes_a_request: int = MAX_PROBES_A_REQUEST
    max_top_k: int = MAX_TOP_K
