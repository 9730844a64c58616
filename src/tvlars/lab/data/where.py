"""Where each data set lies on this machine, looked up without reading any."""

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
"""Where ``load_data`` looks where it is given no folder, the first first."""


def found() -> dict[str, str | None]:
    """Return for every data set that has a name where it is, or None where its first use would download it."""
    folders = {
        name: next((str(folder.expanduser()) for folder in FOLDERS.get(name, ()) if _holds_files(folder)), None)
        for name in DATASETS
    }
    return {**folders, "digits": "ships with scikit-learn" if util.find_spec("sklearn") else None}


def _holds_files(folder: Path) -> bool:
    try:
        return any(not path.name.startswith(".") for path in folder.expanduser().iterdir())
    except (OSError, RuntimeError):  # nobody's home is known
        return False
