"""Loading a state: step counts in any form, older versions, other optimizers, names, and objects that are no state."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import nn

from tests.conftest import OPTIMIZERS, Make, run, set_gradients, tensors
from tvlars import LAMB, LARS, TVLARS

PHI = dict(delay_factor=0.4, delay=4.0)
State = dict[str, Any]


def stepped(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: int = 3) -> State:
    run(optimizer, params, range(steps))
    return copy.deepcopy(optimizer.state_dict())


def counts(state: State) -> list[Any]:
    return [x[k] for x in (*state["param_groups"], *state["state"].values()) for k in ("clock", "step") if k in x]


def with_counts(state: State, change: Callable[[int], Any]) -> State:
    state = copy.deepcopy(state)
    for holder in (*state["param_groups"], *state["state"].values()):
        for key in ("clock", "step"):
            if key in holder:
                holder[key] = change(holder[key])
    return state


FORMS: dict[str, Callable[[int], Any]] = {
    "int": int,
    "float": float,
    "float32 tensor": lambda t: torch.tensor(float(t)),
    "float64 tensor": lambda t: torch.tensor(float(t), dtype=torch.float64),
    "bfloat16 tensor": lambda t: torch.tensor(float(t), dtype=torch.bfloat16),
    "int32 tensor": lambda t: torch.tensor(t, dtype=torch.int32),
    "tensor of one element": lambda t: torch.tensor([t]),
    "tensor of shape (1, 1)": lambda t: torch.tensor([[float(t)]]),
    "numpy int64": lambda t: pytest.importorskip("numpy").int64(t),
    "numpy float32": lambda t: pytest.importorskip("numpy").float32(t),
    "numpy array": lambda t: pytest.importorskip("numpy").array(t),
}


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["tvlars", "lamb"])
def test_a_step_count_may_be_any_number(name: str, form: str, capturable: bool) -> None:
    cls, arguments = OPTIMIZERS[name]
    params = tensors()
    state = stepped(cls(params, **arguments), params)
    expected, others = ([nn.Parameter(p.detach().clone()) for p in params] for _ in range(2))
    plain, loaded = cls(expected, **arguments), cls(others, **arguments)
    plain.load_state_dict(copy.deepcopy(state))
    changed = with_counts(state, FORMS[form])
    for group in changed["param_groups"]:
        group["capturable"] = capturable
    loaded.load_state_dict(changed)
    kinds = {(type(x), getattr(x, "dtype", None)) for x in counts(loaded.state_dict())}
    assert kinds == ({(torch.Tensor, torch.int64)} if capturable else {(int, None)})
    torch.testing.assert_close(
        run(loaded, others, range(3, 5)), run(plain, expected, range(3, 5)), rtol=3e-6, atol=3e-6
    )
    assert {int(x) for x in counts(loaded.state_dict())} == {5}


BAD_COUNTS: list[Any] = [
    *(-1, -1.0, 1.5, math.nan, math.inf, 2**63, 1e30, True, "3", None, [3], Fraction(1, 2), 1j),
    *(torch.tensor(-3.0), torch.tensor(2.5), torch.tensor(math.nan), torch.tensor([1.0, 2.0]), torch.tensor(1e20)),
    *(torch.tensor(True), torch.tensor(1j), torch.tensor([])),
]


@pytest.mark.parametrize("bad", BAD_COUNTS, ids=repr)
@pytest.mark.parametrize("name", ["tvlars", "lamb"])
def test_what_is_no_step_count_is_refused_and_nothing_loaded(name: str, bad: Any) -> None:
    cls, arguments = OPTIMIZERS[name]
    params, others = tensors(), tensors()
    state = with_counts(stepped(cls(params, **arguments), params), lambda _: bad)
    loaded = cls(others, **arguments)
    before = str(loaded.state_dict())
    with pytest.raises(ValueError, match=r"must be a whole number of steps, from 0 to 2\*\*63 - 1, got"):
        loaded.load_state_dict(state)
    assert str(loaded.state_dict()) == before


@pytest.mark.parametrize("name", ["lars", "tvlars", "lamb"])
def test_a_state_that_went_through_json(name: str) -> None:
    """Parameters are strings there, tuples are lists, and tensors have been made lists by whoever wrote it."""
    cls, arguments = OPTIMIZERS[name]
    params = tensors()
    state = stepped(cls(params, **arguments), params)
    text = json.dumps(state, default=lambda x: {"tensor": x.tolist()})
    read = json.loads(text, object_hook=lambda d: torch.tensor(d["tensor"]) if set(d) == {"tensor"} else d)
    assert set(read["state"]) == {str(i) for i in state["state"]}
    loaded = cls(tensors(), **arguments)
    loaded.load_state_dict(read)
    assert str(loaded.state_dict()) == str(state)


@pytest.mark.parametrize("path", [{}, {"foreach": True}, {"capturable": True}])
def test_states_of_before_the_clock_had_a_name_of_its_own(path: dict[str, Any]) -> None:
    params = tensors()
    optimizer = TVLARS(params, 0.5, **PHI)
    state = stepped(optimizer, params)
    older = copy.deepcopy(state)
    for group in older["param_groups"]:
        group["step"] = torch.tensor(float(group.pop("clock")))
    others = [nn.Parameter(p.detach().clone()) for p in params]
    loaded = TVLARS(others, 0.5, total_steps=10, **path)
    loaded.load_state_dict(older)
    assert "step" not in loaded.param_groups[0]
    assert loaded.param_groups[0]["delay"] == PHI["delay"]
    torch.testing.assert_close(run(loaded, others, range(3, 6)), run(optimizer, params, range(3, 6)))


def test_another_librarys_step_in_the_group_is_left_alone() -> None:
    """Wrappers for schedule-free learning count in the group's "step" too, once more in every step."""
    params, others = tensors(), tensors()
    wrapped, plain = TVLARS(params, 0.5, **PHI), TVLARS(others, 0.5, **PHI)
    for step in range(6):
        run(wrapped, params, range(step, step + 1))
        run(plain, others, range(step, step + 1))
        wrapped.param_groups[0]["step"] = wrapped.param_groups[0].get("step", 0) + 1
    assert all(torch.equal(a, b) for a, b in zip(params, others, strict=True))
    loaded = TVLARS(tensors(), 0.5, **PHI)
    loaded.load_state_dict(wrapped.state_dict())
    assert (loaded.param_groups[0]["step"], loaded.param_groups[0]["clock"]) == (6, 6)


