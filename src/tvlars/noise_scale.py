"""Gradient noise scale: the batch size above which a larger batch hardly saves steps.

:func:`noise_scale` measures it once, on given data; :class:`NoiseScaleMeter` while a model trains, from the
micro-batches that a large batch is split into anyway.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tvlars._checks import check_count, check_flag, check_number
from tvlars._notebook import folded, page, paragraph, table
from tvlars._words import counted
from tvlars.sharpness._surface import Batches, Loss, LossSurface


@dataclass(frozen=True)
class NoiseScale:
    r"""B_simple = tr(Σ) / ‖G‖², in samples, with a 95 % interval from ``low`` to ``high``.

    Σ is the covariance of a sample's gradient, G the true gradient. If ‖G‖² is not significantly above 0, ``high`` is
    infinite; if even its estimate is not above 0, ``value`` is infinite too.
    """

    value: float
    low: float
    high: float
    trace: float
    """tr(Σ), estimated without bias."""
    gradient_square: float
    """‖G‖², estimated without bias, so possibly below 0."""
    layers: Mapping[str, NoiseScale] = field(default_factory=dict)
    """Noise scale of each layer alone."""

    def steps_factor(self, batch_size: int) -> float:
        """Return the steps that a batch of this size needs, relative to the fewest possible: 1 + B_simple / B."""
        return 1.0 + self.value / batch_size

    def samples_factor(self, batch_size: int) -> float:
        """Return the samples that a batch of this size needs, relative to the fewest possible: 1 + B / B_simple."""
        return 1.0 + batch_size / self.value if self.value else math.inf

    def __repr__(self) -> str:
        return f"NoiseScale({self})"

    def _repr_html_(self) -> str:
        """Return the noise scale, with the layers' in a folded table, for notebooks."""
        head = ("layer", "B_simple", "95 %: from", "to")
        rows = [(name, *map(_samples, (one.value, one.low, one.high))) for name, one in self.layers.items()]
        return page(paragraph(self), folded(counted(len(rows), "layer"), table(head, rows)) if rows else "")

    def __str__(self) -> str:
        return f"B_simple = {_samples(self.value)} samples (95 %: {_samples(self.low)} to {_samples(self.high)})"


