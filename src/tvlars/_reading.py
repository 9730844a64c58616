"""Reading of untrusted files: only regular files, up to a maximum size, and without blocking.

A named pipe or a device in place of a file would block its reader or never end, and a link in somebody else's folder
could expose any file that its reader may open.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import IO, Any

MOST_JSON = 2**26
"""Most bytes of a JSON file; a run's files have a few thousand, a sweep of 10,000 runs has twenty million."""
MOST_TEXT = 2**29
"""Most bytes of a table: about ten million steps."""
MOST_LEVELS = 64
"""Most levels of nesting in a JSON file; a run's files have four."""
MOST_DIGITS = 20
"""Most digits of an integer in a JSON file; a 64-bit integer has 19."""
THOUSANDS = re.compile(r"[-+]?[1-9][0-9]{0,2}(_[0-9]{3})+(\.[0-9]*)?")
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(file: Path | str, inside: Path | str | None = None) -> IO[bytes]:
    """Open a regular file to read its bytes.

    Args:
        file: the file.
        inside: the folder that the file has to lie in when all links are followed; None (default): links may lead
            anywhere.

    Raises:
        OSError: the file is missing, is no regular file, or lies elsewhere; the error names the file and the reason.
    """
    try:
        place = os.fspath(file)
        if inside is not None:
            place = os.path.realpath(file)
            if not is_inside(place, inside):
                raise OSError(errno.EXDEV, f"it is a link that leaves {os.fspath(inside)}")
        check_regular(os.stat(place))  # a device may do something when it is opened
        # The file may have been exchanged for a pipe or, inside a folder, for a link since then.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        handle = os.open(place, flags | (getattr(os, "O_NOFOLLOW", 0) if inside is not None else 0))
        try:
            check_regular(os.fstat(handle))
            return os.fdopen(handle, "rb")
        except BaseException:
            os.close(handle)
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(file)) from error
    except ValueError as error:  # a null byte in a name
        raise OSError(errno.EINVAL, str(error), str(file)) from error


def read_bytes(file: Path | str, inside: Path | str | None = None, most: int = MOST_TEXT) -> bytes:
    """Return the content of a regular file of ``most`` bytes or fewer; ``inside`` as for :func:`open_regular`.

    Raises:
        OSError: as for :func:`open_regular`, or the file is larger.
    """
    with open_regular(file, inside) as opened:
        size = os.fstat(opened.fileno()).st_size
        content = opened.read(size + 1) if size <= most else b""  # it may grow while it is read
    if max(size, len(content)) > most:
        raise OSError(errno.EFBIG, f"it has {max(size, len(content)):,} bytes, more than {most:,}", str(file))
    return content


def read_text(file: Path | str, inside: Path | str | None = None, most: int = MOST_TEXT, errors: str = "strict") -> str:
    """Return the text of a regular file in UTF-8, without a byte order mark.

    Raises:
        OSError: as for :func:`read_bytes`.
        ValueError: the file is no text in UTF-8, and ``errors`` is "strict".
    """
    return read_bytes(file, inside, most).decode("utf-8-sig", errors)


def read_json(file: Path | str, inside: Path | str | None = None) -> Any:
    """Return the value of a JSON file.

    Raises:
        OSError: as for :func:`read_bytes`.
        ValueError: the file is no JSON, an object has a name twice, or nesting or numbers go far beyond what this
            package writes.
    """
    return parse_json(read_text(file, inside, MOST_JSON))


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: as for :func:`read_json`.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(MOST_LEVELS):
        if not level:
            return value
        level = [
            inner
            for one in level
            if isinstance(one, (dict, list))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    raise ValueError("it is nested too deeply")


def parse_number(kind: type, text: str) -> Any:
    """Return the ``int`` or ``float`` that a text spells unambiguously.

    Python reads 1_0 as 10; here underscores may only separate thousands, and digits must be ASCII.

    Raises:
        ValueError: the text is no number.
    """
    if not text.isascii() or ("_" in text and not THOUSANDS.fullmatch(text)):
        raise ValueError(f"it is no number: {text!r:.60}")
    return kind(text)


def is_regular(file: Path | str, inside: Path | str | None = None) -> bool:
    """Return whether ``file`` is a regular file, which :func:`open_regular` opens if it is readable."""
    try:
        return (inside is None or is_inside(file, inside)) and stat.S_ISREG(os.stat(file).st_mode)
    except (OSError, ValueError):
        return False


def is_inside(path: Path | str, folder: Path | str) -> bool:
    """Return whether ``path`` lies in ``folder`` when all links are followed."""
    try:
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    except (OSError, ValueError):
        return False


def reason(error: Exception) -> str:
    """Return what is wrong with a file that could not be read, in a few words that leave out its name."""
    words = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(words.split())[:200]


def check_regular(found: os.stat_result) -> None:
    """Raise ``OSError``, which names the kind of file, unless ``found`` is of a regular file."""
    if not stat.S_ISREG(found.st_mode):
        kind = KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        number = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
        raise OSError(number, f"it is {kind}, not a regular file")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"{name[:60]!r} appears twice")
            seen.add(name)
    return found


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"it has an integer of {len(text)} digits")
    return int(text)