# -- other optimizers ---------------------------------------------------------------------------------------


def timm_lamb(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    lamb: torch.optim.Optimizer = pytest.importorskip("timm.optim.lamb").Lamb(params, lr=3e-3, betas=(0.8, 0.9))
    return lamb


class Apex(torch.optim.Optimizer):
    """The form of apex' FusedLAMB: its count is in the group."""

    def __init__(self, params: Any) -> None:
        defaults = dict(lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-6, weight_decay=0.01)
        super().__init__(params, {**defaults, "grad_averaging": True, "max_grad_norm": 1.0})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            for p in group["params"]:
                self.state[p].setdefault("exp_avg", torch.full_like(p, 0.25))
                self.state[p].setdefault("exp_avg_sq", torch.full_like(p, 0.5))


ADAM_LIKE: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "timm Lamb": timm_lamb,
    "apex FusedLAMB": Apex,
    "torch Adam": lambda p: torch.optim.Adam(p, lr=3e-3),
    "torch AdamW": lambda p: torch.optim.AdamW(p, lr=3e-3, betas=(0.8, 0.9)),
    "torch Adam, fused": lambda p: torch.optim.Adam(p, lr=3e-3, fused=True),
}


@pytest.mark.parametrize("theirs", ADAM_LIKE)
def test_lamb_takes_moments_and_counts_and_keeps_its_options(theirs: str) -> None:
    params = tensors()
    state = stepped(ADAM_LIKE[theirs](params), params)
    others = [nn.Parameter(p.detach().clone()) for p in params]
    lamb = LAMB(others, 0.02, betas=(0.7, 0.95))
    options = {key: x for key, x in lamb.param_groups[0].items() if key != "params"}
    lamb.load_state_dict(state)
    assert {key: x for key, x in lamb.param_groups[0].items() if key != "params"} == options
    for i, p in enumerate(others):
        assert set(lamb.state[p]) == {"exp_avg", "exp_avg_sq", "step"}
        assert lamb.state[p]["step"] == 3
        assert torch.equal(lamb.state[p]["exp_avg"], state["state"][i]["exp_avg"])
        assert torch.equal(lamb.state[p]["exp_avg_sq"], state["state"][i]["exp_avg_sq"])
    run(lamb, others, range(3, 4))
    assert all(lamb.state[p]["step"] == 4 for p in others)


