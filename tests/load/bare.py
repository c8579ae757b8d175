"""What FastAPI itself costs: a route that reads a verification's body and answers it, without keys, record or limits.

Started as the services are (``python -m tests.load.bare serve``), so that ``tests.load.bench_cloud`` can compare.
"""

from __future__ import annotations

import os
from typing import Final

import uvicorn
from fastapi import FastAPI

from shared.wire.cloud import VerifyRequest
from shared.wire.common import VerifyAnswer

PORT: Final = "PATRONUS_BARE_PORT"
app = FastAPI(docs_url=None, redoc_url=None)


@app.post("/v1/galleries/{gallery}/subjects/{subject}/verify")
async def verify(gallery: str, subject: str, claim: VerifyRequest) -> VerifyAnswer:
    """Always the same answer."""
    return VerifyAnswer(decision="match", similarity=0.7, threshold=0.384, fmr_at_threshold=0.001)


@app.get("/readyz")
async def ready() -> None:
    """It is."""


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(os.environ[PORT]),
        loop="uvloop",
        http="httptools",
        log_config=None,
        access_log=False,
    )
