"""Output to the user: lines, tables and bars, on streams that may be closed.

Results and progress go to standard output, notes and errors to standard error. A pipe closed by ``train | head -2``,
a closed terminal or a full disk must not end the training.
"""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

GONE = (errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO, errno.ECONNRESET, errno.ESHUTDOWN)
"""Errors of a pipe or a terminal that is closed for good."""
Names = Sequence[str]
WIDE, FOLDED = 160, 16
"""Columns of a table without a terminal, and columns to which texts in tables are folded."""


def say(*lines: str, whole: bool = False) -> None:
    """Print ``lines`` to standard output at once, unless it is closed; a terminal breaks them, unless ``whole``."""
    width = 0 if whole else columns()
    print(*(broken(line, width) for line in lines), sep="\n", file=Lasting(sys.stdout), flush=True)


def columns() -> int:
    """Return the width of the terminal on standard output, 0 if it is none."""
    return shutil.get_terminal_size().columns if is_terminal(sys.stdout) else 0


def broken(text: str, width: int, indent: int = 0) -> str:
    """Return text with lines of at most ``width`` columns, as far as its words allow; 0 leaves it unchanged.

    Continued lines are indented by ``indent``; 0 (default): below the text of a line as "warning  text", else by 2.
    """
    how: dict[str, Any] = dict(break_long_words=False, break_on_hyphens=False)
    lines = text.split("\n")
    for i, line in enumerate(lines):
        if 0 < width < len(line):
            head = re.match(r"\S{1,16}  +", line)
            deep = indent or (len(head[0]) if head else 2)
            lines[i] = textwrap.fill(line, width, subsequent_indent=" " * deep, **how)
    return "\n".join(lines)


def aside(*lines: str) -> None:
    """Print ``lines`` to standard error at once, so that results can be piped without them."""
    print(*lines, sep="\n", file=Lasting(sys.stderr), flush=True)


def duration(seconds: float) -> str:
    """Return a duration as ``42 s``, ``5 min``, ``3.2 h`` or ``2.1 days``."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 5970:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def console(error: bool = False) -> Console:
    """Return Rich's console on standard output, or on standard error, for tables and bars.

    Text is printed as it is, without markup, and is not broken into lines.
    """
    from rich.console import Console  # plain lines do without

    stream: Any = Lasting(sys.stderr if error else sys.stdout)
    width = None if stream.isatty() else WIDE
    file = None if not error and _shows_widgets() else stream
    return Console(file=file, width=width, markup=False, highlight=False, soft_wrap=True)


def print_table(
    rows: list[dict[str, str]], drop: Names = (), last: Names = (), left: Names = (), end: str = ""
) -> None:
    """Print ``rows``, texts by column, at least one; numbers are never cut. On a terminal that is too narrow, heads are
    broken between words, then columns of ``drop`` are left out, the first one first, texts are folded, and columns of
    ``last`` are left out. Their names are printed, with ``end`` after them. Texts are the first column and ``left``."""
    from rich.cells import cell_len
    from rich.table import Table

    out, shown, left = console(), list(rows[0]), [next(iter(rows[0])), *left]
    cells = {name: max(cell_len(row[name]) for row in rows) for name in shown}
    heads = {name: max(cells[name], *map(cell_len, name.split())) for name in shown}
    folded = {name: min(wide, FOLDED) if name in left else wide for name, wide in heads.items()}
    widths = {name: max(cells[name], cell_len(name)) for name in shown}
    for widest, name in ((heads, ""), *((heads, one) for one in drop), (folded, ""), *((folded, one) for one in last)):
        if out.is_terminal and 1 + sum(3 + widths[one] for one in shown) > out.width:
            widths, shown = widest, [one for one in shown if one != name]
    out.width = max(out.width, 1 + sum(3 + widths[name] for name in shown))
    table = Table()
    for name in shown:
        table.add_column(name, justify="left" if name in left else "right", width=widths[name], overflow="fold")
    for row in rows:
        table.add_row(*(row[name] for name in shown))
    out.print(table, soft_wrap=False)
    if left_out := [name for name in rows[0] if name not in shown]:
        say(f"not shown for lack of room: {', '.join(left_out)}{end}")


def shows_bars() -> bool:
    """Return whether standard output is a terminal, or a notebook that can show bars."""
    return is_terminal(sys.stdout) or _shows_widgets()


def is_terminal(stream: Any) -> bool:
    """Return whether ``stream`` is a terminal, False for None and closed streams."""
    try:
        return stream is not None and bool(stream.isatty())
    except (AttributeError, OSError, ValueError):
        return False


def _shows_widgets() -> bool:
    from rich.console import Console

    return Console().is_jupyter and importlib.util.find_spec("ipywidgets") is not None


class Lasting:
    """A text stream whose ``write`` and ``flush`` do not fail: text that cannot be written is dropped.

    A stream that is closed at the other end is connected to the null device, so that its buffer causes no errors at end
    of the process.

    Args:
        stream: stream to write to; None, Python's value for a descriptor that was closed, drops everything.
    """

    def __init__(self, stream: Any) -> None:
        within = isinstance(stream, Lasting)
        self.stream = stream.stream if within else stream
        self.lost: list[str] = stream.lost if within else []
        """Reasons why text was lost, such as a full disk, each once."""

    def write(self, text: str) -> int:
        try:
            self._write(text)
        except (OSError, ValueError) as error:  # ValueError: the Python object is closed
            self._note(error)
        return len(text)

    def _write(self, text: str) -> None:
        if self.stream is None:
            return
        try:
            self.stream.write(text)
        except UnicodeEncodeError:  # a console without Greek letters
            encoding = self.stream.encoding
            self.stream.write(text.encode(encoding, "replace").decode(encoding))

    def flush(self) -> None:
        try:
            if self.stream is not None:
                self.stream.flush()
        except (OSError, ValueError) as error:
            self._note(error)

    def isatty(self) -> bool:
        return is_terminal(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _note(self, error: Exception) -> None:
        if getattr(error, "errno", None) in GONE:
            mute(self.stream)
        elif isinstance(error, OSError) and not isinstance(error, BlockingIOError):
            reason = error.strerror or str(error)
            if reason not in self.lost:
                self.lost.append(reason)
                if self.stream is sys.__stdout__:
                    text = f"tvlars: standard output cannot be written: {reason}; the command continues without it\n"
                    Lasting(sys.__stderr__).write(text)


def mute(stream: Any) -> None:
    """Connect the descriptor of ``stream`` to the null device."""
    try:
        descriptor = stream.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
    except (AttributeError, OSError, ValueError):  # there is none, as in a notebook
        return
    try:
        os.dup2(null, descriptor)
    finally:
        os.close(null)
