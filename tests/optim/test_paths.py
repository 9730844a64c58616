"""Path of a layer: the one that was requested, else the fastest that is correct for it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tvlars import LAMB, LARS
from tvlars.optim import _paths
from tvlars.optim._paths import routes
from tvlars.optim.lars import FORMS
from tvlars.optim.triton import availability

DEFAULTS: dict[str, Any] = dict(lr=0.1, foreach=None, fused=None, capturable=False, differentiable=False)

IMAGE = torch.ones(2, 3, 4, 4)
LAYERS: dict[str, tuple[Tensor, Tensor]] = {
    "contiguous": (torch.ones(3, 4), torch.ones(3, 4)),
    "channels_last": tuple(IMAGE.contiguous(memory_format=torch.channels_last) for _ in range(2)),  # type: ignore[dict-item]
    "mixed layouts": (IMAGE, IMAGE.contiguous(memory_format=torch.channels_last)),
    "transposed": (torch.ones(3, 4).t(), torch.ones(3, 4).t()),
    "bfloat16": (torch.ones(3, dtype=torch.bfloat16), torch.ones(3, dtype=torch.bfloat16)),
    "mixed dtypes": (torch.ones(3), torch.ones(3, dtype=torch.float64)),
}
FUSABLE = ("contiguous", "channels_last")


def paths(layers: list[tuple[Tensor, Tensor]], **options: Any) -> list[str]:
    """The path of each layer."""
    cut = routes({**DEFAULTS, **options}, FORMS, *map(list, zip(*layers, strict=True)))
    found = {i: route.path for route in cut for i in route.indices}
    for route in cut:
        for i, w, g in zip(route.indices, *route.lists, strict=True):
            assert w is layers[i][0]
            assert g is layers[i][1]
    return [found[i] for i in range(len(layers))]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("options", [{}, {"fused": True}, {"fused": True, "foreach": False}])
def test_fused_where_it_is_right(name: str, options: dict[str, Any]) -> None:
    assert paths([LAYERS[name]], **options) == ["fused" if name in FUSABLE else "for-loop"]


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"foreach": True}, "foreach"),
        ({"foreach": False}, "for-loop"),
        ({"fused": False}, "for-loop"),
        ({"capturable": True}, "for-loop"),
        ({"differentiable": True}, "for-loop"),
        ({"lr": torch.tensor(0.1)}, "fused"),
    ],
)
def test_options_decide(options: dict[str, Any], path: str) -> None:
    assert paths([LAYERS["contiguous"]], **options) == [path]


def test_one_group_may_take_several() -> None:
    expected = ["fused" if name in FUSABLE else "for-loop" for name in LAYERS]
    assert paths(list(LAYERS.values())) == expected
    assert paths(list(LAYERS.values())[:2]) == ["fused", "fused"]


# -- the Triton kernels; the CPU stands for a CUDA device ------------------------------------------------


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernels can run here."""
    monkeypatch.setattr(availability, "DEVICE_TYPES", ["cpu"])
    monkeypatch.setattr(availability, "why_not", lambda device: None)


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """They could if Triton were there."""
    monkeypatch.setattr(availability, "DEVICE_TYPES", ["cpu"])
    monkeypatch.setattr(availability, "why_not", lambda device: "Triton is not installed")
    monkeypatch.setattr(_paths, "_is_on_accelerator", lambda x: isinstance(x, Tensor))
    monkeypatch.setattr(_paths, "fusable", lambda layer: False)
    availability.warn_once.cache_clear()


GAPS = torch.ones(3, 8)[:, ::2]


@pytest.mark.parametrize(
    ("layer", "path"),
    [
        *((LAYERS[name], "triton") for name in ("contiguous", "channels_last", "transposed", "bfloat16")),
        ((LAYERS["transposed"][0], torch.ones(4, 3)), "triton"),
        ((torch.ones(0, 3), torch.ones(0, 3)), "triton"),
        ((torch.ones(2).half(), torch.ones(2).half()), "triton"),
        ((torch.ones(2).double(), torch.ones(2).double()), "fused"),
        ((GAPS, GAPS), "for-loop"),
        ((torch.ones(1).expand(3), torch.ones(3)), "for-loop"),
        (LAYERS["mixed dtypes"], "for-loop"),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("fused", [None, True])
def test_kernels_where_they_fit(
    layer: tuple[Tensor, Tensor], path: str, beside: bool, fused: bool | None, kernels: None
) -> None:
    layers = [layer, LAYERS["mixed layouts"]] if beside else [layer]
    cut = routes({**DEFAULTS, "fused": fused}, FORMS, *map(list, zip(*layers, strict=True)))
    assert {i: route.path for route in cut for i in route.indices} == {
        i: (path, "triton")[i] for i in range(len(layers))
    }
    for route in cut:
        for i, w, g in zip(route.indices, *route.lists, strict=True):
            assert w is layers[i][0]
            assert (g is layers[i][1]) == (route.path != "triton" or g.stride() == layers[i][1].stride())
            assert torch.equal(g, layers[i][1])
            if route.path == "triton":
                assert g.stride() == w.stride()


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"capturable": True}, "triton"),
        ({"fused": True, "capturable": True}, "triton"),
        ({"lr": torch.tensor(0.1)}, "triton"),
        ({"fused": True, "foreach": False}, "triton"),
        ({"foreach": True}, "foreach"),
        ({"foreach": False}, "for-loop"),
        ({"fused": False}, "for-loop"),
        ({"differentiable": True}, "for-loop"),
    ],
)
def test_options_decide_on_kernels(options: dict[str, Any], path: str, kernels: None) -> None:
    assert paths([LAYERS["contiguous"]], **options) == [path]


