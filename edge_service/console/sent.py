"""Shows what was sent to the cloud for a request: as it left, and decoded.

Pairs of a picture and its template help to recover a seal, so that only keys with the scope manage see the numbers of a
template. Other keys see its length and digest.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import numpy as np

from edge_service.cloud.recorder import Recording, SentRequest
from shared.envelope import decode_canonical
from shared.wire.cloud import CONTRACT_HEADER
from shared.wire.edge_console import DecodedRequest, Sent, SentHeader, SentTemplate, SentToCloud

_PATH: Final = re.compile("/v1/galleries/(?P<gallery>[^/]+)(?:/subjects/(?P<subject>[^/]+))?(?:/.*)?")
# Members of `TemplateEnvelope`.
_ENVELOPE: Final = frozenset({"version", "contract", "dim", "dtype", "data"})


def shown(request_id: str, recording: Recording, *, numbers: bool) -> Sent:
    """A recording as its caller sees it.

    Args:
        request_id: of the caller's request.
        recording: of it.
        numbers: whether the caller may see the numbers of templates.
    """
    requests = [_shown(request, recording.names, numbers=numbers) for request in recording.requests]
    return Sent(request_id=request_id, kept_until=recording.kept_until, requests=requests)


def _shown(request: SentRequest, names: dict[str, str], *, numbers: bool) -> SentToCloud:
    body = json.loads(request.body) if request.body else None
    envelopes = _envelopes(body)
    text = request.body.decode() if request.body else None
    decoded = _decoded(request, envelopes, names, numbers=numbers)
    if envelopes and not numbers:
        for envelope in envelopes:
            data = decode_canonical(envelope["data"])
            envelope["data"] = f"… {len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()}"
        text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return SentToCloud(
        sent_at=request.sent_at,
        method=request.method,
        target=request.target,
        headers=[SentHeader(name=name, value=value) for name, value in request.headers],
        body=text,
        body_bytes=len(request.body),
        withheld=bool(envelopes) and not numbers,
        answered=request.answered,
        decoded=decoded,
    )


def _decoded(
    request: SentRequest, envelopes: list[dict[str, Any]], names: dict[str, str], *, numbers: bool
) -> DecodedRequest:
    named = _PATH.fullmatch(urlsplit(request.target).path)
    gallery, sealed = (None, None) if named is None else (named["gallery"], named["subject"])
    contract = next((value for name, value in request.headers if name.lower() == CONTRACT_HEADER.lower()), None)
    if contract is None and envelopes:
        contract = envelopes[0]["contract"]
    stored = None if sealed is None else unquote(sealed)
    return DecodedRequest(
        gallery=gallery,
        subject=None if stored is None else names.get(stored),
        sealed_subject=stored,
        contract=contract,
        templates=[_template(envelope, numbers=numbers) for envelope in envelopes],
    )


def _template(envelope: dict[str, Any], *, numbers: bool) -> SentTemplate:
    data = decode_canonical(envelope["data"])
    values = np.frombuffer(data, dtype="<f4").tolist() if numbers else None
    return SentTemplate(dim=envelope["dim"], bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), values=values)


def _envelopes(value: Any) -> list[dict[str, Any]]:
    """All templates in a body, in their order."""
    if isinstance(value, dict):
        if value.keys() == _ENVELOPE:
            return [value]
        return [found for member in value.values() for found in _envelopes(member)]
    if isinstance(value, list):
        return [found for item in value for found in _envelopes(item)]
    return []
