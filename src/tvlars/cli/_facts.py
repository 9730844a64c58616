"""Facts about a machine for a bug report. Needs only torch, and works if anything else is broken."""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import platform
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import tvlars
from tvlars._checks import one_line
from tvlars._machine import cores, cpu_name, native_bf16
from tvlars.optim import available

IMPORTED = ("lab", "sharpness")
"""Extras whose packages are imported, since the command line needs them; others only have their versions looked up."""
LEFT_OUT = ("all", "dev", "docs")
"""Extras that do not matter for bug reports."""


@dataclass(frozen=True)
class Package:
    """An optional package: its version, None if it is not installed, and its fault, if any."""

    name: str
    version: str | None
    problem: str | None = None


@dataclass(frozen=True)
class Device:
    """A device that could train."""

    name: str
    model: str
    native_bf16: bool
    memory: int | None = None
    capability: str | None = None


@dataclass(frozen=True)
class Facts:
    """Facts that ``doctor`` prints. In dictionaries of reasons, None means that it works."""

    versions: dict[str, str]
    system: str
    cores: int
    threads: int
    devices: list[Device]
    no_cuda: str | None
    laboratory: str | None
    extras: dict[str, list[Package]] | str
    """Packages by extra, or why they are unknown."""
    data: dict[str, str | None] | str
    """Path of each data set, None if it is not on this machine; or why the paths are unknown."""
    paths: dict[str, dict[str, str | None]]
    """By device and path, the reason why the path does not work."""
    usual_paths: dict[str, str | None]
    """By device, the default path of float32 layers."""


def gather(announce: Callable[[str], None] = lambda text: None) -> Facts:
    """Collect all facts; ``announce`` is called before each step that takes a while."""
    announce("optional packages")
    extras = _extras()
    announce("the laboratory")
    laboratory = _problem("tvlars.lab.processes.fabric") or _problem("tvlars.lab", whole=True)
    data = _data() if laboratory is None else f"unknown, since the laboratory cannot be imported ({laboratory})"
    devices, no_cuda = _devices()
    paths = {device.name: _paths(torch.device(device.name), announce) for device in devices}
    return Facts(
        versions={
            "tvlars": f"{tvlars.__version__} in {Path(tvlars.__file__).parent}",
            "python": f"{platform.python_version()} ({platform.python_implementation()})",
            "torch": f"{torch.__version__}, {_build()}",
        },
        system=platform.platform(),
        cores=cores(),
        threads=torch.get_num_threads(),
        devices=devices,
        no_cuda=no_cuda,
        laboratory=laboratory,
        extras=extras,
        data=data,
        paths=paths,
        usual_paths={device.name: available.usual(torch.device(device.name)) for device in devices},
    )


def _paths(device: torch.device, announce: Callable[[str], None]) -> dict[str, str | None]:
    announce(f"the optimizers' paths on {device}")
    found = {path: available.why_not(path, device) for path in available.PATHS}
    announce(f"torch.compile on {device}")
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)  # keep logs of compilers out of the output
    try:
        return {**found, "compile": available.why_not_compiled(device)}
    finally:
        logging.disable(before)


def _build() -> str:
    if torch.version.hip is not None:
        return f"built for ROCm {torch.version.hip}"
    return f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built for CPUs"


def _devices() -> tuple[list[Device], str | None]:
    """Return the CPU and all accelerators, and why there is no CUDA device among them."""
    cpu = torch.device("cpu")
    devices, no_cuda = [Device("cpu", cpu_name(), native_bf16(cpu))], None
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
            for i in range(torch.cuda.device_count()):
                device = torch.device("cuda", i)
                seen = torch.cuda.get_device_properties(device)
                memory, capability = seen.total_memory, f"{seen.major}.{seen.minor}"
                devices.append(Device(str(device), seen.name, native_bf16(device), memory, capability))
        except Exception as error:  # no driver, an old driver, a lost device
            no_cuda = "; ".join([one_line(error), *(str(one.message).splitlines()[0] for one in said)])
    for kind in ("mps", "xpu"):
        backend: Any = getattr(torch, kind, None)
        if backend is not None and backend.is_available():
            devices.append(Device(kind, kind, native_bf16=False))
    return devices, no_cuda


def _data() -> dict[str, str | None] | str:
    from tvlars.lab.data.where import found

    try:
        return found()
    except Exception as error:
        return f"unknown: {one_line(error)}"


def _extras() -> dict[str, list[Package]] | str:
    """Return the packages of every extra, as listed in the metadata of the installed tvlars."""
    try:
        requirements = metadata.requires("tvlars") or []
    except metadata.PackageNotFoundError:
        return "unknown, since tvlars was not installed by pip"
    modules: dict[str, str] = {}
    for module, names in metadata.packages_distributions().items():
        for name in names:
            if not module.startswith("_"):
                modules.setdefault(_normal(name), module)
    extras: dict[str, list[Package]] = {}
    for requirement in requirements:
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        marker = re.search(r"""extra\s*==\s*['"]([\w-]+)['"]""", requirement)
        if marker and marker[1] not in LEFT_OUT and name != "tvlars":
            imported = modules.get(_normal(name)) if marker[1] in IMPORTED else None
            extras.setdefault(marker[1], []).append(_package(name, imported))
    return dict(sorted(extras.items(), key=lambda item: (item[0] not in IMPORTED, item[0])))


def _package(name: str, module: str | None) -> Package:
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Package(name, None)
    return Package(name, version, _problem(module) if module else None)


def _normal(name: str) -> str:
    """Return the normalized name of a package, as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _problem(module: str, whole: bool = False) -> str | None:
    """Return why ``module``, or with ``whole`` any of its public names, cannot be imported; None if it can.

    Output of the module while it is imported is hidden.
    """
    hidden = io.StringIO()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
            warnings.simplefilter("ignore")
            imported = importlib.import_module(module)
            for name in imported.__all__ if whole else ():
                getattr(imported, name)
    except (Exception, SystemExit) as error:
        return one_line(error)
    return None