def foreign_lars(params: list[nn.Parameter], buffer: str, options: dict[str, Any]) -> State:
    optimizer = torch.optim.SGD(params, 0.1, momentum=0.9)
    state = stepped(optimizer, params)
    group = {"lr": 3.0, "momentum": 0.8, "weight_decay": 0.1, **options, "params": state["param_groups"][0]["params"]}
    entries = {i: {buffer: entry["momentum_buffer"]} for i, entry in state["state"].items()}
    return {"state": entries, "param_groups": [group]}


@pytest.mark.parametrize(
    ("buffer", "options"),
    [
        ("momentum_buffer", dict(trust_coeff=0.001, eps=1e-8, dampening=0, trust_clip=False)),  # timm
        ("momentum_buffer", dict(trust_coefficient=0.001, eps=1e-8, dampening=0, nesterov=False)),  # lightly
        ("momentum_buffer", dict(eta=1e-3, eps=1e-8, clip_lr=False, exclude_bias_n_norm=True)),  # solo-learn
        ("mu", dict(eta=0.001, weight_decay_filter=True, lars_adaptation_filter=True)),  # as published
    ],
)
def test_lars_takes_the_momentum_of_another_lars(buffer: str, options: dict[str, Any]) -> None:
    params = tensors()
    state = foreign_lars(params, buffer, options)
    others = tensors()
    lars = LARS(others, 0.5, momentum=0.7)
    lars.load_state_dict(state)
    assert (lars.param_groups[0]["lr"], lars.param_groups[0]["momentum"]) == (0.5, 0.7)
    for i, p in enumerate(others):
        assert set(lars.state[p]) == {"momentum_buffer"}
        assert torch.equal(lars.state[p]["momentum_buffer"], state["state"][i][buffer])
    run(lars, others, range(1))


def test_lars_goes_on_from_tvlars_without_its_phi() -> None:
    params, others = tensors(), tensors()
    state = stepped(TVLARS(params, 2.0, **PHI), params)
    lars = LARS(others, 0.25)
    lars.load_state_dict(state)
    assert not {"clock", "delay", "phi_scope"} & set(lars.param_groups[0])
    assert lars.param_groups[0]["lr"] == 0.25
    assert torch.equal(lars.state[others[0]]["momentum_buffer"], state["state"][0]["momentum_buffer"])


THEIR_STATES: dict[str, Callable[[list[nn.Parameter]], State]] = {
    **{theirs: lambda p, make=make: stepped(make(p), p) for theirs, make in ADAM_LIKE.items()},
    "torch SGD": lambda p: stepped(torch.optim.SGD(p, 0.1, momentum=0.9), p),
    "torch SGD without momentum": lambda p: stepped(torch.optim.SGD(p, 0.1), p),
    "torch Adam, amsgrad": lambda p: stepped(torch.optim.Adam(p, amsgrad=True), p),
    "torch RMSprop": lambda p: stepped(torch.optim.RMSprop(p), p),
    "LARS": lambda p: stepped(LARS(p, 0.1), p),
    "TVLARS": lambda p: stepped(TVLARS(p, 0.1, **PHI), p),
    "LAMB": lambda p: stepped(LAMB(p, 0.1), p),
}
TAKEN = {
    LARS: {"LARS", "TVLARS"},
    TVLARS: {"TVLARS"},
    LAMB: {"LAMB", *ADAM_LIKE},
}


@pytest.mark.parametrize("theirs", THEIR_STATES)
@pytest.mark.parametrize("cls", [LARS, TVLARS, LAMB])
def test_states_that_mean_something_else_are_refused(cls: Any, theirs: str) -> None:
    state = THEIR_STATES[theirs](tensors())
    params = tensors()
    optimizer = cls(params, 0.1, **(PHI if cls is TVLARS else {}))
    before = str(optimizer.state_dict())
    if theirs in TAKEN[cls]:
        optimizer.load_state_dict(state)
        run(optimizer, params, range(1))
        return
    with pytest.raises(ValueError, match=f"state_dict must be of a {cls.__name__}, but"):
        optimizer.load_state_dict(state)
    assert str(optimizer.state_dict()) == before


