"""Makes the pictures of docs/console.md of what ``make test-browser SCREENSHOTS=FOLDER`` wrote into a folder.

Each shows a view twice: light on a wide screen, and dark on a narrow one. Run with ``python -m tests.browser.figures
FOLDER docs/console``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

WIDE, HIGH, GAP = (1440, 390), (900, 844), 24
HEIGHT = 600
COLORS = 256
BACKGROUND = (128, 136, 144)


def figure(wide: Path, narrow: Path) -> Image.Image:
    """The upper parts of two screenshots beside each other, at one height."""
    shown = []
    for path, width, height in zip((wide, narrow), WIDE, HIGH, strict=True):
        with Image.open(path) as picture:
            part = picture.convert("RGB").crop((0, 0, width, height))
        shown.append(part.resize((round(width * HEIGHT / height), HEIGHT), Image.Resampling.LANCZOS))
    both = Image.new("RGB", (sum(part.width for part in shown) + GAP, HEIGHT), BACKGROUND)
    both.paste(shown[0], (0, 0))
    both.paste(shown[1], (shown[0].width + GAP, 0))
    return both.quantize(COLORS, kmeans=2, dither=Image.Dither.NONE)


def main(screenshots: Path, target: Path) -> None:
    """Writes a figure for each view."""
    target.mkdir(exist_ok=True)
    for wide in sorted(screenshots.glob(f"*-light-{WIDE[0]}.png")):
        view = wide.name.split("-")[0]
        narrow = wide.with_name(f"{view}-dark-{WIDE[1]}.png")
        figure(wide, narrow).save(target / f"{view}.png", optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
