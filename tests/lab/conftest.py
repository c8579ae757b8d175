"""Generated faces, an embedder for them, and the command as a person calls it."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

SIDE, TILES, DIM = 112, 7, 16


@dataclass(frozen=True)
class CommandResult:
    """What a command answered."""

    status: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The last line of its errors."""
        return self.err.strip().splitlines()[-1]


@pytest.fixture(scope="session")
def patronus() -> Callable[..., CommandResult]:
    """Runs ``patronus ARGUMENTS`` in this process, through the very function that the command runs."""
    from shared.command import build, run

    def call(*arguments: object) -> CommandResult:
        out, err = io.StringIO(), io.StringIO()
        with _arguments(["patronus", *map(str, arguments)]), redirect_stdout(out), redirect_stderr(err):
            try:
                run(build())
                status = 0
            except SystemExit as end:
                status = int(end.code or 0)
        return CommandResult(status, out.getvalue(), err.getvalue())

    return call


@contextmanager
def _arguments(given: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, given
    try:
        yield
    finally:
        sys.argv = before


@pytest.fixture(scope="session")
def faces_tar() -> Callable[..., Path]:
    """Writes a tar of generated aligned faces: each person a pattern of tiles, each picture with light of its own."""

    def write(path: Path, people: int, each: int = 2, seed: int = 0, *, labels: bool = False) -> Path:
        random = np.random.default_rng([seed, 5])
        with tarfile.open(path, "w") as tar:
            for person in range(people):
                pattern = random.normal(size=(TILES, TILES, 3))
                for number in range(each):
                    light = random.normal() * 0.1 + random.normal(size=pattern.shape) * 0.08
                    data = _jpeg(pattern + light)
                    # Labels as UTKFace names them: age, sex, group.
                    label = f"{(2, 30)[person % 2]}_{person // 2 % 2}_{person % 5}_20170116" if labels else ""
                    member = tarfile.TarInfo(f"faces/person-{person:04d}/{label}{number}.jpg")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        return path

    return write


def _jpeg(tiles: NDArray[np.float64]) -> bytes:
    large = np.kron(128 + 40 * tiles, np.ones((SIDE // TILES, SIDE // TILES, 1)))
    file = io.BytesIO()
    Image.fromarray(large.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture(scope="session")
def write_embedder() -> Callable[..., Path]:
    """Writes an embedder of one's own with the JSON beside it: a convolution over tiles, and a random projection."""

    def write(path: Path, seed: int = 0) -> Path:
        random = np.random.default_rng([seed, 6])
        tile = SIDE // TILES
        kernel = np.repeat(random.normal(size=(8, 3, 1)), tile * tile, axis=2).reshape(8, 3, tile, tile) / tile**2
        onto = random.normal(size=(8 * TILES * TILES, DIM)) / 8
        weights = {"kernel": kernel, "shift": random.normal(size=8) * 0.1, "onto": onto}
        graph = helper.make_graph(
            [
                helper.make_node("Conv", ["x", "kernel", "shift"], ["tiles"], strides=[tile, tile]),
                helper.make_node("LeakyRelu", ["tiles"], ["bent"], alpha=0.5),
                helper.make_node("Flatten", ["bent"], ["flat"]),
                helper.make_node("MatMul", ["flat", "onto"], ["y"]),
            ],
            "own",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, SIDE, SIDE])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", DIM])],
            [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
        )
        onnx.save(helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]), path)
        result = {"dim": DIM, "mean": 127.5, "scale": 1 / 64}
        path.with_suffix(".embedder.json").write_text(json.dumps(result))
        return path

    return write