def test_state_that_is_laid_out_otherwise_becomes_like_the_parameter(kernels: None) -> None:
    w, state = IMAGE.contiguous(memory_format=torch.channels_last), torch.randn_like(IMAGE)
    before = state.clone()
    (route,) = routes(DEFAULTS, FORMS, [w], [w.clone()], [state])
    assert route.lists[2][0] is state
    assert state.stride() == w.stride()
    assert torch.equal(state, before)


def test_each_layer_has_its_device(kernels: None) -> None:
    """A kernel would be given addresses of memory that it cannot reach, or of none."""
    elsewhere = torch.ones(3, 4, device="meta")
    layers = [LAYERS["contiguous"], (elsewhere, elsewhere), (torch.ones(3, 4), elsewhere)]
    assert paths(layers) == ["triton", "for-loop", "for-loop"]
    assert paths(layers[::-1]) == ["for-loop", "for-loop", "triton"]


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"capturable": True}])
def test_without_triton_many_tensors_share_a_launch(options: dict[str, Any], no_kernels: None) -> None:
    assert paths([LAYERS["contiguous"], LAYERS["bfloat16"]], **options) == ["foreach", "foreach"]


def test_fused_without_triton_says_why_once(no_kernels: None) -> None:
    def make_two(**options: Any) -> None:
        for _ in range(2):
            LARS([nn.Parameter(torch.ones(2))], 0.1, **options)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_two()
    message = "fused=True takes the multi-tensor path on cpu: Triton is not installed"
    with pytest.warns(UserWarning, match=message) as caught:
        make_two(fused=True)
    assert [warning.filename for warning in caught] == [__file__]


def test_capturable_and_fused_on_a_cuda_device_alone(kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    LAMB([nn.Parameter(torch.ones(2))], fused=True, capturable=True)
    monkeypatch.setattr(availability, "DEVICE_TYPES", ["cuda"])
    with pytest.raises(ValueError, match="capturable must not be True where fused=True, for parameters on the CPU"):
        LAMB([nn.Parameter(torch.ones(2))], fused=True, capturable=True)


EVERY_CPU_PATH = [
    {"foreach": False, "fused": False},
    {"foreach": True, "fused": False},
    {"fused": True},
    {"capturable": True},
]


def lamb_step(w: Tensor, g: Tensor, **options: Any) -> Tensor:
    p = nn.Parameter(w.clone())
    p.grad = g
    LAMB([p], lr=0.1, weight_decay=0.0, **options).step()
    return p.detach()


@pytest.mark.parametrize("options", EVERY_CPU_PATH)
@pytest.mark.parametrize("numel", [4, 40_000])
def test_lamb_moves_an_element_whose_v_is_finite_and_whose_corrected_v_is_not(
    options: dict[str, Any], numel: int
) -> None:
    """v = 0.001 g² = 2.5e38, and v̂ = g² would be 2.5e41: the step is Adam's, of length lr ‖w‖."""
    w = torch.ones(numel)
    assert torch.allclose(lamb_step(w, torch.full((numel,), 5e20), **options), 0.9 * w, rtol=1e-5)


@pytest.mark.parametrize("numel", [4, 40_000])
def test_lamb_raises_nothing_where_q_is_beyond_float32(numel: int) -> None:
    """‖w‖ of 1e37 and more over ‖r‖ of 1e-32 is what no two factors of float32 make: every path says infinite."""
    w, g = torch.full((numel,), 1e37), torch.full((numel,), 1e-40)
    assert [lamb_step(w, g, **options).isfinite().any().item() for options in EVERY_CPU_PATH] == [False] * 4
