"""Account of files that were read: files left out, and remarks for the user."""

from __future__ import annotations

from dataclasses import dataclass, field

from tvlars._words import counted

Reason = tuple[str, str]
"""Reason for leaving something out: the noun in singular and plural."""
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
    """Files and folders left out, counted by reason with an example, and remarks. ``str`` lists what is left out."""

    left_out: dict[Reason, tuple[int, str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def leave(self, reason: Reason, example: str, count: int = 1) -> None:
        """Add ``count`` files or folders that are left out; the first ``example`` is kept."""
        if count:
            before, first = self.left_out.get(reason, (0, example))
            self.left_out[reason] = before + count, first

    def __str__(self) -> str:
        return ", ".join(f"{counted(count, *reason)} ({example})" for reason, (count, example) in self.left_out.items())

    def lines(self) -> tuple[str, ...]:
        """Return the account as lines for the description of a run."""
        left_out = [f"left out {self}"] if self.left_out else []
        return (*left_out, *(f"note     {text}" for text in self.remarks))


def shown(name: str, longest: int = 120) -> str:
    """Return a printable form of a file name of any encoding, on one line and not too long."""
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
    return printable if len(printable) <= longest else f"{printable[: longest // 2]}...{printable[-longest // 2 :]}"
