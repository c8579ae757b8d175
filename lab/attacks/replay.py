"""Replay: rebuilt faces are shown to a running edge over HTTP, as somebody would hold them before its camera."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lab.data.alignment import with_room
from shared.errors import SetupError
from shared.processes.pair import running_pair

Pictures = NDArray[np.uint8]
_GALLERY: Final = "/v1/galleries/replay"
_ENLARGED: Final = 4  # a crop of 112 pixels is as small as the edge takes a face at all


def replayed(
    enrolled: Pictures, shown: Mapping[str, Pictures], *, profile: str, profiles: Path | None, embedder: str
) -> dict[str, dict[str, Any]]:
    """Enrolls people at an edge and cloud of its own, and verifies rebuilt faces of them.

    Args:
        enrolled: (k, 112, 112, 3) uint8 RGB, a true picture of each person.
        shown: by name, (k, 112, 112, 3) uint8 RGB: what is shown as each of them.
        profile: that the edge protects with.
        profiles: the operator's own folder of profiles.
        embedder: of the edge.

    Returns:
        by name: ``people`` enrolled, ``accepted`` among them, and ``answers`` by kind.

    Raises:
        SetupError: a service did not start, or nobody could be enrolled.
    """
    settings = {"PATRONUS_EDGE__PROFILE": profile, "PATRONUS_EDGE__EMBEDDER": embedder}
    if profiles is not None:
        settings["PATRONUS_EDGE__PROFILES"] = str(profiles.resolve())
    with TemporaryDirectory() as home, running_pair(Path(home), settings) as (url, key_file):
        headers = {"Authorization": f"Bearer {key_file.read_text().strip()}"}
        with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as edge:
            edge.put(_GALLERY).raise_for_status()
            known = [at for at, face in enumerate(enrolled) if _posted(edge, f"{at}/faces", face).is_success]
            if not known:
                raise SetupError("The edge enrolled none of the faces, so none can be replayed.")
            return {name: _shown(edge, faces, known) for name, faces in shown.items()}


def _shown(edge: httpx.Client, faces: Pictures, known: list[int]) -> dict[str, Any]:
    answers: Counter[str] = Counter()
    for at in known:
        answer = _posted(edge, f"{at}/verify", faces[at])
        said = answer.json()
        answers[str(said["decision"] if answer.is_success else said.get("reason", answer.status_code))] += 1
    return {"people": len(known), "accepted": answers["match"], "answers": dict(answers)}


def _posted(edge: httpx.Client, what: str, face: Pictures) -> httpx.Response:
    file = io.BytesIO()
    picture = Image.fromarray(with_room(face))
    picture.resize((picture.width * _ENLARGED, picture.height * _ENLARGED), Image.Resampling.BICUBIC).save(file, "PNG")
    return edge.post(f"{_GALLERY}/subjects/person-{what}", files={"image": ("face.png", file.getvalue(), "image/png")})