# -- damaged states -----------------------------------------------------------------------------------------


def of_first(state: State, **changes: Any) -> State:
    entry = next(iter(state["state"].values()))
    for key, value in changes.items():
        if value is ...:
            del entry[key]
        else:
            entry[key] = value
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: of_first(s, exp_avg=torch.ones(2)), r"exp_avg in .* must have the parameter's shape \(4, 3, 3, 3\)"),
        (lambda s: of_first(s, exp_avg=torch.ones(108)), r"must have the parameter's shape .* got \(108,\)"),
        (
            lambda s: of_first(s, exp_avg=torch.ones(4, 3, 3, 3, dtype=torch.int64)),
            r"real floating point .* torch.int64",
        ),
        (lambda s: of_first(s, exp_avg=torch.ones(4, 3, 3, 3) * 1j), r"real floating point numbers, got .*complex64"),
        (lambda s: of_first(s, exp_avg=[1.0]), r"exp_avg in .* must be a tensor .* got list"),
        (lambda s: of_first(s, exp_avg=...), r"must have exp_avg, exp_avg_sq, step, but lacks exp_avg"),
        (lambda s: of_first(s, exp_avg_sq=None), r"but lacks exp_avg_sq"),
        (lambda s: of_first(s, step=...), r"but lacks step"),
        (lambda s: s["state"].update({77: {}}) or s, r"state of its groups' parameters alone, but has that of 77"),
        (lambda s: s["param_groups"][0].update(betas=(0.9, 5)) or s, r"in parameter group 0 betas\[1\] must be >= 0"),
        (lambda s: s["param_groups"][0].update(betas=3) or s, r"in parameter group 0 betas must be two numbers"),
        (lambda s: s["param_groups"][0].update(lr=math.nan) or s, r"in parameter group 0 lr must be >= 0, got nan"),
        (lambda s: s["param_groups"][0].update(eps="a") or s, r"in parameter group 0 eps must be > 0, got 'a'"),
        (
            lambda s: s["param_groups"][0].update(param_names=["w"]) or s,
            r"state_dict\['param_groups'\] must have a name for each parameter, got 1 for",
        ),
        (lambda s: s["state"], "state_dict must have 'state' and 'param_groups'"),
        (lambda s: {}, "state_dict must have 'state' and 'param_groups'"),
        (lambda s: None, "state_dict must have 'state' and 'param_groups'"),
        (lambda s: {**s, "state": []}, r"state_dict\['state'\] must be a dictionary"),
        (lambda s: {**s, "state": {0: 3}}, r"state_dict\['state'\] must be a dictionary"),
        (lambda s: {**s, "param_groups": 3}, r"state_dict\['param_groups'\] must be a list of dictionaries"),
        (lambda s: {**s, "param_groups": [{"lr": 1}]}, r"state_dict\['param_groups'\] must be a list of dictionaries"),
    ],
)
def test_a_damaged_state_is_refused_and_nothing_loaded(change: Callable[[State], Any], message: str) -> None:
    params, others = tensors(), tensors()
    state = change(stepped(LAMB(params, 0.02), params))
    lamb = LAMB(others, 0.02)
    before = str(lamb.state_dict())
    with pytest.raises(ValueError, match=message):
        lamb.load_state_dict(state)
    assert str(lamb.state_dict()) == before


def test_a_momentum_that_is_none_is_none_yet(path: dict[str, Any]) -> None:
    params, others = tensors(), tensors()
    state = stepped(LARS(params, 0.5), params)
    for entry in state["state"].values():
        entry["momentum_buffer"] = None
    loaded, fresh = LARS(others, 0.5, **path), LARS(params, 0.5, **path)
    for p, q in zip(params, others, strict=True):
        q.data.copy_(p)
    loaded.load_state_dict(state)
    a, b = run(loaded, others, range(2)), run(fresh, params, range(2))
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_what_is_loaded_is_not_shared(make: Make) -> None:
    params, others = tensors(), tensors()
    state = stepped(make(params), params)
    kept = copy.deepcopy(state)
    loaded = make(others)
    loaded.load_state_dict(state)
    set_gradients(others, 9)
    loaded.step()
    loaded.step()
    assert str(counts(state)) == str(counts(kept))


