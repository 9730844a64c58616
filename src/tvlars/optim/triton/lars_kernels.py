# mypy: ignore-errors
"""Triton kernels of LARS and TVLARS; ``kernels`` documents their arguments."""

from __future__ import annotations

import triton
import triton.language as tl

from tvlars.optim.triton.kernels import (
    COLUMNS,
    NORM_CLIP,
    ROW,
    WEIGHT_DECAY,
    address,
    clipped,
    extent,
    gradient_factor,
    in_two,
    is_doubtful,
    is_skipped,
    learning_rate,
    norm_of,
    pointers,
    trust_ratio,
    whole_blocks,
)

MOMENTUM = tl.constexpr(5)
NESTEROV = tl.constexpr(6)
COEFFICIENT = tl.constexpr(7)
DELAY_FACTOR = tl.constexpr(8)
DELAY = tl.constexpr(9)  # without its whole steps, which are with the addresses
ALPHA = tl.constexpr(10)
GAMMA_MIN = tl.constexpr(11)
OF_RATIO = tl.constexpr(12)  # 1 where φ acts on the trust ratio alone
UNIT_AT_ZERO = tl.constexpr(13)  # 1 where q is 1 at a norm of 0


@triton.jit(do_not_specialize=["tensors", "programs"])
def lars_norms(
    chunks,
    sizes,
    addresses,
    rows,
    counts,
    sums,
    told,
    scale,
    found_inf,
    tensors,
    programs,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Compute ‖w‖² and ‖u‖², u = g + βw, of each chunk."""
    if is_skipped(found_inf):
        return
    program = tl.program_id(0)
    tensor = tl.load(chunks + program)
    start, n, group = extent(sizes, tensor, program)
    row = rows + group * ROW
    sign, beta = gradient_factor(row, scale), tl.load(row + WEIGHT_DECAY)
    w_at = address(addresses, tensor, start, DTYPE)
    g_at = address(addresses, tensors + tensor, start, DTYPE)
    w_p, w_aligned = pointers(w_at, DTYPE)
    g_p, g_aligned = pointers(g_at, DTYPE)
    whole = whole_blocks(n, w_at | g_at, BLOCK)

    aligned, at = (w_aligned, g_aligned), (w_p, g_p)
    w_square, u_square = sums_of_squares(aligned, at, whole, n, sign, beta, BLOCK, tl.float32)
    if is_doubtful(w_square) | is_doubtful(u_square):
        w_square, u_square = sums_of_squares(aligned, at, 0, n, sign, beta, BLOCK, tl.float64)
    tl.store(sums + program, w_square)
    tl.store(sums + programs + program, u_square)


@triton.jit
def sums_of_squares(aligned, at, whole, n, sign, beta, BLOCK: tl.constexpr, KIND: tl.constexpr):
    """‖w‖² and ‖u‖² of a chunk in float64, added up in ``KIND``."""
    k = tl.arange(0, BLOCK)
    w_squares = tl.full([BLOCK], 0.0, KIND)
    u_squares = tl.full([BLOCK], 0.0, KIND)
    for i in range(0, whole, BLOCK):
        w, u = weights_and_directions(aligned[0] + i + k, aligned[1] + i + k, None, None, sign, beta)
        w_squares += w.to(KIND) * w.to(KIND)
        u_squares += u.to(KIND) * u.to(KIND)
    for i in range(whole, n, BLOCK):
        w, u = weights_and_directions(at[0] + i + k, at[1] + i + k, i + k < n, 0.0, sign, beta)
        w_squares += w.to(KIND) * w.to(KIND)
        u_squares += u.to(KIND) * u.to(KIND)
    return tl.sum(w_squares).to(tl.float64), tl.sum(u_squares).to(tl.float64)


@triton.jit(do_not_specialize=["tensors", "programs"])
def lars_update(
    chunks,
    sizes,
    addresses,
    rows,
    counts,
    sums,
    told,
    scale,
    found_inf,
    tensors,
    programs,
    DTYPE: tl.constexpr,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
):
    """Compute q of each tensor, and update each chunk."""
    if is_skipped(found_inf):
        return
    # Backwards, since the chunks that the first launch has read last may still be in the cache.
    program = programs - 1 - tl.program_id(0)
    tensor = tl.load(chunks + program)
    start, n, group = extent(sizes, tensor, program)
    row = rows + group * ROW
    sign, beta = gradient_factor(row, scale), tl.load(row + WEIGHT_DECAY)
    mu, nesterov = tl.load(row + MOMENTUM), tl.load(row + NESTEROV) != 0
    lr, coefficient = rates(addresses + 3 * tensors + 3 * group, row)

    first = tl.load(sizes + tensor * COLUMNS + 2)
    clip = tl.load(row + NORM_CLIP)
    w_norm = norm_of(sums + first, sizes, tensor, row, PARTS)
    u_norm = norm_of(sums + programs + first, sizes, tensor, row, PARTS)
    q = trust_ratio(clipped(w_norm, clip), clipped(u_norm, clip), coefficient, tl.load(row + UNIT_AT_ZERO), row)
    if program == first:
        tl.store(told + tensor, w_norm)
        tl.store(told + tensors + tensor, q)
    q, rest = in_two(q)

    has_m = tl.load(addresses + 2 * tensors + tensor) != 0
    w_at = address(addresses, tensor, start, DTYPE)
    g_at = address(addresses, tensors + tensor, start, DTYPE)
    m_at = address(addresses, 2 * tensors + tensor, start, DTYPE)
    w_p, w_aligned = pointers(w_at, DTYPE)
    g_p, g_aligned = pointers(g_at, DTYPE)
    m_p, m_aligned = pointers(m_at, DTYPE)
    whole = whole_blocks(n, w_at | g_at | m_at, BLOCK)
    n_of_m = tl.where(has_m, n, 0)

    k = tl.arange(0, BLOCK)
    for i in range(0, whole, BLOCK):
        at = w_aligned + i + k, g_aligned + i + k, m_aligned + i + k
        update_block(at, None, None, has_m, sign, beta, lr, q, rest, mu, nesterov, DTYPE)
    for i in range(whole, n, BLOCK):
        at = w_p + i + k, g_p + i + k, m_p + i + k
        update_block(at, i + k < n, 0.0, i + k < n_of_m, sign, beta, lr, q, rest, mu, nesterov, DTYPE)


@triton.jit
def rates(entry, row):
    """Return lr and η, one of them multiplied by φ(t): here if the clock is on the device, else on the host."""
    lr, coefficient = learning_rate(entry, row), tl.load(row + COEFFICIENT)
    clock = tl.load(entry + 1)
    t = tl.load(clock.to(tl.pointer_type(tl.int64)), mask=clock != 0, other=0)
    since = (t - tl.load(entry + 2)).to(tl.float32) - tl.load(row + DELAY)
    growth = tl.exp(tl.load(row + DELAY_FACTOR) * since)  # may be inf, and 1 / inf is 0
    phi = 1.0 / (tl.load(row + ALPHA) + growth) + tl.load(row + GAMMA_MIN)
    phi = tl.where(clock != 0, phi, 1.0)
    of_ratio = tl.load(row + OF_RATIO) != 0
    return tl.where(of_ratio, lr, lr * phi), tl.where(of_ratio, coefficient * phi, coefficient)


@triton.jit
def weights_and_directions(w_p, g_p, inside, other, sign, beta):
    """Return w and u = g + βw of a block; ``inside`` and ``other`` are None for a whole block."""
    w = tl.load(w_p, mask=inside, other=other).to(tl.float32)
    return w, tl.load(g_p, mask=inside, other=other).to(tl.float32) * sign + beta * w


@triton.jit
def update_block(at, inside, other, has_m, sign, beta, lr, q, rest, mu, nesterov, DTYPE: tl.constexpr):
    """m ← μ m + q u, w ← w − lr m, of a block of w, g, m. Without momentum m is q u, and is not kept.

    q is in two factors, ``q`` and ``rest``.
    """
    w, u = weights_and_directions(at[0], at[1], inside, other, sign, beta)
    u = q * u * rest
    m = mu * tl.load(at[2], mask=has_m, other=0.0).to(tl.float32) + u
    tl.store(at[0], (w - lr * tl.where(nesterov, u + mu * m, m)).to(DTYPE), mask=inside)
    tl.store(at[2], m.to(DTYPE), mask=has_m)
