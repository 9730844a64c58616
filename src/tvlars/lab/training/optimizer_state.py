"""State of an optimizer of any class in a checkpoint and back, and a trial whether an imported one restores it.

The optimizers known by name are checked strictly, see ``run_folder.checkpoints.state_check``. For imported ones only
the structure is known.
"""

from __future__ import annotations

import contextlib
import copy
import io
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tvlars._checks import one_line
from tvlars.lab import memory
from tvlars.lab.config import TrainConfig
from tvlars.lab.errors import UsageError
from tvlars.lab.imported import said_path
from tvlars.lab.optimizers import is_class, is_known
from tvlars.lab.run_folder.checkpoints.state_check import Checked, anything
from tvlars.lab.run_folder.checkpoints.values import DTYPES, decode, encode, is_key, name_of
from tvlars.lab.training.optimizers import LARGEST, averages, build_optimizer, is_plain_state, refuse_step
from tvlars.plan import Plan

WHOLE = "whole"
"""Entry with the state dict of an optimizer whose state is not kept by parameter."""
STEPS = 6
"""Steps of the trial before its state is kept, and after."""


class UnkeptStateError(TypeError):
    """The state of an optimizer has something that a checkpoint cannot hold."""


def packed(optimizer: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the state of an optimizer as values for a checkpoint, and its tensors by "parameter.name".

    Options of groups that a checkpoint cannot hold, such as functions, are left out.

    Raises:
        UnkeptStateError: the state has something else that a checkpoint cannot hold.
    """
    state: dict[str, Any] = optimizer.state_dict()
    if not is_plain_state(state):
        check_kept(state)
        return {WHOLE: state}, {}
    kept: dict[int, dict[str, Any]] = {}
    inside: dict[str, Tensor] = {}
    for index, entries in state["state"].items():
        kept[index] = {key: value for key, value in entries.items() if not isinstance(value, Tensor)}
        inside |= {f"{index}.{key}": value for key, value in entries.items() if isinstance(value, Tensor)}
    groups = [{name: value for name, value in group.items() if _is_kept(value)} for group in state["param_groups"]]
    packed = {**state, "state": kept, "param_groups": groups}
    check_kept([packed, inside])
    return packed, inside


def unpack(at: Checked, optimizer: Any, found: dict[str, Any], inside: dict[str, Tensor]) -> None:
    """Check the structure of what :func:`packed` returned, and load it into an imported optimizer.

    Raises:
        UsageError: the state is of an optimizer with other groups.
        Exception: whatever ``load_state_dict`` of the optimizer raises.
    """
    at.mapping("optimizer", found)
    if WHOLE in found:
        device = next((p.device for group in optimizer.param_groups for p in group["params"]), torch.device("cpu"))
        optimizer.load_state_dict(_on(found[WHOLE], device))
        return
    built = optimizer.state_dict()
    at.check("optimizer", dict.fromkeys(built, anything), found)
    groups = found["param_groups"]
    if type(groups) is not list or len(groups) != len(built["param_groups"]):
        raise at.refuse("optimizer.param_groups", f"a list of {len(built['param_groups'])} groups", groups)
    for i, (group, here) in enumerate(zip(groups, built["param_groups"], strict=True)):
        at.mapping(f"optimizer.param_groups[{i}]", group)
        at.check(f"optimizer.param_groups[{i}].params", here["params"], group.get("params"))
    count = sum(len(group["params"]) for group in groups)
    at.mapping("optimizer.state", found["state"])
    for index, entries in found["state"].items():
        at.check("a key of optimizer.state", range(count), index)
        at.mapping(f"optimizer.state[{index}]", entries)
    state = {index: dict(entries) for index, entries in found["state"].items()}
    for name, value in inside.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = value
    groups = [{**here, **group} for group, here in zip(groups, built["param_groups"], strict=True)]
    optimizer.load_state_dict({**found, "state": state, "param_groups": groups})


def _is_kept(value: Any) -> bool:
    try:
        check_kept(value)
    except UnkeptStateError:
        return False
    return True


def check_kept(value: Any) -> None:
    """Raise ``UnkeptStateError`` if a checkpoint cannot hold a value."""
    if isinstance(value, Tensor):
        if name_of(value.dtype) not in DTYPES:
            raise UnkeptStateError(f"a tensor of {value.dtype} is no value that can be kept")
    elif isinstance(value, dict):
        for key, one in value.items():
            if not is_key(key):
                raise UnkeptStateError(f"a key {key!r:.40} is no value that can be kept")
            check_kept(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            check_kept(one)
    elif value is not None and type(value) not in (bool, int, float, str):
        raise UnkeptStateError(f"{type(value).__name__} {value!r:.40} is no value that can be kept")


def _on(value: Any, device: torch.device) -> Any:
    """Return a nested value with its tensors on ``device``, except tensors of one number."""
    if isinstance(value, Tensor):
        return value.to(device) if value.dim() else value
    if isinstance(value, dict):
        return {key: _on(one, device) for key, one in value.items()}
    return type(value)(_on(one, device) for one in value) if isinstance(value, (list, tuple)) else value


# -- the trial --------------------------------------------------------------------------------------------------------


def why_inexact(config: TrainConfig, plan: Plan, model: nn.Module) -> str:
    """Return why a resumed run of an imported optimizer may not equal an uninterrupted one bit for bit; "" if it does.

    A few steps with random gradients are taken on a tiny model, or by a function on a copy of ``model``: at once, and
    with a new optimizer that continues from the first one's state. Random numbers of the run are not used.

    Raises:
        UsageError: a function returns no optimizer, or an installed package's optimizer that cannot take a step.
    """
    if is_known(config.optimizer):
        return ""
    said, half = said_path(config.optimizer), min(STEPS, plan.total_steps // 2)
    tiny = is_class(config.optimizer) or sum(p.numel() for p in model.parameters()) > LARGEST
    with torch.random.fork_rng([]), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            network = _tiny() if tiny else copy.deepcopy(model).cpu()
            torch.manual_seed(0)
            whole = _Trial(config, plan, network)
            whole.steps(1, 2 * half)
        except UsageError:
            raise
        except Exception as error:
            if not (tiny or memory.has_ended(error)):  # a function for another model cannot build for the tiny one
                refuse_step(config.optimizer, error)
            return f"the trial of {said} failed, so that it is not known: {one_line(error)}"
        try:
            torch.manual_seed(0)
            first = _Trial(config, plan, network)
            first.steps(1, half)
            kept, random = first.state(), torch.get_rng_state()
            second = _Trial(config, plan, first.network)
            second.load(*kept, taken=half)
            torch.set_rng_state(random)
            second.steps(half + 1, 2 * half)
        except Exception as error:
            return f"the state of {said} cannot be kept and loaded: {one_line(error)}"
    pairs = zip(whole.network.parameters(), second.network.parameters(), strict=True)
    if all(torch.equal(one, other) for one, other in pairs):
        return ""
    return f"the state of {said} lacks something: a new one that loads it takes other steps"


def _tiny() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 5))
    for p in network.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    return network


class _Trial:
    """Copy of a network with an optimizer of its own."""

    def __init__(self, config: TrainConfig, plan: Plan, network: nn.Module) -> None:
        self.network = copy.deepcopy(network)
        built = build_optimizer(config, plan, self.network)
        self.optimizer, self.scheduler = cast(Any, built.optimizer), built.scheduler
        own = built.plan.users_schedule
        self.replayed = own is not None and own.is_scheduler
        """True if steps restore the state of the scheduler, see ``state.py``."""
        if averages(self.optimizer):
            self.optimizer.train()

    def steps(self, first: int, last: int) -> None:
        for step in range(first, last + 1):
            for i, p in enumerate(self.network.parameters()):
                # New directions in each step: the sign of an average shows what a resumed optimizer has forgotten.
                generator = torch.Generator().manual_seed(1_000 * step + i)
                p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
            self.optimizer.step()
            if self.scheduler is not None:
                self.scheduler.step()

    def state(self) -> tuple[bytes, bytes]:
        scheduler = {} if self.scheduler is None or self.replayed else self.scheduler.state_dict()
        return encode([*packed(self.optimizer), scheduler])

    def load(self, text: bytes, data: bytes, taken: int) -> None:
        """Load what :meth:`state` returned after ``taken`` steps."""
        state, inside, scheduler = decode(text, data)
        for _ in range(taken if self.replayed else 0):
            self.scheduler.step()
        unpack(Checked(Path("state")), self.optimizer, state, inside)
        if self.scheduler is not None and not self.replayed:
            self.scheduler.load_state_dict(scheduler)
