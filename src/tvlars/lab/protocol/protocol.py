"""A protocol: read from its file, checked, run, and compared with the runs in a folder."""

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
"""Module of each command's function, which has the command's name."""
BESIDE = ("within", "target", "rerun", "widen", "spent")
"""Options of commands that no run and no table shows."""


@dataclass(frozen=True)
class Protocol:
    """A protocol of experiments, declared before the first run.

    Its file is YAML: name, question, command (compare, tune, robustness, scaling or sweep), options, arms, space,
    tuning, seeds, family, margin, power, stopping, cuts, measure. See the guide on protocols for each.
    """

    content: dict[str, Any]
    """Parsed content of the file."""
    text: bytes
    """The file itself."""
    config: Any = field(repr=False)
    """Config of the command, with the digest in its runs: ``CompareConfig``, ``TuneConfig``, ``Grid`` and so on."""

    @classmethod
    def read(cls, file: Path | str) -> Protocol:
        """Return the protocol of a YAML file. No data are loaded; :meth:`check` does that.

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
        """Command that does its runs."""
        return str(self.content["command"])

    @property
    def digest(self) -> str:
        """The sha256, 64 hexadecimal digits, of the content in canonical JSON: sorted keys, equal numbers alike.

        Comments, order and layout of the file play no part.
        """
        return digest_of(self.content)

    def _repr_html_(self) -> str:
        """Return name, digest and file as HTML, for notebooks."""
        return page(paragraph(f"protocol {self.name}, digest {self.digest}"), pre(self.text.decode(errors="replace")))

    def check(self) -> Check:
        """Return the runs of the protocol and their numbers, checked against the data; nothing is trained.

        Raises:
            UsageError: an option does not fit the data, nothing is held out for validation, or budgets differ.
        """
        return check(self.content, self.config)

    def deviations(self, folder: Path | str) -> list[str]:
        """Return the ways in which the runs in a folder differ from the protocol, a clause each; [] if in none.

        They are: runs of another digest or none, begun before the protocol was recorded, missing, not planned, with
        other options, or without a result; another family or margin; more or fewer trials; changes of the protocol.

        Raises:
            UsageError: there is no such folder, or the record there is damaged.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise UsageError(f"folder must be that of the protocol's runs, got {str(folder)!r}, which is none")
        return registered.deviations(folder, self.digest, self.check().planned)

    def folder(self, out: Path | str | None = None) -> Path:
        """Return the folder of the runs, ``out`` or runs/ and the protocol's name."""
        return Path("runs") / self.name if out is None else Path(out)

    def begin(self, out: Path | str | None = None, *, allow_deviation: bool = False, config: Any = None) -> Path:
        """Check the protocol, record it in the folder of its runs, and return the folder.

        Args:
            out: folder; None (default): runs/ and the protocol's name.
            allow_deviation: True to replace another protocol that is recorded there.
            config: the one that runs are done by; options of reading results that differ are recorded as deviations.

        Raises:
            UsageError: see :meth:`check`; the folder has another protocol, or holds something else.
        """
        folder = self.folder(out)
        beside = [
            f"{name} is {getattr(config, name)} in place of {getattr(self.config, name)}"
            for name in BESIDE
            if hasattr(config, name) and getattr(config, name) != getattr(self.config, name)
        ]
        planned = self.check().planned
        register(folder, self.content, planned, self.text, allow_deviation=allow_deviation, beside=beside)
        return folder

    def run(self, out: Path | str | None = None, *, allow_deviation: bool = False, **how: Any) -> Any:
        """Do all runs of the protocol that are not over, and return the result of its command's function.

        Args:
            out: folder, gone on with where it exists; None (default): runs/ and the protocol's name.
            allow_deviation: True to go on in a folder that has another protocol, which is recorded as a deviation.
            how: arguments of the command's function, such as ``workers``.

        Raises:
            UsageError: see :meth:`begin`, and the command's function.
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
