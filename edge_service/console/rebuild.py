"""Rebuilds a face from its embedding and from its template, with and without the key: what a thief would see.

Runs at the edge. Its pictures go to the caller, and nowhere else.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edge_service.protection.profiles.decoder import DecoderFile, read_decoder
from edge_service.recognition import OneFace
from edge_service.vision.sessions import RUNTIME_ERRORS, OrtGraph
from shared.contract import EmbedderPin
from shared.errors import NotFound, SetupError
from shared.wire.edge_console import Rebuilt

Rows = NDArray[np.float32]
_INPUT, _OUTPUT = "embedding", "picture"
_REFUSED: Final[tuple[type[Exception], ...]] = (ValueError, *RUNTIME_ERRORS)
_FLOAT: Final = "tensor(float)"


@dataclass(slots=True)
class Rebuilder:
    """Rebuilds faces where a decoder lies beside the edge's profile.

    Attributes:
        decoder: None where there is none.
    """

    decoder: Decoder | None

    @classmethod
    def beside(cls, profiles: Path | None, profile: str, embedder: EmbedderPin, dim: int) -> Rebuilder:
        """Opens the decoder beside a profile, if there is one.

        Raises:
            SetupError: it is damaged, or for another embedder.
        """
        found = None if profiles is None else read_decoder(profiles, profile)
        if found is None:
            return cls(None)
        if (found.document.embedder_sha256, found.document.dim) != (embedder.sha256, dim):
            raise SetupError(
                f"The decoder beside the profile {profile!r} is for another embedder than this edge runs; remove its "
                "folder, or write one for this embedder."
            )
        return cls(Decoder(found))

    def check(self) -> None:
        """Refuses before a picture is decoded.

        Raises:
            NotFound: there is no decoder.
        """
        self._found()

    def rebuilt(self, one: OneFace) -> Rebuilt:
        """The pictures of a face: as it was aligned, and rebuilt from three vectors."""
        decoder = self._found()
        made = decoder.pictures(np.concatenate([one.unit, one.with_key, one.without_key]))
        unprotected, with_key, without_key = map(_data_uri, made)
        return Rebuilt(
            size=(decoder.side, decoder.side),
            original=_data_uri(one.face.aligned),
            unprotected=unprotected,
            template_with_key=with_key,
            template_without_key=without_key,
        )

    def _found(self) -> Decoder:
        if self.decoder is None:
            raise NotFound(
                "There is no decoder beside this edge's profile; patronus lab export-decoder writes one into the "
                "folder of PATRONUS_EDGE__PROFILES.",
                reason="no_decoder",
            )
        return self.decoder


class Decoder:
    """A decoder, ready to run.

    Args:
        found: its file.

    Raises:
        SetupError: the runtime refuses it, or it does not take and give what its description says.
    """

    def __init__(self, found: DecoderFile) -> None:
        self.side = found.document.side
        what = "the decoder beside the profile"
        self._graph = OrtGraph(found.graph, f"{what}; write it again with patronus lab export-decoder.")
        inputs = {_INPUT: (_FLOAT, (None, found.document.dim))}
        outputs = {_OUTPUT: (_FLOAT, (None, 3, self.side, self.side))}
        if self._graph.signature() != (inputs, outputs):
            raise SetupError(f"{what.capitalize()} does not take and give what its description says; write it again.")
        try:
            self.pictures(np.eye(2, found.document.dim, dtype=np.float32))
        except _REFUSED:
            raise SetupError(f"{what.capitalize()} does not run; write it again.") from None

    def pictures(self, rows: Rows) -> NDArray[np.uint8]:
        """Faces from vectors: (n, d) float32, unit rows, to (n, side, side, 3) uint8 RGB."""
        made = np.nan_to_num(self._graph.run({_INPUT: rows})[0])
        return np.ascontiguousarray((np.clip(made, 0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1))


def _data_uri(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"
