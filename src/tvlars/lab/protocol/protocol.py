"""Protocol: reads a file, checks it, does the runs, and compares them with the protocol."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tvlars._notebook import page, paragraph, pre
from tvlars._reading import read_bytes
from tvlars.lab.comparison.family import check_family
from tvlars.lab.config import TrainConfig
from tvlars.lab.errors import UsageError
from tvlars.lab.experiments.compare_config import CompareConfig
from tvlars.lab.experiments.grid import Grid
from tvlars.lab.experiments.yaml_file import read_yaml
from tvlars.lab.protocol.check import Check, check
from tvlars.lab.protocol.parse import SWEEP, check_parts, config_of, family_of, grid_of
from tvlars.lab.registered import deviations as registered
from tvlars.lab.registered.record import digest_of, register

WORK = {name: f"tvlars.lab.experiments.{name}" for name in ("compare", "sweep")}
WORK |= {"tune": "tvlars.lab.experiments.tuning.tune"}
WORK |= {name: f"tvlars.lab.experiments.{name}.{name}" for name in ("robustness", "scaling")}
"""Module of each command's function; the function has the command's name."""
BESIDE = ("within", "target", "rerun", "widen", "spent")
"""Options of commands that are not visible in any run or table."""


@dataclass(frozen=True)
class Protocol:
    """A protocol of experiments, declared before the first run.

    The file is YAML with the parts name, question, command (compare, tune, robustness, scaling or sweep), options,
    arms, space, tuning, seeds, family, margin, power, stopping, cuts and measure; see the guide on protocols.
    """

    content: dict[str, Any]
    """Parsed content of the file."""
    text: bytes
    """Bytes of the file."""
    config: Any = field(repr=False)
    """Config of the command, with the digest in its runs: ``CompareConfig``, ``TuneConfig``, ``Grid`` and so on."""

    @classmethod
    def read(cls, file: Path | str) -> Protocol:
        """Return the protocol of a YAML file. Data are not loaded before :meth:`check`.

        Raises:
            UsageError: the file cannot be read, a part is missing, or an option is bad.
        """
        file = Path(file)
        content = read_yaml(file, "protocol")
        text = read_bytes(file)
        try:
            content = check_parts(content)
            digest = digest_of(content)
            config = (grid_of if content["command"] == SWEEP else config_of)(content, digest)
            family = family_of(content)
            if family != "all":
                check_family(family, arm_names(config))
        except UsageError as error:
            raise UsageError(f"{file}: {error}") from error
        return cls(content, text, config)

    @property
    def name(self) -> str:
        """Name of the protocol, for folders and pages."""
        return str(self.content["name"])

    @property
    def command(self) -> str:
        """Command that does the runs."""
        return str(self.content["command"])

    @property
    def digest(self) -> str:
        """SHA-256 (64 hexadecimal digits) of the content in canonical JSON: sorted keys, equal numbers written alike.

        The digest does not depend on comments, order and layout of the file.
        """
        return digest_of(self.content)

    def _repr_html_(self) -> str:
        """Return name, digest and file as HTML for notebooks."""
        return page(paragraph(f"protocol {self.name}, digest {self.digest}"), pre(self.text.decode(errors="replace")))

    def check(self) -> Check:
        """Check the protocol against its data, and return its runs and their numbers; nothing is trained.

        Raises:
            UsageError: an option does not fit the data, nothing is held out for validation, or budgets differ.
        """
        return check(self.content, self.config)

    def deviations(self, folder: Path | str) -> list[str]:
        """Return the deviations of the runs in a folder from the protocol, one clause each; [] if there are none.

        Deviations are runs that are under another protocol or none, started before the record, missing, not planned,
        with other options, or without a result; another family, margin or number of trials; changes of the protocol.

        Raises:
            UsageError: the folder does not exist, or its record is damaged.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UsageError(f"folder must be the folder of the protocol's runs, but {str(folder)!r} is not a folder")
        return registered.deviations(folder, self.digest, self.check().planned)

    def folder(self, out: Path | str | None = None) -> Path:
        """Return the folder of the runs: ``out``, or runs/ followed by the protocol's name."""
        return Path("runs") / self.name if out is None else Path(out)

    def begin(self, out: Path | str | None = None, *, allow_deviation: bool = False, config: Any = None) -> Path:
        """Check the protocol, record it in the folder of its runs, and return the folder.

        Args:
            out: folder; None (default): runs/ followed by the protocol's name.
            allow_deviation: True to replace another protocol that is recorded in the folder.
            config: config of the runs; options for the evaluation of results that differ are recorded as deviations.

        Raises:
            UsageError: see :meth:`check`; or the folder has another protocol, or holds something else.
        """
        folder = self.folder(out)
        beside = [
            f"{name} is {getattr(config, name)} instead of {getattr(self.config, name)}"
            for name in BESIDE
            if hasattr(config, name) and getattr(config, name) != getattr(self.config, name)
        ]
        planned = self.check().planned
        register(folder, self.content, planned, self.text, allow_deviation=allow_deviation, beside=beside)
        return folder

    def run(self, out: Path | str | None = None, *, allow_deviation: bool = False, **how: Any) -> Any:
        """Do all remaining runs of the protocol, and return the result of its command's function.

        Args:
            out: folder, continued if it exists; None (default): runs/ followed by the protocol's name.
            allow_deviation: True to continue in a folder with another protocol, which is recorded as a deviation.
            how: arguments of the command's function, such as ``workers``.

        Raises:
            UsageError: see :meth:`begin` and the command's function.
        """
        folder = self.begin(out, allow_deviation=allow_deviation)
        work: Callable[..., Any] = getattr(importlib.import_module(WORK[self.command]), self.command)
        if isinstance(self.config, Grid):
            declared = {"family": family_of(self.content), "margin": self.content.get("margin")}
            return work(self.config.runs, folder, **declared, **how)
        return work(replace(self.config, out=folder), **how)


def arm_names(config: Any) -> list[str]:
    """Return the names of all arms of a config."""
    if isinstance(config, Grid):
        return list(dict.fromkeys(run.arm_name for run in config.runs))
    compared: CompareConfig = config.compared() if hasattr(config, "compared") else config
    if hasattr(compared, "runs"):
        runs: list[TrainConfig] = compared.runs()
        return list(dict.fromkeys(run.arm_name for run in runs))
    return [arm.name for arm in config.all_arms()]
