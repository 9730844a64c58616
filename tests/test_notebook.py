"""Results in a notebook and an interpreter: short, escaped, and legible on light and on dark pages."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tvlars import TVLARS, check, convert, layer_groups, plan
from tvlars._notebook import Line, page, paragraph, picture, pre, table
from tvlars.noise_scale import NoiseScale
from tvlars.sharpness import Eigenpairs, Slice, SpectralDensity
from tvlars.stats import LayerStats

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = '<script>alert(1)</script>&"'


def parsed(html: str | None) -> ET.Element:
    """Return HTML as a tree, which fails if a tag is left open or a name is not escaped."""
    assert html is not None
    assert "script" not in {element.tag for element in ET.fromstring(html).iter()}
    return ET.fromstring(html)


def places(html: str) -> list[list[tuple[float, float]]]:
    """Return the points of each curve of a picture; the first path is that of the axes."""
    paths = [path.get("d", "") for path in ET.fromstring(html).iter(f"{SVG}path")][1:]
    return [[(float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)] for path in paths]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Linear(3, 2))


def stepped(stats: LayerStats, steps: int) -> None:
    for _ in range(steps):
        stats.model(torch.ones(2, 4)).square().mean().backward()
        stats.optimizer.step()
        stats.optimizer.zero_grad()


def results() -> dict[str, Any]:
    """Return one of each result of the core, by name."""
    net, p = model(), plan(1024, 60_000, 15)
    optimizer = TVLARS(layer_groups(net, p), **p.optimizer_arguments())
    stats = LayerStats(optimizer, net, every=1)
    stepped(stats, 3)
    layer = NoiseScale(20.0, 10.0, 30.0, 2.0, 0.1)
    return {
        "plan": p,
        "layer groups": layer_groups(net, p),
        "findings": check(net, torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.1)),
        "no findings": check(net, optimizer),
        "layer statistics": stats,
        "noise scale": NoiseScale(100.0, 50.0, math.inf, 10.0, 0.1, {HOSTILE: layer}),
        "conversion": convert("timm", opt="lars", lr=1.0),
        "eigenpairs": Eigenpairs(torch.tensor([3.0]), torch.ones(1, 4), ["w"], [torch.Size([4])], 1e-3),
        "density": SpectralDensity(torch.arange(3.0), torch.tensor([1.0, 2.0, 0.0]), torch.zeros(3)),
        "slice": Slice(torch.arange(3.0), torch.tensor([2.0, 1.0, 2.0])),
    }


@pytest.mark.parametrize("name", results())
def test_results_of_the_core_are_shown_in_short(name: str) -> None:
    result = results()[name]
    assert re.fullmatch(rf"{type(result).__name__}\(.*\)", repr(result))
    assert len(repr(result)) < 150
    if hasattr(result, "_repr_html_"):
        html = result._repr_html_()
        parsed(html)
        assert "background" not in html
        assert not re.search(r"#[0-9a-fA-F]{3}|rgb", html), "a color that one of both pages may hide"
    else:
        assert name == "eigenpairs"


def test_a_plan_shows_its_text_and_its_curve() -> None:
    p = plan(1024, 60_000, 15, "lars", schedule="cosine")
    html = p._repr_html_()
    assert "".join(parsed(html).find("pre").itertext()) == str(p)  # type: ignore[union-attr]
    (curve,) = places(html)
    top = min(range(len(curve)), key=lambda i: curve[i][1])
    assert top / len(curve) == pytest.approx(0.2, abs=0.01)  # where the warm-up ends


def test_a_plan_shows_the_factor_where_the_optimizer_has_its_own_rate_and_no_curve_where_it_has_its_own_schedule() -> (
    None
):
    assert "factor of the learning rate" in plan(1024, 60_000, 15, "torch.optim.NAdam")._repr_html_()
    slow = torch.optim.lr_scheduler.CosineAnnealingLR
    long = plan(1, 60_000, total_steps=10**9, optimizer="sgd", schedule=slow, schedule_options={"T_max": 10})
    assert "<svg" not in long._repr_html_()  # it would take minutes
    assert "CosineAnnealingLR" in long._repr_html_()


def test_layer_groups_of_any_number_are_shown() -> None:
    groups = layer_groups(model(), weight_decay=0.1)
    assert repr(groups) == "LayerGroups(2 + 4 layers)"
    parsed(groups._repr_html_())
    del groups[1]
    assert repr(groups) == "LayerGroups(2 layers)"
    assert str(groups).startswith("adapted and decayed: 2 layers, 18 parameters, weight decay 0.1\n  0.weight")


def test_findings_are_a_table() -> None:
    found = check(model(), torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1))
    assert repr(found) == "Findings([other parameters])"
    cells = ["".join(cell.itertext()) for cell in parsed(found._repr_html_()).iter("td")]
    assert cells == [found[0].what, found[0].evidence, found[0].remedy]


def test_layer_statistics_show_what_is_in_memory_and_flush_nothing(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra lab)")
    net = model()
    optimizer = TVLARS(layer_groups(net, weight_decay=0.1), lr=1.0, total_steps=10)
    with LayerStats(optimizer, net, every=1, buffer=2) as stats, LayerStats(optimizer, net, path=tmp_path) as filed:
        assert "<svg" not in stats._repr_html_()
        stepped(stats, 5)
        curves = [curve for curve in places(stats._repr_html_()) if curve]
        assert [len(curve) for curve in curves] == [5, 5]  # two adapted layers have a trust ratio
        assert "all quantities at step 5" in stats._repr_html_()
        assert "all quantities at step 1" in filed._repr_html_()
        assert repr(filed) == f"LayerStats(TVLARS, 6 layers, every=10, step=5, path={str(tmp_path)!r})"
        assert not list(tmp_path.glob("*.parquet"))


def test_a_slice_along_two_directions_has_no_picture() -> None:
    plane = Slice(torch.arange(2.0), torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    assert plane._repr_html_() is None
    assert repr(plane) == "Slice(2 x 2 points, losses from 1 to 4)"


def test_curves_are_drawn_where_their_numbers_are() -> None:
    drawn = picture([Line([0, 1, 2], [0.0, 1.0, 0.5])], "title", "x")
    (((left, bottom), (middle, top), (right, half)),) = places(drawn)
    assert left < middle == (left + right) / 2 < right
    assert top < half < bottom
    assert half == pytest.approx((top + bottom) / 2, abs=0.1)


def test_values_that_are_not_finite_are_gaps_and_points_between_gaps_are_dots() -> None:
    drawn = picture([Line(range(6), [1.0, 2.0, math.nan, 3.0, math.inf, 0.0], "a")], "title", "x", log="y")
    path = next(one for one in parsed(drawn).iter(f"{SVG}path") if one.get("stroke-width"))
    assert [command for command in path.get("d", "") if command in "ML"] == ["M", "L", "M"]
    assert len(list(parsed(drawn).iter(f"{SVG}circle"))) == 1
    assert picture([Line([1.0], [math.nan])], "title", "x") == picture([], "title", "x") == ""


@pytest.mark.parametrize("y", [[0.0, 0.0], [5.0], [-1.0, -1.0]])
def test_curves_that_are_flat_are_drawn(y: list[float]) -> None:
    assert len(places(picture([Line(range(len(y)), y)], "title", "x", zero=True))[0]) == len(y)


def test_text_is_escaped() -> None:
    line = Line([1, 2], [1, 2], HOSTILE)
    html = page(pre(HOSTILE), paragraph(HOSTILE), table([HOSTILE], [[HOSTILE]]), picture([line], HOSTILE, HOSTILE))
    texts = ["".join(element.itertext()) for element in parsed(html).iter() if not len(element)]
    assert texts.count(HOSTILE) == 6  # with the name in the legend, and the label of x
