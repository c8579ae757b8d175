"""A bare FastAPI route that reads a form with a picture: no keys, models or limits. The cost of FastAPI itself."""

from __future__ import annotations

from typing import Final

from fastapi import UploadFile

from tests.load.plain_fastapi import bare, serve

PORT: Final = "PLAIN_UPLOAD_PORT"
app = bare()


@app.post("/v1/galleries/{gallery}/subjects/{subject}/verify")
async def verify(gallery: str, subject: str, image: UploadFile) -> dict[str, int]:
    """Answers the size of the picture."""
    return {"size": len(await image.read())}


if __name__ == "__main__":
    serve(app, PORT)
