"""The account that a reader of files gives of its work: what it has left out, and what else its user should know."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Reason(NamedTuple):
    """Why something is left out, as the name of its kind."""

    one: str
    many: str


HIDDEN_FOLDERS = Reason("hidden folder", "hidden folders")
HIDDEN_FILES = Reason("hidden file", "hidden files")
OTHER_FILES = Reason("file of another kind", "files of other kinds")
NO_DECODER = Reason("image in a format that Pillow here cannot open", "images in formats that Pillow here cannot open")
BROKEN_LINKS = Reason("broken link", "broken links")
REPEATED_LINKS = Reason("link to what is read already", "links to what is read already")
DEVICES = Reason("pipe, socket or device", "pipes, sockets or devices")
STRAYS = Reason("image beside the folders", "images beside the folders")
BESIDE = Reason("image in a folder beside those that are read", "images in folders beside those that are read")
NO_IMAGES = Reason("folder without images", "folders without images")
NOT_NAMED = Reason("image that val_annotations.txt does not name", "images that val_annotations.txt does not name")
BAD = Reason("image that cannot be read", "images that cannot be read")


@dataclass
class Account:
    """Files that a walk leaves out, counted by reason with an example, and remarks.

    ``str(account)`` is "" where nothing was left out.
    """

    left_out: dict[Reason, tuple[int, str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def leave(self, reason: Reason, example: str, count: int = 1) -> None:
        """Enter that ``count`` things are left out; ``example`` is kept of the first."""
        if count:
            before, first = self.left_out.get(reason, (0, example))
            self.left_out[reason] = before + count, first

    def __str__(self) -> str:
        return ", ".join(
            f"{count:,} {reason.one if count == 1 else reason.many} ({example})"
            for reason, (count, example) in self.left_out.items()
        )

    def lines(self) -> tuple[str, ...]:
        """All of it, a line each, as a run's description has it."""
        left_out = str(self)
        return (*((f"left out {left_out}",) if left_out else ()), *(f"note     {text}" for text in self.remarks))


def shown(name: str, longest: int = 120) -> str:
    """A file's name as it can be printed: on one line, in whatever encoding, and not too long."""
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
    return printable if len(printable) <= longest else f"{printable[: longest // 2]}...{printable[-longest // 2 :]}"