def noise_scale(model: nn.Module, loss: Loss, data: Batches, *, training: bool = False) -> NoiseScale:
    r"""Return the gradient noise scale of McCandlish et al. at the model's weights.

    .. math:: B_{simple} = \frac{\operatorname{tr} \Sigma}{\lVert G \rVert^2}, \qquad
        \lVert G \rVert^2 \approx \frac{2}{M (M - 1)} \sum_{i < j} \langle g_i, g_j \rangle, \qquad
        \operatorname{tr} \Sigma \approx \frac{b}{M - 1} \sum_i \lVert g_i - \bar g \rVert^2

    for gradients g_i of M micro-batches of b samples each. Both are unbiased; the interval comes from leaving out each
    micro-batch in turn (jackknife) and Fieller's theorem for a ratio. It needs two passes over the data, and
    memory for a copy of the weights and a few gradients.

    Args:
        model: any module; its parameters that need gradients count. It is left as it was, bit for bit.
        loss: (output, target) to a scalar, or a function whose first argument is named ``model``, which is called
            with (model, batch), as for :func:`tvlars.sharpness.hessian_eigenvalues`. If the losses of micro-batches
            divide by different sums of target weights, micro-batches are weighted by these sums, to first order;
            samples with ignored targets still count as samples.
        data: at least 4 micro-batches (input, target) of one size, or batches for a loss of (model, batch); 32
            micro-batches of 64 samples are a good start. A last, shorter one is left out.
        training: measure in training mode, where batch norm ties the samples of a micro-batch together. Default
            False: evaluation mode, as the formula assumes.

    Raises:
        ValueError: fewer than 4 micro-batches of one size; the loss is not differentiable, or neither a mean nor a sum
            over samples; no parameter needs a gradient, or one is complex.

    Source: McCandlish, Kaplan, Amodei, "An Empirical Model of Large-Batch Training", arXiv 1812.06162, section 2.2
    and appendix A.1.

    Example:
        >>> noise = noise_scale(model, nn.CrossEntropyLoss(), micro_batches)
        >>> print(noise)
        >>> print(noise_scale(bert, lambda model, batch: model(**batch).loss, batches_of_transformers))
        >>> print(plan(8192, 60_000, 15, noise_scale=noise))
    """
    check_flag("training", training)
    with LossSurface(model, loss, data) as surface:
        sizes = [batch.samples for batch in surface.batches]
        size = sizes[0]
        batches = [batch for batch in surface.batches if batch.samples == size]
        if len(batches) < len(sizes) - 1 or len(batches) < 4:
            raise ValueError(
                "data must be at least 4 micro-batches of one size (the last may be shorter), got "
                f"{', '.join(map(str, sizes[:8]))}"
            )
        counts = [batch.count for batch in batches]
        if not sum(counts) > 0:
            raise ValueError(f"data must have a target that counts in the micro-batches of {size} samples, got none")
        relative = [count * len(counts) / sum(counts) for count in counts]
        if training:
            surface.train()

        def gradient(number: int) -> list[Tensor]:
            if training:
                surface.put_back_buffers()
                torch.manual_seed(number)  # dropout has to draw the same in both passes
            if not relative[number]:  # all targets are ignored
                return [torch.zeros_like(p) for p in surface.params]
            return surface.gradient([batches[number]])[1]

        total = [torch.zeros_like(p) for p in surface.params]
        inner, squares = [], []
        devices = list(range(torch.cuda.device_count())) if training and torch.cuda.is_available() else []
        with torch.random.fork_rng(devices, enabled=training):
            for number in range(len(batches)):
                torch._foreach_add_(total, gradient(number), alpha=relative[number])
            for number in range(len(batches)):
                parts = gradient(number)
                if relative[number] != 1.0:  # a mean with weights, to first order in what they vary
                    parts = [
                        sum_ / len(batches) * (1 - relative[number]) + g * relative[number]
                        for sum_, g in zip(total, parts, strict=True)
                    ]
                inner.append(_on_host([_dot(x, sum_) for x, sum_ in zip(parts, total, strict=True)]))
                squares.append(_on_host([_dot(x, x) for x in parts]))
        whole = _on_host([_dot(sum_, sum_) for sum_ in total])
        return _from_micro_batches(surface.names, size, torch.stack(inner), torch.stack(squares), whole)


def from_two_batch_sizes(small_square: float, small: int, big_square: float, big: int) -> tuple[float, float]:
    r"""Return unbiased estimates of tr(Σ) and ‖G‖² from squared gradient norms at two batch sizes (appendix A.1).

    .. math:: E \lVert g_B \rVert^2 = \lVert G \rVert^2 + \operatorname{tr}(\Sigma) / B

    Args:
        small_square, big_square: ‖g‖² at each batch size, or a mean of several.
        small, big: the batch sizes in samples, small < big.

    Returns:
        (tr(Σ), ‖G‖²); average both over steps before taking their ratio, which is biased and noisy.

    Raises:
        ValueError: ``small`` is not less than ``big``.
    """
    check_count("small", small, unit="samples")
    check_count("big", big, unit="samples")
    if small >= big:
        raise ValueError(f"small must be < big ({big}), got {small}")
    trace = (small_square - big_square) / (1 / small - 1 / big)
    return trace, (big * big_square - small * small_square) / (big - small)


