"""Places of the data sets on this machine, found without reading them."""

from __future__ import annotations

from importlib import util
from pathlib import Path

from tvlars.lab.data import DATASETS
from tvlars.lab.data.torchvision_sets import DOWNLOAD_DIR, SYSTEM_DIR

FOLDERS = {
    "fashion-mnist": (SYSTEM_DIR, DOWNLOAD_DIR / "FashionMNIST" / "raw"),
    "cifar10": (DOWNLOAD_DIR / "cifar-10-batches-py",),
    "cifar100": (DOWNLOAD_DIR / "cifar-100-python",),
}
"""Folders that ``load_data`` searches without ``data_dir``, in order."""


def found() -> dict[str, str | None]:
    """Return the place of each named data set; None if the first use would download it."""
    folders = {
        name: next((str(folder.expanduser()) for folder in FOLDERS.get(name, ()) if _holds_files(folder)), None)
        for name in DATASETS
    }
    return {**folders, "digits": "ships with scikit-learn" if util.find_spec("sklearn") else None}


def _holds_files(folder: Path) -> bool:
    try:
        return any(not path.name.startswith(".") for path in folder.expanduser().iterdir())
    except (OSError, RuntimeError):  # the home folder is unknown
        return False
