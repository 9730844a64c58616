"""Pictures of run folders for a page, decoded and encoded again so that a page contains only pixels."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path

from PIL import Image

from tvlars._reading import read_bytes

MOST_BYTES = 2**26
MOST_PIXELS = 2**26
"""Most pixels of a picture; 64 views at 120 dots per inch have eight million."""


def picture_uri(file: Path, inside: Path) -> str:
    """Return the PNG ``file``, encoded again, as a data URI.

    Args:
        file: a PNG.
        inside: the run folder, which must contain the file after links are followed.

    Raises:
        OSError: the file cannot be read, or is outside of the folder.
        ValueError: the file is not a PNG, is damaged, or has too many pixels.
    """
    content = read_bytes(file, inside, MOST_BYTES)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # for a hundred million pixels Pillow only warns
            with Image.open(io.BytesIO(content), formats=("PNG",)) as opened:
                width, height = opened.size
                if width * height > MOST_PIXELS:
                    raise ValueError(f"it has {width:,} x {height:,} pixels, more than {MOST_PIXELS:,} together")
                pixels = opened.convert("RGBA" if "A" in opened.mode or "transparency" in opened.info else "RGB")
    except ValueError:
        raise
    except Exception as error:  # Pillow raises errors of many types for damaged files
        raise ValueError(f"it must be a PNG, but cannot be decoded: {error}") from error
    pixels.info.clear()  # drop comments and profiles
    out = io.BytesIO()
    pixels.save(out, "PNG")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