class NoiseScaleMeter:
    """Measure the noise scale while a model trains with gradient accumulation, smoothed over steps.

    Every measured step gives an unbiased estimate of tr(Σ) and of ‖G‖² from its micro-batches; both are smoothed before
    their ratio is taken. A step whose gradient is not finite is left out. The meter holds a copy of the gradient within
    a step, and nothing between steps. Under DDP use the micro-batches of one process, with ``no_sync`` for all of
    them, and reduce gradients afterwards: a sum over processes is no micro-batch.

    Args:
        model: its parameters that need gradients count.
        micro_batch_size: b, samples in each micro-batch, the same for all. The losses must also divide by the same
            number (the sum of class weights, the number of targets that are not ignored).
        smoothing: in [0, 1), weight of the past in an exponential mean with bias correction. Default 0.95.

    Raises:
        ValueError: an argument is out of its range.

    Example:
        >>> meter = NoiseScaleMeter(model, micro_batch_size=256)
        >>> for x, y in micro_batches:  # of one step
        ...     (loss_fn(model(x), y) / len(micro_batches)).backward()
        ...     meter.micro_batch()
        >>> meter.step()  # before optimizer.step() and zero_grad(); with a GradScaler step(scale=scaler.get_scale())
        >>> print(meter.result())

    Source: McCandlish et al., arXiv 1812.06162, appendix A.1.
    """

    def __init__(self, model: nn.Module, micro_batch_size: int, *, smoothing: float = 0.95) -> None:
        check_count("micro_batch_size", micro_batch_size, unit="samples")
        check_number("smoothing", smoothing, high=1.0, open_high=True)
        self.micro_batch_size, self.smoothing = micro_batch_size, smoothing
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise ValueError("model must have a parameter with requires_grad=True, got none")
        self.names, self.params = [name for name, _ in named], [p for _, p in named]
        self._before: list[Tensor | None] = []
        self._squares: list[Tensor] = []
        self._moments = torch.zeros(
            5, len(named) + 1, dtype=torch.float64, device="cpu"
        )  # S, G², S², S G², (G²)²; the last is all
        self._weight = self._weight_square = 0.0

    @torch.no_grad()
    def micro_batch(self) -> None:
        """Measure a micro-batch; call it after each backward pass, while gradients accumulate."""
        grads = [None if p.grad is None else p.grad.detach() for p in self.params]
        before = self._before or [None] * len(grads)
        self._squares.append(
            _on_host(
                [
                    torch.zeros((), device=p.device) if g is None else _square(g if old is None else g - old)
                    for p, g, old in zip(self.params, grads, before, strict=True)
                ]
            )
        )
        self._before = [None if g is None else g.clone() for g in grads]

    def leave_out(self) -> None:
        """Forget the micro-batches since the last step, which is then not measured."""
        self._squares, self._before = [], []

    def step(self, scale: float = 1.0) -> None:
        """Measure a step; call it after its last micro-batch. Waits for the device.

        Args:
            scale: factor of the loss, if gradients are still scaled.

        Raises:
            ValueError: the step had fewer than 2 micro-batches, or ``scale`` is not above 0.
        """
        check_number("scale", scale, open_low=True)
        squares, self._squares = self._squares, []
        grads, self._before = self._before, []
        count = len(squares)
        if count < 2:
            raise ValueError(f"a step must have at least 2 micro-batches for the noise scale, got {count}")
        # The loop divides by the number of micro-batches, so what was added is g_i / M.
        small = torch.stack(squares).mean(0) * count**2 / scale**2
        sums = zip(self.params, grads, strict=True)
        big = _on_host([torch.zeros((), device=p.device) if g is None else _square(g) for p, g in sums]) / scale**2
        trace = (small - big) * self.micro_batch_size * count / (count - 1)
        square = (count * big - small) / (count - 1)
        trace, square = (torch.cat([x, x.sum().view(1)]) for x in (trace, square))
        new = torch.stack([trace, square, trace * trace, trace * square, square * square])
        if not new.isfinite().all():
            return
        keep = self.smoothing
        self._moments = keep * self._moments + (1 - keep) * new
        self._weight = keep * self._weight + (1 - keep)
        self._weight_square = keep**2 * self._weight_square + (1 - keep) ** 2

    def result(self) -> NoiseScale:
        """Return the smoothed estimate, with an interval once two steps have been measured.

        Raises:
            ValueError: no step has been measured yet.
        """
        if not self._weight:
            raise ValueError("no step has been measured yet: call micro_batch() and step() first")
        s, g, ss, sg, gg = self._moments / self._weight
        count = self._weight**2 / self._weight_square  # the effective number of equally weighted steps
        spare = (count / (count - 1) if count > 1.0 + 1e-9 else math.nan) * (self._weight_square / self._weight**2)
        covariance = torch.stack([ss - s * s, sg - s * g, gg - g * g]) * spare
        found = [_ratio(*values, degrees=count - 1) for values in torch.stack([s, g, *covariance], 1).tolist()]
        layers = dict(zip(self.names, found[:-1], strict=True))
        return _with_layers(found[-1], layers)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return ⟨a, b⟩, summed in float64 if the device has it."""
    dtype = torch.float32 if a.device.type == "mps" else torch.float64
    return (a.to(dtype) * b.to(dtype)).sum()  # in float32 the products of large and small gradients are inf and 0


def _square(a: Tensor) -> Tensor:
    a = torch.view_as_real(a) if a.is_complex() else a
    a = a if a.dtype == torch.float64 else a.float()
    return _dot(a, a)


def _on_host(values: list[Tensor]) -> Tensor:
    """Return 0-d tensors as one float64 vector on the host, with one wait per device."""
    devices = list(dict.fromkeys(value.device for value in values))
    if len(devices) == 1:
        return torch.stack(values).cpu().double()
    return torch.stack([value.cpu().double() for value in values])


def _from_micro_batches(names: list[str], size: int, inner: Tensor, squares: Tensor, whole: Tensor) -> NoiseScale:
    """``inner`` [M, layers] = ⟨g_i, Σg⟩, ``squares`` [M, layers] = ‖g_i‖², ``whole`` [layers] = ‖Σg‖²."""
    inner, squares = (torch.cat([x, x.sum(1, keepdim=True)], 1) for x in (inner, squares))
    whole = torch.cat([whole, whole.sum().view(1)])

    def estimates(whole: Tensor, square_sum: Tensor, count: int) -> tuple[Tensor, Tensor]:
        square = (whole - square_sum) / (count * (count - 1))
        return size * (square_sum - whole / count) / (count - 1), square

    count = len(squares)
    trace, square = estimates(whole, squares.sum(0), count)
    left_out = estimates(whole - 2 * inner + squares, squares.sum(0) - squares, count - 1)
    spread = [x - x.mean(0) for x in left_out]
    factor = (count - 1) / count
    covariance = [factor * (a * b).sum(0) for a, b in ((spread[0],) * 2, tuple(spread), (spread[1],) * 2)]
    rows = torch.stack([trace, square, *covariance], 1).tolist()
    found = [_ratio(*row, degrees=count - 1) for row in rows]
    return _with_layers(found[-1], dict(zip(names, found[:-1], strict=True)))


def _with_layers(total: NoiseScale, layers: dict[str, NoiseScale]) -> NoiseScale:
    return NoiseScale(total.value, total.low, total.high, total.trace, total.gradient_square, layers)


def _ratio(s: float, g: float, ss: float, sg: float, gg: float, *, degrees: float) -> NoiseScale:
    """Return s / g with Fieller's 95 % interval: all R with (s − R g)² <= t² Var(s − R g), and R >= 0."""
    value = max(s, 0.0) / g if g > 0 else math.inf
    if not math.isfinite(ss):
        return NoiseScale(value, math.nan, math.nan, s, g)
    t2 = _student(degrees) ** 2
    a, b, c = g * g - t2 * gg, s * g - t2 * sg, s * s - t2 * ss
    under = b * b - a * c
    if a <= 0 or g <= 0:  # ‖G‖² is not significantly above 0: the interval has a lower bound at most
        low = (b - math.sqrt(under)) / a if a < 0 and c > 0 and under >= 0 else 0.0
        return NoiseScale(value, max(low, 0.0), math.inf, s, g)
    root = math.sqrt(max(under, 0.0))
    return NoiseScale(value, max((b - root) / a, 0.0), max((b + root) / a, 0.0), s, g)


def _student(degrees: float) -> float:
    """Return the 97.5 % point of Student's t, by the expansion in 1 / degrees (to 2 % from 3 degrees on)."""
    z = 1.959964
    n = max(degrees, 1.0)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def _samples(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else ("unknown" if math.isnan(value) else "infinitely many")
