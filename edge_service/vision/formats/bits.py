"""Reads single bits, of the headers of AV1 and HEVC."""

from __future__ import annotations

from typing import Final

from edge_service.vision.formats.header import damaged

_MOST_ZEROS: Final = 32


class Bits:
    """Bits from the highest of the first byte on.

    Args:
        data: a header, some hundred bytes at most.
    """

    def __init__(self, data: bytes) -> None:
        self._value = int.from_bytes(data, "big")
        self._left = 8 * len(data)

    def take(self, count: int = 1) -> int:
        """The next bits as a number.

        Raises:
            UnreadablePicture: there are fewer.
        """
        self._left -= count
        if self._left < 0:
            raise damaged()
        return self._value >> self._left & ((1 << count) - 1)

    def golomb(self) -> int:
        """The next number in Exp-Golomb code, ``ue(v)`` of HEVC and ``uvlc()`` of AV1: 0 is a one.

        Raises:
            UnreadablePicture: there is none, or one of more than 32 bits.
        """
        zeros = 0
        while not self.take():
            zeros += 1
            if zeros > _MOST_ZEROS:
                raise damaged()
        return (1 << zeros) - 1 + self.take(zeros)
