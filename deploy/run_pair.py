"""Runs an edge and a cloud on this machine, in the foreground, until Ctrl-C. What ``make run`` starts."""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from types import FrameType


class EndRequest:
    """Whether this process was asked to end, by SIGINT or SIGTERM, once or several times.

    The handler only takes note. One that raises would interrupt an import, or the very code that ends the services.
    """

    def __init__(self) -> None:
        self._received = False

    def listen(self) -> None:
        """Takes note from now on; also where a shell started this with SIGINT ignored."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take_note)

    def received(self) -> bool:
        """Whether there was a signal."""
        return self._received

    def _take_note(self, _number: int, _frame: FrameType | None) -> None:
        self._received = True


def main() -> int:
    """Runs the pair; the exit status is 0 after Ctrl-C."""
    request = EndRequest()
    request.listen()
    # They take a second to load, in which a signal must be heard already.
    from deploy.service_pair import serve_until  # noqa: PLC0415
    from shared.errors import PatronusError  # noqa: PLC0415

    try:
        serve_until(request.received, lambda edge_url, key_file: print(_welcome(edge_url, key_file), flush=True))  # noqa: T201
    except PatronusError as error:
        print(error.detail, file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 0
    return 1


def _welcome(edge_url: str, key_file: Path) -> str:
    patronus = Path(sys.executable).with_name("patronus")
    with contextlib.suppress(ValueError):
        patronus = patronus.relative_to(Path.cwd())
    pictures = "tests/pictures"
    return f"""
Patronus is running. The edge is at {edge_url}; Ctrl-C stops both services.

A first call, in another terminal, in this folder:

  {patronus} gallery create staff
  {patronus} enroll staff obama {pictures}/obama/portrait.jpg
  {patronus} verify staff obama {pictures}/obama/speech.jpg
  {patronus} identify staff {pictures}/obama/speech.jpg

The same with curl:

  KEY=$(cat {key_file})
  GALLERY={edge_url}/v1/galleries/staff
  curl -H "Authorization: Bearer $KEY" -X PUT $GALLERY
  curl -H "Authorization: Bearer $KEY" -F image=@{pictures}/obama/portrait.jpg $GALLERY/subjects/obama/faces
  curl -H "Authorization: Bearer $KEY" -F image=@{pictures}/obama/speech.jpg $GALLERY/subjects/obama/verify
"""


if __name__ == "__main__":
    sys.exit(main())
