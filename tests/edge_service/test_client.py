"""Every operation through the public client, against a real edge with a real cloud."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pytest

from shared.client import AsyncClient, Client
from shared.client.call import Call
from shared.errors import Conflict, FaceRefused, Forbidden, NotFound, Unauthenticated
from shared.security.credentials import Scope
from shared.wire.common import Threshold
from tests.shared.client.test_operations import operations
from tests.support.edge import PICTURES, Edge, encoded
from tests.support.patronus_profile import units

PORTRAIT, SPEECH = PICTURES / "obama" / "portrait.jpg", PICTURES / "obama" / "speech.jpg"
BIDEN = PICTURES / "biden" / "standing.jpg"


def test_every_operation_is_answered(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = set()
    with edge.client() as client:
        original = client.send

        def noted(call: Call[Any]) -> Any:
            sent.add((call.method, call.path))
            return original(call)

        monkeypatch.setattr(client, "send", noted)
        made = client.put_gallery("staff", threshold=Threshold(cosine=0.4, fmr=0.001), score_rule="best")
        assert (made.threshold.cosine, made.score.rule, made.verify_only) == (0.4, "best", False)
        assert client.change_gallery("staff", score_rule="mean").score.rule == "mean"
        assert client.set_retention("staff", 86_400).max_age_seconds == 86_400
        assert client.remove_retention("staff").max_age_seconds is None

        with SPEECH.open("rb") as file:
            enrolled = client.enroll_faces("staff", "obama", PORTRAIT, file, quality_filter="low")
        assert [face.stored for face in enrolled.faces] == ["now", "now"]
        assert client.enroll_faces("staff", "obama", PORTRAIT.read_bytes()).faces[0].stored == "before"
        assert client.enroll_faces("staff", "obama", BIDEN, dry_run=True).faces[0].stored == "no"
        assert client.verify_face("staff", "obama", SPEECH, record="one").decision == "match"
        assert [request.answered for request in client.get_sent("one").requests] == [200]
        found = client.identify_faces("staff", SPEECH, top_k=1, max_faces=1).faces[0]
        assert [one.subject for one in found.candidates] == ["obama"]
        assert client.detect_faces(PORTRAIT).faces_found == 1
        assert client.compare_faces(PORTRAIT, BIDEN).decision == "no_match"

        raw = units(3, seed=4)
        named = client.enroll_embeddings("staff", "eve", raw, faces=["a", "b", "c"])
        assert [face.stored for face in named.faces] == ["now"] * 3
        again = client.enroll_subjects("staff", ["eve", "eve"], raw[:2], faces=["a", "b"])
        assert [face.id for face in again.faces] == [face.id for face in named.faces[:2]]
        rows = client.protect(embeddings=raw.tolist(), gallery="staff").templates
        as_bytes = raw.astype("<f4").tobytes()
        assert client.protect(embeddings=as_bytes, dim=128, gallery="staff").templates == rows
        assert np.allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        assert client.protect(PORTRAIT, gallery="staff").faces_found == 1

        assert [one.subject for one in client.list_subjects("staff", limit=1).items] == ["eve"]
        assert [one.subject for one in client.all_subjects("staff", limit=1)] == ["eve", "obama"]
        assert [one.gallery for one in client.all_galleries()] == ["staff"]
        assert {face.id for face in client.get_subject("staff", "obama").faces} == {one.id for one in enrolled.faces}

        with pytest.raises(Conflict, match="nearer to another subject"):
            client.enroll_faces("staff", "eve", PORTRAIT, on_conflict="refuse")
        assert client.rename_subject("staff", "eve", "Ève").faces == 3
        assert [one.subject for one in client.list_subjects("staff", prefix="È").items] == ["Ève"]
        assert client.move_face("staff", "Ève", named.faces[0].id, "eve").faces_enrolled == 1
        merged = client.merge_subject("staff", "Ève", "eve")
        assert (merged.subject, merged.faces, merged.emptied) == ("eve", 2, True)
        tomorrow = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
        assert client.set_expiry("staff", "eve", tomorrow).expires_at == tomorrow
        assert client.remove_expiry("staff", "eve").expires_at is None
        assert len(client.report_subject("staff", "eve").faces) == 3
        assert list(client.all_duplicates("staff", limit=1)) == []

        epoch = "0123456789abcdef"
        status = client.start_rekey("staff", epoch=epoch)
        while status.state != "settled":
            status = client.start_rekey("staff", epoch=epoch)
        assert (status.contract.seal is not None and status.contract.seal.epoch, status.templates) == (epoch, 5)
        assert client.get_rekey("staff") == client.cancel_rekey("staff")

        assert client.get_key().id in {key.id for key in client.list_keys().keys}
        assert {curve.rule for curve in client.get_curves(rule="best").curves} == {"best"}
        with pytest.raises(NotFound, match="no decoder"):
            client.rebuild_face(PORTRAIT, gallery="staff")
        assert client.get_gallery_curves("staff").curves == client.get_curves().curves

        assert client.delete_face("staff", "obama", enrolled.faces[0].id).templates == 1
        receipt = client.delete_subject("staff", "obama").receipt
        assert client.get_erasure("staff", receipt.id).templates == 1
        assert client.get_gallery("staff").subjects == 1
        assert client.delete_gallery("staff").subjects == 1

        assert (client.get_info().dim, client.get_health().status) == (128, "ok")
        assert client.get_readiness().checks == {"models": True, "keys": True, "cloud": True}
        assert "patronus_edge" in client.get_metrics()
    assert len(sent) == len(operations(Client))


def test_the_asynchronous_client_does_the_same(edge: Edge) -> None:
    key = edge.settings.first_key_file.read_text().strip()

    async def whole() -> tuple[list[str], list[str], str, int]:
        transport = httpx.ASGITransport(edge.app)
        async with AsyncClient("http://edge", api_key=key, transport=transport) as client:
            await client.put_gallery("staff", verify_only=True)
            for name in ("obama", "eve"):
                await client.enroll_faces("staff", name, PORTRAIT)
            with pytest.raises(Conflict) as refused:
                await client.identify_faces("staff", SPEECH)
            decision = (await client.verify_face("staff", "obama", SPEECH)).decision
            subjects = [one.subject async for one in client.all_subjects("staff", limit=1)]
            return subjects, [refused.value.reason or ""], decision, (await client.delete_gallery("staff")).subjects

    assert edge.pair.portal.call(whole) == (["eve", "obama"], ["verify_only"], "match", 2)


def test_refusals_are_errors_of_the_tree(edge: Edge) -> None:
    edge.make("staff")
    with edge.client() as client:
        with pytest.raises(NotFound) as absent:
            client.verify_face("staff", "nobody", PORTRAIT)
        assert (absent.value.reason, absent.value.status) == ("unknown_subject", 404)
        assert absent.value.request_id
        with pytest.raises(FaceRefused) as refused:
            client.enroll_faces("staff", "eve", PICTURES / "obama" / "portrait.jpg", _without_a_face())
        assert (refused.value.reason, refused.value.extra["picture"]) == ("no_face", 1)
        with pytest.raises(Conflict):
            client.put_gallery("staff", verify_only=True)
    matching = edge.key(Scope.MATCH)["Authorization"].removeprefix("Bearer ")
    with edge.client(api_key=matching) as client, pytest.raises(Forbidden):
        client.enroll_faces("staff", "eve", PORTRAIT)
    with edge.client(api_key="patronus_nobody") as client, pytest.raises(Unauthenticated):
        client.get_info()


def _without_a_face() -> bytes:
    return encoded(np.full((200, 200, 3), 90, np.uint8))
