"""A bare FastAPI route that reads a form with a picture: no keys, models or limits. The cost of FastAPI itself."""

from __future__ import annotations

import os
from typing import Final

import uvicorn
from fastapi import FastAPI, UploadFile

PORT: Final = "PLAIN_UPLOAD_PORT"
app = FastAPI(docs_url=None, redoc_url=None)


@app.post("/v1/galleries/{gallery}/subjects/{subject}/verify")
async def verify(gallery: str, subject: str, image: UploadFile) -> dict[str, int]:
    """Answers the size of the picture."""
    return {"size": len(await image.read())}


@app.get("/readyz")
async def ready() -> None:
    """Answers 200."""


@app.get("/healthz")
async def healthy() -> None:
    """Answers 200."""


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
