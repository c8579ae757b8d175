"""Tries an embedder in a process of its own, which is ended if it takes too long or takes all memory.

``python -m edge_service.vision.embedder_trial FILE.onnx`` is that process: it prints one JSON object.
"""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from edge_service.vision.embedder_check import Separation, check_embedder
from edge_service.vision.embedder_files import EmbedderFile
from shared.errors import SetupError
from shared.security.process_limits import usable_cpus


def try_embedder(file: EmbedderFile, timeout_s: float, *, details: bool = False) -> Separation:
    """As ``check_embedder``, in a process of its own.

    Args:
        file: which is read once more by that process.
        timeout_s: seconds after which it is ended.
        details: whether that process may write to standard error, as ONNX Runtime does.

    Raises:
        SetupError: as there; the trial took too long or was ended from outside; or the file changed meanwhile.
    """
    name, seconds = file.path.name, max(1, round(timeout_s))
    command = [sys.executable, "-P", "-m", __name__, str(file.path.absolute()), str(seconds)]
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None if details else subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise SetupError(
            f"{name} was stopped, since its trial took over {timeout_s:g} seconds; check the network for an endless "
            "loop, or allow more with --timeout.",
            reason="trial-timed-out",
        ) from None
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise SetupError(
            f"{name} ended its trial without an answer (status {done.returncode}); see why with --details, or give it "
            "more memory.",
            reason="trial-failed",
        ) from None
    if "detail" in answer:
        raise SetupError(answer["detail"], reason=answer["reason"])
    if answer["digests"] != file.digests.model_dump():
        raise SetupError(f"{name} or its description was changed during its trial; add it again.")
    return Separation(np.array(answer["same"]), np.array(answer["different"]), answer["length"])


def main(path: str, timeout_s: str) -> None:
    """Tries one file, and prints what was found or why it is refused."""
    # Its own end, if the command that started it was killed; of all its threads together.
    seconds = (int(timeout_s) + 60) * usable_cpus()
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    with contextlib.suppress(OSError):  # Linux: where memory runs out, this process ends, and no service beside it
        Path("/proc/self/oom_score_adj").write_text("1000")
    try:
        file = EmbedderFile.open(Path(path))
        found = check_embedder(file)
    except SetupError as problem:
        traceback.print_exception(problem)
        answer: dict[str, Any] = {"detail": problem.detail, "reason": problem.reason}
    else:
        answer = {"same": found.same.tolist(), "different": found.different.tolist(), "length": found.length}
        answer["digests"] = file.digests.model_dump()
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
