"""Rebuilt faces as a face detector and an eye see them."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edge_service.models.store import locate
from edge_service.settings import DetectionSettings, InferenceSettings
from edge_service.vision.detect import FaceDetector
from edge_service.vision.sessions import OrtSession
from lab.data.alignment import with_room

_CHUNK: Final = 8
# Which of an embedder's convolutions are compared, as shares of their number: edges, parts, and what parts make up.
_DEPTHS: Final = (0.05, 0.2, 0.35, 0.5)


class _Enough(Exception):
    """The deepest layer that is wanted was reached."""


class FacePerception:
    """The edge's face detector, and a perceptual distance.

    The distance is LPIPS' (Zhang et al., CVPR 2018) with an embedder's own features in place of AlexNet's, and equal
    weights: squared differences of feature vectors of length one, averaged over places, summed over layers.

    Args:
        embedder: differentiable copy of an embedder.
    """

    def __init__(self, embedder: nn.Module) -> None:
        self._embedder = embedder
        # Two passes alone: what is asked is whether an aligned crop shows a face, not whether one can be searched out.
        self._detector = FaceDetector(
            OrtSession(locate("face-detector"), InferenceSettings()), DetectionSettings(search_further=False)
        )
        layers = [module for module in embedder.modules() if isinstance(module, nn.Conv2d)]
        self._layers = [layers[at] for at in sorted({round(share * (len(layers) - 1)) for share in _DEPTHS})]

    def faces(self, pictures: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Whether a face is found: (n, h, w, 3) uint8 RGB to (n,)."""
        return np.array([bool(self._detector.detect(with_room(picture))) for picture in pictures], dtype=bool)

    @torch.no_grad()
    def distance(self, made: NDArray[np.uint8], true: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Twice (n, 112, 112, 3) uint8 RGB to (n,)."""
        found = []
        for at in range(0, len(made), _CHUNK):
            sides = [self._features(faces[at : at + _CHUNK]) for faces in (made, true)]
            layers = [((one - other) ** 2).sum(dim=1).mean(dim=(1, 2)) for one, other in zip(*sides, strict=True)]
            found.append(torch.stack(layers).sum(dim=0).double().numpy())
        return np.concatenate(found)

    def _features(self, faces: NDArray[np.uint8]) -> list[Tensor]:
        kept: dict[nn.Module, Tensor] = {}
        last = self._layers[-1]

        def keep(layer: nn.Module, _: Any, output: Tensor) -> None:
            kept[layer] = nn.functional.normalize(output, dim=1, eps=1e-6)
            if layer is last:
                raise _Enough

        hooks = [layer.register_forward_hook(keep) for layer in self._layers]
        try:
            self._embedder(torch.from_numpy(np.ascontiguousarray(faces.transpose(0, 3, 1, 2))).float())
        except _Enough:
            pass
        finally:
            for hook in hooks:
                hook.remove()
        return [kept[layer] for layer in self._layers]
