"""White-box inversion: gradient descent through the embedder until a picture has the wanted embedding.

No pictures of anybody are learned from, but for the average face that the search starts at. It runs against what the
attacker takes for the embedding: a template itself, or what a denoiser makes of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lab.data.pixels import embedded, resized

Rows = NDArray[np.float32]
Faces = NDArray[np.float32]
_SIDE: Final = 64
_CHUNK: Final = 8  # what the torch embedder takes fastest
_PIXEL_RATE: Final = 0.05
_LATENT_RATE: Final = 0.03
_START_NOISE: Final = 0.3
_LATENT_NOISE: Final = 0.05
_LATENT_PULL: Final = 0.05  # towards vectors of length one, which are all that the decoder knows


def by_pixels(
    targets: Rows,
    embedder: nn.Module,
    average: Faces,
    *,
    steps: int,
    restarts: int,
    smooth: float = 2.0,
    seed: int = 0,
) -> Faces:
    """Descends on the pixels, with total variation to keep them a picture (Mahendran & Vedaldi, CVPR 2015).

    Args:
        targets: (n, d) float32, unit rows.
        embedder: differentiable embedder.
        average: (3, s, s) float32 in 0..1, the mean of the attacker's own pictures.
        steps: of Adam.
        restarts: from other noise; the best is kept.
        smooth: weight of the total variation.
        seed: of the noise.

    Returns:
        (n, 3, 64, 64) float32 in 0..1.
    """
    mean = torch.logit(resized(torch.from_numpy(np.ascontiguousarray(average))[None], _SIDE).clamp(0.02, 0.98))

    def begin(rows: Tensor, _: int, draws: torch.Generator) -> Tensor:
        return mean + _START_NOISE * torch.randn((len(rows), 3, _SIDE, _SIDE), generator=draws)

    def made(at: Tensor) -> tuple[Tensor, Tensor]:
        faces = torch.sigmoid(at)
        across = (faces[..., 1:] - faces[..., :-1]).abs().mean(dim=(1, 2, 3))
        down = (faces[..., 1:, :] - faces[..., :-1, :]).abs().mean(dim=(1, 2, 3))
        return faces, smooth * (across + down)

    return _descended(targets, embedder, begin, made, steps, restarts, _PIXEL_RATE, seed)


def by_latent(
    targets: Rows, embedder: nn.Module, decoder: nn.Module, *, steps: int, restarts: int, seed: int = 0
) -> Faces:
    """Descends on what a decoder is given, so that the picture stays a face.

    Args:
        targets: (n, d) float32, unit rows.
        embedder: differentiable embedder.
        decoder: from vectors (n, d) to faces.
        steps: of Adam.
        restarts: the first from the target itself, others from noise around it; the best is kept.
        seed: of the noise.

    Returns:
        (n, 3, s, s) float32 in 0..1.
    """

    def begin(rows: Tensor, number: int, draws: torch.Generator) -> Tensor:
        return rows + (_LATENT_NOISE if number else 0.0) * torch.randn(rows.shape, generator=draws)

    def made(at: Tensor) -> tuple[Tensor, Tensor]:
        return decoder(at), _LATENT_PULL * (at.norm(dim=1) - 1) ** 2

    return _descended(targets, embedder, begin, made, steps, restarts, _LATENT_RATE, seed)


def _descended(
    targets: Rows,
    embedder: nn.Module,
    begin: Callable[[Tensor, int, torch.Generator], Tensor],
    made: Callable[[Tensor], tuple[Tensor, Tensor]],
    steps: int,
    restarts: int,
    rate: float,
    seed: int,
) -> Faces:
    """Of all restarts, each face whose embedding came nearest to its target, which an attacker can tell.

    Args:
        begin: from targets, the number of the restart and random numbers, to what is descended on.
        made: from that, faces and what they cost beside 1 - cosine, (m,).
    """
    found = []
    for at in range(0, len(targets), _CHUNK):
        rows = torch.from_numpy(np.ascontiguousarray(targets[at : at + _CHUNK]))
        best, nearest = None, torch.full((len(rows),), -np.inf)
        for number in range(restarts):
            draws = torch.Generator().manual_seed((seed * 1009 + number) * 100_003 + at)
            free = begin(rows, number, draws).requires_grad_(True)
            optimizer = torch.optim.Adam([free], lr=rate)
            for _ in range(steps):
                faces, cost = made(free)
                loss = (1 - (embedded(embedder, faces) * rows).sum(dim=1) + cost).sum()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.no_grad():
                faces = made(free)[0]
                cosine = (embedded(embedder, faces) * rows).sum(dim=1)
                nearer = cosine > nearest
                best = faces if best is None else torch.where(nearer[:, None, None, None], faces, best)
                nearest = torch.maximum(nearest, cosine)
        if best is None:
            raise ValueError("there is at least one start")
        found.append(best.numpy())
    return np.concatenate(found)
