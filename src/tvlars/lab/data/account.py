"""The account that a reader of files gives of its work: what it has left out, and what else its user should know."""

from __future__ import annotations

from dataclasses import dataclass, field

Reason = tuple[str, str]
"""Why something is left out: the name of one such thing, and of many."""
HIDDEN_FOLDERS = ("hidden folder", "hidden folders")
HIDDEN_FILES = ("hidden file", "hidden files")
OTHER_FILES = ("file of another kind", "files of other kinds")
NO_DECODER = ("image in a format that Pillow here cannot open", "images in formats that Pillow here cannot open")
BROKEN_LINKS = ("broken link", "broken links")
REPEATED_LINKS = ("link to what is read already", "links to what is read already")
DEVICES = ("pipe, socket or device", "pipes, sockets or devices")
STRAYS = ("image beside the folders", "images beside the folders")
BESIDE = ("image in a folder beside those that are read", "images in folders beside those that are read")
NO_IMAGES = ("folder without images", "folders without images")
NOT_NAMED = ("image that val_annotations.txt does not name", "images that val_annotations.txt does not name")
BAD = ("image that cannot be read", "images that cannot be read")


@dataclass
class Account:
    """Things that a walk leaves out, counted by reason with an example, and remarks. ``str`` is "" if there are none
    of the former."""

    left_out: dict[Reason, tuple[int, str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def leave(self, reason: Reason, example: str, count: int = 1) -> None:
        """Enter that ``count`` things are left out; ``example`` is kept of the first."""
        if count:
            before, first = self.left_out.get(reason, (0, example))
            self.left_out[reason] = before + count, first

    def __str__(self) -> str:
        return ", ".join(
            f"{count:,} {reason[count != 1]} ({example})" for reason, (count, example) in self.left_out.items()
        )

    def lines(self) -> tuple[str, ...]:
        """Return all of it, one entry per line, as a run's description has it."""
        left_out = [f"left out {self}"] if self.left_out else []
        return (*left_out, *(f"note     {text}" for text in self.remarks))


def counted(count: int, one: str, many: str) -> str:
    """Return count and noun, as in "1 class" or "1,234 classes"."""
    return f"{count:,} {one if count == 1 else many}"


def shown(name: str, longest: int = 120) -> str:
    """Return a file's name as it can be printed: on one line, in whatever encoding, and not too long."""
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
    return printable if len(printable) <= longest else f"{printable[: longest // 2]}...{printable[-longest // 2 :]}"
