"""The commands that look at runs and data: ``sharpness``, ``landscape``, ``report``, ``diff`` and ``views``."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from tvlars._command import INTERRUPTED
from tvlars.cli._options import DECLARED, add_option, add_those_of_data, fail, new_command, type_of
from tvlars.lab.config import OPTIONS
from tvlars.lab.console import columns, say
from tvlars.lab.errors import UsageError
from tvlars.lab.experiments.compare_config import CompareConfig
from tvlars.lab.options import options_of


def add(commands: Any, *_: Any) -> None:
    """Add the commands."""
    sharpness = new_command(commands, "sharpness", _sharpness)
    for name in ("sharpness_statistics", "sharpness_statistics_samples"):
        add_option(sharpness, OPTIONS[name], flag="--" + name.removeprefix("sharpness_").replace("_", "-"))
    landscape = new_command(commands, "landscape", _landscape)
    landscape.add_argument("--to", metavar="RUN", type=Path, help="another run: draw the loss on the line between both")
    landscape.add_argument("--dimensions", type=type_of(int), default=1, metavar="N", help="1 (default) or 2")
    landscape.add_argument(
        "--points", type=type_of(int), default=21, metavar="N", help="points per direction (default: 21)"
    )
    text = "length of a direction, in norms of the filters (default: 1.0)"
    landscape.add_argument("--span", type=type_of(float), default=1.0, metavar="X", help=text)
    page = new_command(commands, "report", _report)
    page.add_argument("folders", metavar="RUN", nargs="+", type=Path, help="run or comparison folders")
    text = (
        "page to write (.html), or a table for papers (.md, .tex), or all its numbers (.csv); "
        "default: report.html in the folder, if one folder is given"
    )
    page.add_argument("-o", "--out", type=Path, metavar="FILE", help=text)
    text = "update the page every so many seconds, and have browsers reload it, until interrupted"
    page.add_argument("--watch", type=type_of(int), metavar="SECONDS", help=text)
    declared = options_of(CompareConfig)
    for name, metavar in DECLARED.items():
        add_option(page, declared[name], default=None, metavar=metavar)
    for command_parser in (sharpness, landscape):
        command_parser.add_argument("run_folder", metavar="RUN", type=Path, help="run folder")
        text = "number of training images (default: 1024)"
        command_parser.add_argument("--samples", type=type_of(int), default=1024, metavar="N", help=text)
        command_parser.add_argument("--data-dir", type=Path, help="folder of the data set (default: as in the run)")
    diff = new_command(commands, "diff", _diff)
    for name in ("a", "b"):
        diff.add_argument(name, metavar=name.upper(), type=Path, help="folder of a run or of a comparison")
    views = new_command(commands, "views", _views)
    views.add_argument("data", metavar="DATASET", help="name of the data set, or imagefolder:PATH")
    views.add_argument("--count", type=type_of(int), default=8, metavar="N", help="number of images (default: 8)")
    views.add_argument("--seed", type=type_of(int), default=0, metavar="N", help="(default: 0)")
    text = "PNG to write (default: views.png)"
    views.add_argument("-o", "--out", type=Path, default=Path("views.png"), metavar="FILE", help=text)
    add_those_of_data(views, without=("data",))


def _sharpness(parsed: argparse.Namespace) -> int:
    from tvlars.lab.measure.sharpness import run_sharpness

    _check_samples(parsed)
    row = run_sharpness(
        parsed.run_folder,
        samples=parsed.samples,
        statistics=parsed.statistics,
        statistics_samples=parsed.statistics_samples,
        data_dir=parsed.data_dir,
    )
    say(f"run      {parsed.run_folder}, after epoch {row.epoch} (step {row.step})")
    say(f"on       {row.samples:,} training images, loss {row.loss:.4f}, {row.statistics} statistics of batch norm")
    say(f"Hessian  top eigenvalue {row.hessian_max:.4g}, trace {row.hessian_trace:.4g} ± {row.hessian_trace_error:.2g}")
    if row.hessian_max_at_initial_norm == row.hessian_max_at_initial_norm:
        at = row.hessian_max_at_initial_norm
        say(f"         top eigenvalue {at:.4g} with weights whose scale has no effect at their initial norms")
    say(f"adaptive worst case {row.worst_case:.4g}, average case {row.average_case:.4g} ± {row.average_case_error:.2g}")
    say(f"Keskar   {row.keskar:.4g} % ({row.seconds:.0f} s; kept in {parsed.run_folder / 'sharpness.csv'})")
    return 0


def _landscape(parsed: argparse.Namespace) -> int:
    from tvlars.lab.measure.landscape import run_landscape

    _check_samples(parsed)
    try:
        frame, picture = run_landscape(
            parsed.run_folder,
            parsed.to,
            dimensions=parsed.dimensions,
            points=parsed.points,
            span=parsed.span,
            samples=parsed.samples,
            data_dir=parsed.data_dir,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    say(f"training loss from {frame['loss'].min():.4f} to {frame['loss'].max():.4f} at {len(frame)} points")
    say(f"numbers: {picture.with_suffix('.csv')}")
    say(f"picture: {picture}")
    return 0


def _report(parsed: argparse.Namespace) -> int:
    from tvlars.lab.report import report
    from tvlars.lab.run_folder.environment import command_line

    out = parsed.out
    if out is None:
        only = parsed.folders[0] if len(parsed.folders) == 1 else Path()
        out = only / "report.html"
    if parsed.watch is not None and not 1 <= parsed.watch <= 86_400:
        raise UsageError(f"watch must be an integer from 1 to 86400 (seconds), got {parsed.watch}")
    how = dict(command=command_line(), refresh=parsed.watch, family=parsed.family, margin=parsed.margin)
    page = report(parsed.folders, out, **how)
    say(f"{'page' if page.suffix.lower().startswith('.htm') else 'table'}: {page}")
    said = ""
    try:
        while parsed.watch is not None:
            time.sleep(parsed.watch)
            try:
                report(parsed.folders, out, **how)
                trouble = ""
            except (UsageError, OSError) as error:  # such as a moved folder or a full disk: it may be temporary
                trouble = str(error)
            if trouble and trouble != said:
                say(f"the page was not updated: {trouble}")
            said = trouble
    except KeyboardInterrupt:
        return fail(f"interrupted; {page} has the last complete update", INTERRUPTED)
    return 0


def _diff(parsed: argparse.Namespace) -> int:
    from tvlars.lab.history.difference import diff_runs

    say(diff_runs(parsed.a, parsed.b).text(columns()))
    return 0


def _views(parsed: argparse.Namespace) -> int:
    from tvlars.lab.data import load_data
    from tvlars.lab.ssl import describe_views, draw_views

    data = load_data(parsed.data, parsed.data_dir, parsed.image_size, parsed.skip_bad_images)
    picture = draw_views(data, parsed.out, parsed.count, parsed.seed)
    for line in (f"data     {data}", *data.account):
        say(line)
    say(f"views    {describe_views(data.channels, data.image_size, data.flip)}")
    say(f"picture: {picture}")
    return 0


def _check_samples(parsed: argparse.Namespace) -> None:
    if parsed.samples < 2:
        raise UsageError(f"samples must be an integer >= 2, got {parsed.samples}")
