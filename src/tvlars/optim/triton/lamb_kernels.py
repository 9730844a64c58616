# mypy: ignore-errors
"""Triton kernels of LAMB; ``kernels`` documents their arguments."""

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

BETA1 = tl.constexpr(5)
REST1 = tl.constexpr(6)  # 1 - β₁
LOG1 = tl.constexpr(7)  # log β₁, -inf where there is no bias correction
BETA2 = tl.constexpr(8)
REST2 = tl.constexpr(9)
LOG2 = tl.constexpr(10)
EPS = tl.constexpr(11)


@triton.jit(do_not_specialize=["tensors", "programs"])
def lamb_norms(
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
    """Update m and v, and compute ‖w‖² and ‖r‖² of each chunk."""
    if is_skipped(found_inf):
        return
    program = tl.program_id(0)
    tensor = tl.load(chunks + program)
    start, n, group = extent(sizes, tensor, program)
    row = rows + group * ROW
    sign, beta, eps = gradient_factor(row, scale), tl.load(row + WEIGHT_DECAY), tl.load(row + EPS)
    beta1, rest1 = tl.load(row + BETA1), tl.load(row + REST1)
    beta2, rest2 = tl.load(row + BETA2), tl.load(row + REST2)
    over1, over2 = corrections(addresses, counts, row, tensor, tensors)
    w_at = address(addresses, tensor, start, DTYPE)
    g_at = address(addresses, tensors + tensor, start, DTYPE)
    m_at = address(addresses, 2 * tensors + tensor, start, DTYPE)
    v_at = address(addresses, 3 * tensors + tensor, start, DTYPE)
    w_p, w_aligned = pointers(w_at, DTYPE)
    g_p, g_aligned = pointers(g_at, DTYPE)
    m_p, m_aligned = pointers(m_at, DTYPE)
    v_p, v_aligned = pointers(v_at, DTYPE)
    whole = whole_blocks(n, w_at | g_at | m_at | v_at, BLOCK)

    k = tl.arange(0, BLOCK)
    w_squares = tl.full([BLOCK], 0.0, tl.float32)
    r_squares = tl.full([BLOCK], 0.0, tl.float32)
    for i in range(0, whole, BLOCK):
        w = tl.load(w_aligned + i + k).to(tl.float32)
        g = tl.load(g_aligned + i + k).to(tl.float32) * sign
        m, v = advance(m_aligned + i + k, v_aligned + i + k, g, None, None, beta1, rest1, beta2, rest2, DTYPE)
        r = direction(w, m, v, over1, over2, eps, beta)
        w_squares += w * w
        r_squares += r * r
    for i in range(whole, n, BLOCK):
        inside = i + k < n
        w = tl.load(w_p + i + k, mask=inside, other=0.0).to(tl.float32)
        g = tl.load(g_p + i + k, mask=inside, other=0.0).to(tl.float32) * sign
        m, v = advance(m_p + i + k, v_p + i + k, g, inside, 0.0, beta1, rest1, beta2, rest2, DTYPE)
        r = direction(w, m, v, over1, over2, eps, beta)
        w_squares += w * w
        r_squares += r * r
    w_square, r_square = tl.sum(w_squares).to(tl.float64), tl.sum(r_squares).to(tl.float64)
    if is_doubtful(w_square) | is_doubtful(r_square):
        tl.debug_barrier()  # the moments are read again
        w_wide = tl.full([BLOCK], 0.0, tl.float64)
        r_wide = tl.full([BLOCK], 0.0, tl.float64)
        for i in range(0, n, BLOCK):
            inside = i + k < n
            w = tl.load(w_p + i + k, mask=inside, other=0.0).to(tl.float32)
            m, v = tl.load(m_p + i + k, mask=inside, other=0.0), tl.load(v_p + i + k, mask=inside, other=0.0)
            r = direction(w, m, v, over1, over2, eps, beta)
            w_wide += w.to(tl.float64) * w.to(tl.float64)
            r_wide += r.to(tl.float64) * r.to(tl.float64)
        w_square, r_square = tl.sum(w_wide), tl.sum(r_wide)
    tl.store(sums + program, w_square)
    tl.store(sums + programs + program, r_square)


@triton.jit(do_not_specialize=["tensors", "programs"])
def lamb_update(
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
    """Compute q of each tensor, form r of each chunk again from the stored moments, and update w."""
    if is_skipped(found_inf):
        return
    program = programs - 1 - tl.program_id(0)  # backwards, as in LARS
    tensor = tl.load(chunks + program)
    start, n, group = extent(sizes, tensor, program)
    row = rows + group * ROW
    beta, eps = tl.load(row + WEIGHT_DECAY), tl.load(row + EPS)
    over1, over2 = corrections(addresses, counts, row, tensor, tensors)
    lr = learning_rate(addresses + 5 * tensors + 3 * group, row)

    first = tl.load(sizes + tensor * COLUMNS + 2)
    w_norm = norm_of(sums + first, sizes, tensor, row, PARTS)
    r_norm = norm_of(sums + programs + first, sizes, tensor, row, PARTS)
    q = trust_ratio(clipped(w_norm, tl.load(row + NORM_CLIP)), r_norm, 1.0, 1.0, row)
    if program == first:
        tl.store(told + tensor, w_norm)
        tl.store(told + tensors + tensor, q)
    q, rest = in_two(q)

    w_at = address(addresses, tensor, start, DTYPE)
    m_at = address(addresses, 2 * tensors + tensor, start, DTYPE)
    v_at = address(addresses, 3 * tensors + tensor, start, DTYPE)
    w_p, w_aligned = pointers(w_at, DTYPE)
    m_p, m_aligned = pointers(m_at, DTYPE)
    v_p, v_aligned = pointers(v_at, DTYPE)
    whole = whole_blocks(n, w_at | m_at | v_at, BLOCK)

    k = tl.arange(0, BLOCK)
    for i in range(0, whole, BLOCK):
        w = tl.load(w_aligned + i + k).to(tl.float32)
        m, v = tl.load(m_aligned + i + k), tl.load(v_aligned + i + k)
        w -= lr * (q * direction(w, m, v, over1, over2, eps, beta) * rest)
        tl.store(w_aligned + i + k, w.to(DTYPE))
    for i in range(whole, n, BLOCK):
        inside = i + k < n
        w = tl.load(w_p + i + k, mask=inside, other=0.0).to(tl.float32)
        m, v = tl.load(m_p + i + k, mask=inside, other=0.0), tl.load(v_p + i + k, mask=inside, other=0.0)
        w -= lr * (q * direction(w, m, v, over1, over2, eps, beta) * rest)
        tl.store(w_p + i + k, w.to(DTYPE), mask=inside)


@triton.jit
def advance(m_p, v_p, g, inside, other, beta1, rest1, beta2, rest2, DTYPE: tl.constexpr):
    """Return m and v of a block after the step, as stored; ``inside`` and ``other`` are None for a whole block."""
    m = (beta1 * tl.load(m_p, mask=inside, other=other).to(tl.float32) + rest1 * g).to(DTYPE)
    v = (beta2 * tl.load(v_p, mask=inside, other=other).to(tl.float32) + rest2 * g * g).to(DTYPE)
    tl.store(m_p, m, mask=inside)
    tl.store(v_p, v, mask=inside)
    return m, v


@triton.jit
def direction(w, m, v, over1, over2, eps, beta):
    """r = m̂ / (√v̂ + eps) + β w."""
    return (m.to(tl.float32) * over1) / (tl.sqrt(v.to(tl.float32)) * tl.sqrt(over2) + eps) + beta * w


@triton.jit
def corrections(addresses, counts, row, tensor, tensors):
    """Return 1 / (1 - β₁^t) and 1 / (1 - β₂^t), with t from the device if it is kept there."""
    at = tl.load(addresses + 4 * tensors + tensor)
    t = tl.load(at.to(tl.pointer_type(tl.int64)), mask=at != 0, other=0)
    t = tl.where(at != 0, t.to(tl.float32), tl.load(counts + tensor))
    return 1.0 / one_minus_exp(t * tl.load(row + LOG1)), 1.0 / one_minus_exp(t * tl.load(row + LOG2))


@triton.jit
def one_minus_exp(x):
    """Return 1 - exp(x) for x <= 0, accurate near 0 too."""
    series = -x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6)))))
    return tl.where(x > -0.25, series, 1 - tl.exp(x))
