"""One answer says how a run may be done in a folder, and nothing is written for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lab.stops import StopAt
from tvlars.lab import DivergedError, Reporter, TrainConfig, UsageError, load_run, train
from tvlars.lab.data import ImageData
from tvlars.lab.errors import PreemptedError
from tvlars.lab.files.lock import LOCK
from tvlars.lab.run_folder.resuming import Finished, GoOn, New, look, opened
from tvlars.lab.run_folder.status import Status

CONFIG = TrainConfig(
    epochs=2, precision="32-true", accelerator="cpu", checkpoint_every="2-steps", resume=True, out=Path("run")
)


def contents(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_new_go_on_and_finished(tmp_path: Path, digits: ImageData) -> None:
    run, plan = tmp_path / "run", CONFIG.plan(len(digits.train_labels))
    run.mkdir()
    assert look(run, CONFIG, plan, digits.fingerprint) == New()
    with pytest.raises(SystemExit):
        train(replace(CONFIG, out=run), data=digits, reporter=StopAt(step=7))
    (run / "summary.json").unlink()
    before = contents(run)
    found = look(run, CONFIG, plan, digits.fingerprint)
    assert isinstance(found, GoOn)
    assert (found.manifest.step, len(found.epochs), len(found.steps)) == (6, 1, 1)
    with pytest.raises(UsageError, match="config differs: seed 0 there, 3 here"):
        look(run, replace(CONFIG, seed=3), plan, digits.fingerprint)
    file = run / "plan.json"
    for name, earlier in (("schedule", "linear"), ("lr", 8.0), ("delay", 7.5)):
        text = file.read_text()
        file.write_text(json.dumps({**json.loads(text), name: earlier}))
        with pytest.raises(UsageError, match=f"plan differs: {name} .*{earlier}.* there, .* defaults have changed"):
            look(run, CONFIG, plan, digits.fingerprint)
        file.write_text(text)
    before[file.name] = file.stat().st_mtime_ns
    assert contents(run) == before
    result = train(replace(CONFIG, out=run), data=digits, reporter=Reporter())
    again = look(run, CONFIG, plan, digits.fingerprint)
    assert isinstance(again, Finished)
    assert again.result.test_accuracy == pytest.approx(result.test_accuracy, rel=1e-6)


def test_epochs_before_the_first_checkpoint_are_counted(tmp_path: Path, digits: ImageData) -> None:
    run, config = tmp_path / "run", replace(CONFIG, checkpoint_every=None)
    with pytest.raises(SystemExit):
        train(replace(config, out=run), data=digits, reporter=StopAt(epoch=1))
    (run / "summary.json").unlink()
    assert look(run, config, config.plan(len(digits.train_labels)), digits.fingerprint) == New(epochs=1)


def test_no_lock_is_made_in_a_strangers_folder(tmp_path: Path, digits: ImageData) -> None:
    (tmp_path / "cat.png").write_text("meow")
    config, plan = replace(CONFIG, out=tmp_path), CONFIG.plan(len(digits.train_labels))
    with (
        pytest.raises(UsageError, match="holds something else"),
        opened(config, plan, digits.fingerprint, None, pytest.fail),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["cat.png"]
    assert not (tmp_path / LOCK).exists()


def test_how_a_run_ended_is_one_word(tmp_path: Path) -> None:
    assert json.dumps(Status.FINISHED) == '"finished"'
    assert f"{Status.NOT_DONE} {Status.NOT_DONE}" == "not done not done"
    for error, status in (
        (KeyboardInterrupt(), "interrupted"),
        (PreemptedError("SIGTERM"), "preempted"),
        (DivergedError("lars", 1, 0.1, tmp_path), "diverged"),
        (RuntimeError(), "failed"),
    ):
        assert Status.of_error(error) == status
    (tmp_path / "config.json").write_text("{}")
    for word in ("banana", 7, ["finished"], None):
        (tmp_path / "summary.json").write_text(json.dumps({"status": word}))
        run = load_run(tmp_path)
        assert run.status is Status.UNFINISHED
        assert "summary.json does not say how the run ended" in run.problems