# -- by name ------------------------------------------------------------------------------------------------


def model(*order: str) -> nn.ModuleDict:
    sizes = {"a": 3, "b": 3, "c": 3}
    return nn.ModuleDict({name: nn.Linear(sizes[name], 3, bias=False) for name in order})


def step(optimizer: torch.optim.Optimizer, net: nn.ModuleDict, value: float) -> None:
    for i, name in enumerate(sorted(net)):
        weight: Any = net[name].weight
        weight.grad = torch.full((3, 3), value * (i + 1))
    optimizer.step()


def test_another_order_of_parameters_gets_its_own_state(make: Make) -> None:
    net, other = model("a", "b", "c"), model("c", "a", "b")
    other.load_state_dict(net.state_dict())
    first, second = make(net.named_parameters()), make(other.named_parameters())
    step(first, net, 1.0)
    other.load_state_dict(net.state_dict())
    saved = copy.deepcopy(first.state_dict())  # as from a file: torch loads without copying
    before = [list(group["params"]) for group in saved["param_groups"]]
    second.load_state_dict(saved)
    assert [group["params"] for group in saved["param_groups"]] == before
    step(first, net, -2.0)
    step(second, other, -2.0)
    for name, value in net.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_missing_and_extra_names_are_listed(make: Make) -> None:
    net, other = model("a", "b"), model("b", "c")
    first, second = make(net.named_parameters()), make(other.named_parameters())
    step(first, net, 1.0)
    with pytest.raises(ValueError, match=r"it lacks c\.weight; it has a\.weight, which the optimizer has not"):
        second.load_state_dict(first.state_dict())
    assert not second.state


def test_a_name_in_another_group_is_said(make: Make) -> None:
    net = model("a", "b")
    a, b = list(net.named_parameters())
    first = make([{"params": [a]}, {"params": [b]}])
    second = make([{"params": [b]}, {"params": [a]}])
    with pytest.raises(ValueError, match=r"b\.weight is in group 1 there and in group 0 here"):
        second.load_state_dict(first.state_dict())


def test_names_that_come_twice_are_no_names(make: Make) -> None:
    """As of two modules in one optimizer; position decides then."""
    nets = [nn.Linear(3, 3, bias=False) for _ in range(4)]
    first, second = (make([*a.named_parameters(), *b.named_parameters()]) for a, b in (nets[:2], nets[2:]))
    for net in nets[:2]:
        net.weight.grad = torch.ones(3, 3)
    first.step()
    second.load_state_dict(first.state_dict())
    assert set(second.state) == {net.weight for net in nets[2:]}


def test_hooks_may_repair_names_before(make: Make) -> None:
    net, other = model("a", "b"), model("b", "a")
    first, second = make(net.named_parameters()), make(other.named_parameters())
    step(first, net, 1.0)
    saved = copy.deepcopy(first.state_dict())
    group = saved["param_groups"][0]
    group["param_names"] = [f"module.{name}" for name in group["param_names"]]

    def strip(_: Any, given: dict[str, Any]) -> dict[str, Any]:
        groups = [
            {**g, "param_names": [n.removeprefix("module.") for n in g["param_names"]]} for g in given["param_groups"]
        ]
        return {**given, "param_groups": groups}

    second.register_load_state_dict_pre_hook(strip)
    second.load_state_dict(saved)
    mine: Any = first.state[net["a"].weight]
    theirs = second.state[other["a"].weight]
    assert all(torch.equal(torch.as_tensor(mine[key]), torch.as_tensor(theirs[key])) for key in mine)


def test_without_names_position_decides_as_in_torch(make: Make) -> None:
    net = model("a", "b")
    first, second = make(net.named_parameters()), make(net.parameters())
    step(first, net, 1.0)
    second.load_state_dict(first.state_dict())
    assert len(second.state) == 2
    with pytest.raises(ValueError, match="different number of parameter groups"):
        make([{"params": list(net.parameters())[:1]}, {"params": list(net.parameters())[1:]}]).load_state_dict(
            second.state_dict()
        )
