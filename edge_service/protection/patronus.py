"""Runs a profile's network (erase, perturb, seal) and checks every template.

Let x be the embedding (a unit row), e the result of erase, a the angle that the graph returns, and R the seal (the
identity for none). The template must be T = R t, with t a unit vector at the angle a from e. Erase is linear up to
length, e = normalize(E x). E is learned from the graph at the start, with all perturbation limits at 0. Each template
is then checked: the seal is undone with its key, and the angle to E x is measured.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edge_service.protection.profiles.document import PatronusStep
from edge_service.vision.sessions import RUNTIME_ERRORS, OrtGraph, Signature
from shared.errors import ProtectionFailed, SetupError

Rows = NDArray[np.float32]

# Of the chord 2 sin(a / 2) between the unsealed template and the erased embedding. Rounding in float32 was off by at
# most 1e-6; an omitted seal, or another embedding's template, is off by about 1.
CHORD_TOLERANCE: Final = 1e-3
# Rounding of an angle.
_ANGLE_ROUNDING: Final = 1e-6
# A smaller angle counts as none: the embedding was not perturbed.
NO_ANGLE: Final = CHORD_TOLERANCE
# No limit by the caller.
ANY_ANGLE: Final = float(np.pi)
_UNIT_TOLERANCE: Final = 1e-4
# Squared sine of the angle between two directions; below it they are the same but for rounding.
_SAME_DIRECTION: Final = 1e-6
_TRIALS: Final = 32
_SHORTEST: Final = np.finfo(np.float32).tiny
# Embeddings a run. ONNX Runtime rounds differently for another number of rows, so it is always this one: then the same
# embedding gives the same template, alone and among others. Measured on one core: 110 us for 1 row or for 4.
_ROWS_A_RUN: Final = 4
# The least effect of a layer on random embeddings: the largest angle, as a share of phi_max, and the largest chord by
# which erase moves one. Useful networks do ten times as much.
_PERTURBS: Final = 0.1
_ERASES: Final = 0.01
# Errors of a graph that does not do what its profile says.
_REFUSED: Final[tuple[type[Exception], ...]] = (ProtectionFailed, *RUNTIME_ERRORS)


class PatronusGraph:
    """A profile's network, ready to run from several threads.

    Args:
        step: the profile's description of it.
        graph: the content of its file.
        profile: the profile's name, for errors.

    Raises:
        SetupError: the runtime refuses the graph, or the graph does not do what the profile says.
    """

    def __init__(self, step: PatronusStep, graph: bytes, profile: str) -> None:
        self.step = step
        what = f"{step.file} of the protection profile {profile!r}"
        self._session = OrtGraph(graph, what + "; put the right file back.")
        _check_signature(step, self._session.signature(), what)
        self._template, self._angle = map(self._session.output_names.index, ("template", "angle"))
        try:
            self._erase = self._learn_erase()
            self._check_on_random_embeddings()
        except _REFUSED as error:
            reason = error.detail if isinstance(error, ProtectionFailed) else "it does not run"
            raise SetupError(f"The graph {what} does not do what the profile says: {reason}") from None

    def run(self, rows: Rows, seeds: Rows, limits: Rows, seal: Rows) -> tuple[Rows, Rows]:
        """Erases, perturbs and seals; the same embedding gives the same template, bit by bit, whatever is beside it.

        Args:
            rows: (n, d) float32, unit rows.
            seeds: (n, s) float32, standard normal.
            limits: (n,) float32 radians, the caller's limits on the angles.
            seal: (d, d) float32, orthogonal; the identity for none.

        Returns:
            (n, d) float32, unit rows; and (n,) float32 radians, by which each was perturbed after erase.

        Raises:
            ProtectionFailed: a template is not what was asked for.
        """
        count = len(rows)
        rows_in, seeds_in, limits_in = map(_filled_up, (rows, seeds, limits))
        templates, angles = np.empty_like(rows_in), np.empty_like(limits_in)
        for start in range(0, len(rows_in), _ROWS_A_RUN):
            each = slice(start, start + _ROWS_A_RUN)
            templates[each], angles[each] = self._infer(rows_in[each], seeds_in[each], limits_in[each], seal)
        self._check(rows, limits, seal, templates[:count], angles[:count])
        return templates[:count], angles[:count]

    def _infer(self, rows: Rows, seeds: Rows, limits: Rows, seal: Rows) -> tuple[Rows, Rows]:
        found = self._session.run({"x": rows, "seed": seeds, "phi_limit": limits, "seal": seal})
        templates, angles = found[self._template], found[self._angle]
        right = templates.shape == rows.shape and angles.shape == limits.shape
        if not right or templates.dtype != np.float32 or angles.dtype != np.float32:
            raise ProtectionFailed("The network returned something that is not templates and angles; nothing was sent.")
        return templates, angles

    def _check(self, rows: Rows, limits: Rows, seal: Rows, templates: Rows, angles: Rows) -> None:
        """Checks each template. Values that are not finite fail every comparison."""
        plain = templates @ seal
        apart = plain - self.erased(rows)
        squares = np.vecdot(plain, plain).tolist(), np.vecdot(apart, apart).tolist()
        # Plain numbers: on one row they cost half of what arrays cost, and little beside the network on many.
        for limit, angle, length, distance in zip(limits.tolist(), angles.tolist(), *squares, strict=True):
            if not 0 <= angle <= min(limit, self.step.phi_max) + _ANGLE_ROUNDING:
                raise ProtectionFailed("The network perturbed an embedding by more than its limit; nothing was sent.")
            if not abs(length - 1) <= _UNIT_TOLERANCE:
                raise ProtectionFailed("The network returned a vector of the wrong length; nothing was sent.")
            if not abs(math.sqrt(distance) - 2 * math.sin(angle / 2)) <= CHORD_TOLERANCE:
                raise ProtectionFailed("The network did not erase, perturb or seal as it reports; nothing was sent.")

    def erased(self, rows: Rows) -> Rows:
        """Erases embeddings: (n, d) float32 unit rows in and out; of no length where nothing is left."""
        if self._erase is None:
            return rows
        left: Rows = rows @ self._erase
        unit: Rows = left / np.maximum(np.sqrt(np.vecdot(left, left)), _SHORTEST)[:, None]
        return unit

    def _learn_erase(self) -> Rows | None:
        """Learns E^T, up to a factor, from unperturbed runs: (d, d) float32; None for no erase.

        With g = E v for some v, and h = E e_i for each axis, the graph returns g + h and g - h, each divided by its
        length. The two lengths follow from their sum being 2 g: two equations for two unknowns.
        """
        if "erase" not in self.step.layers:
            return None
        dim = self.step.dim
        start = np.random.default_rng(0).standard_normal(dim)
        start /= np.linalg.norm(start)
        probes = np.concatenate([start[None], start + np.eye(dim), start - np.eye(dim)])
        probes = (probes / np.linalg.norm(probes, axis=1, keepdims=True)).astype(np.float32)
        nothing, seeds = np.zeros(len(probes), np.float32), np.zeros((len(probes), self.step.seed_dim), np.float32)
        found = self._infer(probes, seeds, nothing, np.eye(dim, dtype=np.float32))[0].astype(np.float64)
        if not np.isfinite(found).all():
            raise ProtectionFailed("It returns values that are not finite.")
        base, ahead, behind = found[0], found[1 : dim + 1], found[dim + 1 :]
        between = np.einsum("nd,nd->n", ahead, behind)
        one, other = 2 * ahead @ base, 2 * behind @ base
        # A fully erased axis: both are g itself, and the lengths are equal.
        erased = 1 - between**2 < _SAME_DIRECTION
        scale = np.where(erased, 1, 1 - between**2)
        long_one = np.where(erased, (one + other) / 4, (one - between * other) / scale)
        long_other = np.where(erased, (one + other) / 4, (other - between * one) / scale)
        learned: Rows = ((long_one[:, None] * ahead - long_other[:, None] * behind) / 2).astype(np.float32)
        return learned

    def _check_on_random_embeddings(self) -> None:
        """Runs the graph on random embeddings, without and with a seal, and checks the results."""
        dim, random = self.step.dim, np.random.default_rng(1)
        rows = random.standard_normal((_TRIALS, dim))
        units = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        seeds = random.standard_normal((_TRIALS, self.step.seed_dim)).astype(np.float32)
        rotation = np.linalg.qr(random.standard_normal((dim, dim)))[0].astype(np.float32)
        for seal in (np.eye(dim, dtype=np.float32), rotation):
            for limit in (0.0, ANY_ANGLE):
                _, angles = self.run(units, seeds, np.full(_TRIALS, limit, np.float32), seal)
        if angles.max() < max(_PERTURBS * self.step.phi_max, 2 * CHORD_TOLERANCE):
            raise ProtectionFailed("It perturbs none of the embeddings that it was tried on.")
        if self._erase is not None and np.linalg.norm(self.erased(units) - units, axis=1).max() < _ERASES:
            raise ProtectionFailed("It erases nothing.")


def _filled_up(part: Rows) -> Rows:
    """An input with rows of zeros behind it, up to whole runs."""
    count = len(part)
    missing = -count % _ROWS_A_RUN
    if not missing:
        return part
    whole = np.zeros((count + missing, *part.shape[1:]), part.dtype)
    whole[:count] = part
    return whole


def _check_signature(step: PatronusStep, found: tuple[Signature, Signature], what: str) -> None:
    number = "tensor(float)"
    wanted: tuple[Signature, Signature] = (
        {
            "x": (number, (None, step.dim)),
            "seed": (number, (None, step.seed_dim)),
            "phi_limit": (number, (None,)),
            "seal": (number, (step.dim, step.dim)),
        },
        {"template": (number, (None, step.dim)), "angle": (number, (None,))},
    )
    for side, has, needs in zip(("inputs", "outputs"), found, wanted, strict=True):
        if has != needs:
            wrong = ", ".join(sorted(name for name in has.keys() | needs.keys() if has.get(name) != needs.get(name)))
            raise SetupError(f"The graph {what} has other {side} than the profile says (see: {wrong}).")
