"""Where each data set lies on this machine, looked up without reading any."""

from __future__ import annotations

from importlib import util
from pathlib import Path

from tvlars.lab.data import DATASETS
from tvlars.lab.data.fashion_mnist import SYSTEM_DIR
from tvlars.lab.data.image_data import DOWNLOAD_DIR

FOLDERS = {
    "fashion-mnist": (SYSTEM_DIR, DOWNLOAD_DIR / "FashionMNIST" / "raw"),
    "cifar10": (DOWNLOAD_DIR / "cifar-10-batches-py",),
    "cifar100": (DOWNLOAD_DIR / "cifar-100-python",),
}
"""Where ``load_data`` looks where it is given no folder, the first first."""


def found() -> dict[str, str | None]:
    """For every data set that has a name where it is, or None where its first use would download it."""
    return {name: _where(name) for name in DATASETS}


def _where(name: str) -> str | None:
    if name == "digits":
        return "ships with scikit-learn" if util.find_spec("sklearn") else None
    return next((str(folder.expanduser()) for folder in FOLDERS[name] if _holds_files(folder)), None)


def _holds_files(folder: Path) -> bool:
    try:
        return any(not path.name.startswith(".") for path in folder.expanduser().iterdir())
    except (OSError, RuntimeError):  # nobody's home is known
        return False
