"""Several runs one after the other, and what they show together: a table and a page."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from tvlars._reading import read_json, reason
from tvlars.lab.comparison import statistics as summary
from tvlars.lab.comparison.verdict import answers, with_verdicts
from tvlars.lab.config import TrainConfig
from tvlars.lab.data import ImageData, load_data
from tvlars.lab.errors import DivergedError, UsageError
from tvlars.lab.experiments.compare_config import CompareConfig
from tvlars.lab.fits import check_batch
from tvlars.lab.models import build_model
from tvlars.lab.processes.alike import check_alike, facts_of
from tvlars.lab.processes.processes import Processes, make_fabric
from tvlars.lab.run_folder.disk import write_whole
from tvlars.lab.run_folder.loaded_run import read_correct
from tvlars.lab.run_folder.record import command_line, new_folder, write_json
from tvlars.lab.ssl.views import describe_views
from tvlars.lab.training.output import say
from tvlars.lab.training.prepare import check_machine, check_run, choose_precision, describe_batch
from tvlars.lab.training.progress import Reporter, choose_reporter
from tvlars.lab.training.train import train
from tvlars.plan import Plan


@dataclass(frozen=True)
class RunRow:
    """One run of a comparison. ``status`` is finished or diverged; losses are means, ``seconds`` without tests.

    ``test_images`` is how many the accuracy is of; None where that is not known.
    """

    optimizer: str
    batch_size: int
    seed: int
    lr: float
    status: str
    test_accuracy: float | None = None
    test_loss: float | None = None
    train_loss: float | None = None
    images_per_second: float | None = None
    seconds: float | None = None
    note: str = ""
    folder: str = ""
    test_images: int | None = None


@dataclass
class Comparison:
    """What came out of a comparison, read from or written to its folder."""

    folder: Path
    command: str
    runs: list[RunRow] = field(default_factory=list)
    measure: str = "test accuracy"
    """What ``test_accuracy`` is that of: with self-supervised learning "linear-probe accuracy"."""
    _differences: pd.DataFrame | None = field(default=None, init=False, repr=False, compare=False)
    """Differences that belong to a larger family of comparisons."""

    @property
    def diverged(self) -> list[RunRow]:
        """The runs that were stopped since their loss was not finite."""
        return [run for run in self.runs if run.status == "diverged"]

    def table(self) -> pd.DataFrame:
        """One row per optimizer and batch size, see :func:`tvlars.lab.comparison.statistics.table`; arm is "optimizer".

        With ``against_highest``, ``p_adjusted`` and ``verdict`` of :func:`tvlars.lab.comparison.verdict.with_verdicts`.
        """
        rows = with_verdicts(summary.table(self._frame()), self.differences())
        return rows.rename(columns={"arm": "optimizer"})

    def differences(self) -> pd.DataFrame:
        """One row per pair of optimizers and batch size, see :func:`tvlars.lab.comparison.statistics.differences`.

        p-values are adjusted for all pairs, and significance is judged by seeds and test images.
        """
        return summary.differences(self._frame()) if self._differences is None else self._differences

    def answers(self) -> list[str]:
        """The result in a sentence for each batch size."""
        return answers(summary.table(self._frame()), self.differences(), self.measure)

    def _frame(self) -> pd.DataFrame:
        """The runs, with the predictions that their folders keep."""
        frame = pd.DataFrame([asdict(run) for run in self.runs], columns=list(RunRow.__annotations__))
        return frame.rename(columns={"optimizer": "arm"}).assign(correct=[self._correct(run) for run in self.runs])

    def _correct(self, run: RunRow) -> Any:
        """Which test images a run has right; None where that is not kept, or not of the accuracy that stands here."""
        images, accuracy = run.test_images, run.test_accuracy
        if run.status != "finished" or not run.folder or not images or accuracy is None or images != images:
            return None
        return read_correct(self.folder / run.folder, int(images), accuracy)

    def save(self) -> None:
        """Write comparison.json and results.csv into the folder."""
        runs = [asdict(run) for run in self.runs]
        write_json(self.folder / "comparison.json", {"command": self.command, "measure": self.measure, "runs": runs})
        table = pd.DataFrame(runs, columns=list(RunRow.__annotations__)).to_csv(index=False)
        write_whole(self.folder / "results.csv", table.encode())

    @classmethod
    def load(cls, folder: Path | str) -> Comparison:
        """Read a comparison back from its folder.

        Raises:
            UsageError: comparison.json is missing, damaged or not that of a comparison.
        """
        folder = Path(folder)
        file = folder / "comparison.json"
        try:
            stored = read_json(file, folder)
            rows = [_row(run) for run in stored["runs"]]
            command, measure = str(stored["command"]), str(stored.get("measure", "test accuracy"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(
                f"{str(file)!r} must be that of a comparison, but cannot be read: {reason(error)}"
            ) from error
        return cls(folder, command, rows, measure)


def compare(
    config: CompareConfig,
    *,
    reporter: Callable[[], Reporter] | None = None,
    announce: Callable[[str], None] = say,
) -> Comparison:
    """Train every optimizer at every batch size with every seed, and write results and page as they come.

    Args:
        config: what to compare.
        reporter: makes the reporter of each run; None (default): a bar, or plain lines where there is no
            terminal. ``Reporter`` is silent.
        announce: is told, a line each, what the comparison is and which run begins; default: prints it.

    Returns:
        The comparison; a run that diverged is in it with its status, and the others go on.

    Raises:
        UsageError: config and data do not go together. Nothing has been written then.
        KeyboardInterrupt: as it came; what was measured is in the folder, page included.
    """
    from tvlars.lab.report import write_report

    make_reporter = reporter or partial(choose_reporter, brief=True)
    data = load_data(config.base.data, config.base.data_dir, config.base.image_size, config.base.skip_bad_images)
    runs = config.runs()
    plans = [check_run(run, data) for run in runs]  # so that a bad value is said before any run
    for run in runs:
        check_machine(run)
    processes = Processes(make_fabric(replace(config.base, batch_size=min(config.batch_sizes)), "32-true"))
    for run in runs:
        check_batch(run.batch_size, run.micro_batch_size, processes.count)
    if processes.several:
        varied = {name: getattr(config, name) for name in ("optimizers", "batch_sizes", "seeds", "overrides")}
        facts = {**varied, **facts_of(config.base, plans[0], data, choose_precision(config.base))}
        check_alike(processes, json.loads(json.dumps(facts, default=str)))
    folder = processes.by_first(lambda: _new_comparison(config))
    if not processes.first:
        return _take_part(config, folder, data)
    comparison = Comparison(folder, command_line(), measure=config.base.accuracy_name())
    announce(
        f"{len(runs)} runs: {', '.join(config.optimizers)}; batch sizes {', '.join(map(str, config.batch_sizes))}; "
        f"seeds {', '.join(map(str, config.seeds))}"
    )
    for line in (str(data), *data.account):
        announce(line)
    announce(build_model(config.base.model, data.channels, data.image_size, data.classes, config.base.init)[1])
    if config.base.task != "classification":
        announce(f"{config.base.task}; views: {describe_views(data.channels, data.image_size, data.flip)}")
    for batch_size in config.batch_sizes:
        announce(describe_batch(replace(config.base, batch_size=batch_size), processes.count))
    for plan in dict.fromkeys(plans):
        announce(str(plan))
    over = False
    try:
        for number, (run, plan) in enumerate(zip(runs, plans, strict=True), 1):
            announce(f"run {number} of {len(runs)}: {run.label()}")
            comparison.runs.append(_one_run(run, plan, data, folder, make_reporter()))
            comparison.save()
        over = True
    except KeyboardInterrupt:
        announce(f"interrupted after {len(comparison.runs)} of {len(runs)} runs; page: {folder / 'report.html'}")
        raise
    finally:
        try:
            comparison.save()
            write_report(comparison)
        except (OSError, UsageError) as error:
            if over:
                raise
            announce(f"results could not be written: {error}")  # why it ended comes first
    return comparison


def _new_comparison(config: CompareConfig) -> Path:
    folder = new_folder(config.out, f"compare-{config.base.data_label()}")
    write_json(folder / "config.json", json.loads(config.to_json()))
    return folder


def _take_part(config: CompareConfig, folder: Path, data: ImageData) -> Comparison:
    """What the other processes of a comparison do: train, and leave the rest to the first one."""
    comparison = Comparison(folder, command_line(), measure=config.base.accuracy_name())
    for run in config.runs():
        comparison.runs.append(_one_run(run, run.plan(len(data.train_labels)), data, folder, Reporter()))
    return comparison


def _one_run(run: TrainConfig, plan: Plan, data: ImageData, folder: Path, reporter: Reporter) -> RunRow:
    run_folder = folder / f"{run.optimizer}-b{run.batch_size}-s{run.seed}"
    run_folder.mkdir(exist_ok=True)  # another process may have made it
    row = RunRow(run.optimizer, run.batch_size, run.seed, plan.lr, "finished", folder=run_folder.name)
    try:
        result = train(run, data=data, folder=run_folder, reporter=reporter)
    except DivergedError as error:
        return replace(row, status="diverged", note=f"loss not finite at step {error.step}, lr {error.lr:.4g}")
    last = result.epochs[-1]
    seconds = sum(epoch.seconds for epoch in result.epochs)
    return replace(
        row,
        test_accuracy=result.test_accuracy,
        test_loss=last.test_loss,
        train_loss=last.train_loss,
        images_per_second=last.step * run.batch_size / seconds,
        seconds=seconds,
        test_images=len(data.test_labels),
    )


def _row(values: Any) -> RunRow:
    """The row of a run as it stands in comparison.json.

    Raises:
        ValueError: it is none.
    """
    row = RunRow(**values)
    kinds: dict[str, Any] = {
        **{"int": int, "str": str, "float": (int, float)},
        **{"float | None": (int, float, type(None)), "int | None": (int, type(None))},
    }
    for f in fields(RunRow):
        value = getattr(row, f.name)
        if not isinstance(value, kinds[str(f.type)]) or isinstance(value, bool):
            raise ValueError(f"{f.name} of a run is {value!r:.60}")
    if row.test_accuracy is not None and not (math.isnan(row.test_accuracy) or 0 <= row.test_accuracy <= 1):
        raise ValueError(f"test_accuracy of a run is {row.test_accuracy!r:.60}, no fraction")
    if row.test_images is not None and row.test_images < 1:
        raise ValueError(f"test_images of a run is {row.test_images!r:.60}")
    if row.status == "finished" and row.test_accuracy is None:
        raise ValueError("a run has finished without a test_accuracy")
    return row
