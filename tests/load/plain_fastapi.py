"""A bare FastAPI route that reads a verification and answers it: no keys, record or limits. The cost of FastAPI itself.

``tests.load.bench_cloud`` starts it beside the cloud to compare the two.
"""

from __future__ import annotations

import os
from typing import Final

import uvicorn
from fastapi import FastAPI

from shared.wire.cloud import VerifyRequest
from shared.wire.common import VerifyAnswer

PORT: Final = "PLAIN_FASTAPI_PORT"


def bare() -> FastAPI:
    """An application with nothing but what says that it runs."""
    app = FastAPI(docs_url=None, redoc_url=None)
    for path in ("/readyz", "/healthz"):
        app.get(path)(_ready)
    return app


def serve(app: FastAPI, port: str) -> None:
    """Serves it as the services are served, at the port that an environment variable names."""
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ[port]),
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
    )


async def _ready() -> None:
    """Answers 200."""


app = bare()


@app.post("/v1/galleries/{gallery}/subjects/{subject}/verify")
async def verify(gallery: str, subject: str, claim: VerifyRequest) -> VerifyAnswer:
    """Answers always the same."""
    return VerifyAnswer(decision="match", similarity=0.7, threshold=0.384, score_rule="mean", fmr_at_threshold=0.001)


if __name__ == "__main__":
    serve(app, PORT)
