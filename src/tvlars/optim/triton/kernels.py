# mypy: ignore-errors
"""Functions that the Triton kernels share: reading their tables, and the trust ratio.

A tensor is cut into chunks, and a program of a kernel has one chunk. There are two launches for all tensors of a set:
one takes norms, one updates. Addresses of tensors and options of their groups are read from tables on the device,
which ``launcher`` makes:

    chunks     int32 [programs]: the tensor that a program's chunk is of
    sizes      int64 [tensors, 5]: elements, elements of a chunk, first program, programs, group
    addresses  int64: of all w, then of all g, all m, (LAMB: all v, all step counts,) and then for each group of its lr
               and (LARS) of its clock, an int64; 0 where there is none; and the whole steps of its d_e
    rows       float32 [groups, 16]: a group's options, in the order of the names below and in the kernels' modules
    counts     float32 [tensors]: (LAMB) step counts that are not on the device
    sums       float64 [2, programs]: sums of squares, which the first launch leaves for the second
    told       float64 [2, tensors]: ‖w‖ and q, which the second launch leaves for observers
    scale, found_inf    of a GradScaler: float32, one element, or None

A program of the first launch leaves the sums of squares of its own chunk, and every program of the second adds up those
of its tensor, in the same order. So nothing depends on which program runs when, and two runs agree bit for bit.
Whatever the dtype of the tensors, arithmetic is in float32, and what is stored is rounded once. A chunk whose squares
vanish or overflow in float32 is read again, and they are summed in float64; what is done once for each program, from
the sum of sums to q, is in float64 always.

Triton is imported here and in the kernels' modules, and nowhere else.
"""

from __future__ import annotations

import triton
import triton.language as tl

DTYPES = {"torch.float32": tl.float32, "torch.bfloat16": tl.bfloat16, "torch.float16": tl.float16}

COLUMNS = tl.constexpr(5)
ROW = tl.constexpr(16)
LR = tl.constexpr(0)
SIGN = tl.constexpr(1)  # of the gradient: -1 where the group ascends
WEIGHT_DECAY = tl.constexpr(2)
NORM_CLIP = tl.constexpr(3)
ADAPTED = tl.constexpr(4)


@triton.jit
def probe(out):
    """Store a zero, which tells whether kernels can be compiled and launched."""
    tl.store(out, 0.0)


@triton.jit
def is_skipped(found_inf):
    """Return True if a GradScaler has found an infinity, so that nothing may change."""
    if found_inf is None:
        return False
    else:
        return tl.load(found_inf) != 0


@triton.jit
def extent(sizes, tensor, program):
    """Return the first element and the number of elements of a program's chunk, and the tensor's group."""
    entry = sizes + tensor * COLUMNS
    span = tl.load(entry + 1)
    start = (program - tl.load(entry + 2)) * span
    return start, tl.minimum(tl.load(entry) - start, span).to(tl.int32), tl.load(entry + 4)


@triton.jit
def address(addresses, index, start, DTYPE: tl.constexpr):
    """Return the address of element ``start`` of a tensor, which has entry ``index`` in the table."""
    return tl.load(addresses + index) + start * (DTYPE.primitive_bitwidth // 8)


@triton.jit
def pointers(at, DTYPE: tl.constexpr):
    """Return a pointer to ``at``, and one that assumes a multiple of 16, so that 16 bytes are moved at a time."""
    return at.to(tl.pointer_type(DTYPE)), tl.multiple_of(at.to(tl.pointer_type(DTYPE)), 16)


@triton.jit
def whole_blocks(n, all_addresses, BLOCK: tl.constexpr):
    """Return the elements in whole aligned blocks; the rest, or all, is moved under a mask, one element at a time."""
    return tl.where(all_addresses & 15 == 0, n // BLOCK * BLOCK, 0)


@triton.jit
def gradient_factor(row, scale):
    """Return the factor that a gradient is multiplied by as it is read."""
    factor = tl.load(row + SIGN)
    if scale is not None:
        factor = tl.div_rn(factor, tl.load(scale))
    return factor


@triton.jit
def learning_rate(entry, row):
    """Return the learning rate of a group, from the device if it is a tensor there."""
    at = tl.load(entry)
    value = tl.load(at.to(tl.pointer_type(tl.float32)), mask=at != 0, other=0.0)
    return tl.where(at != 0, value, tl.load(row + LR))


@triton.jit
def norm_of(sums, sizes, tensor, row, PARTS: tl.constexpr):
    """Return the norm from a tensor's sums of squares; 0 if it is not adapted."""
    programs = tl.where(tl.load(row + ADAPTED) != 0, tl.load(sizes + tensor * COLUMNS + 3), 0)
    k = tl.arange(0, PARTS)
    return tl.sqrt(tl.sum(tl.load(sums + k, mask=k < programs, other=0.0)))


@triton.jit
def is_doubtful(squares):
    """Return True if some squares may have vanished in float32, or their sum has overflowed."""
    return (squares > 1e-24) & (squares < 1e36) == 0


@triton.jit
def in_two(q):
    """Return two factors of q in float32, which may be unable to hold q itself."""
    first = tl.where(q > 1.2676506002282294e30, 1.2676506002282294e30, q)  # 2**100
    first = tl.where(first < 7.888609052210118e-31, 7.888609052210118e-31, first)
    return first.to(tl.float32), (q / first).to(tl.float32)


@triton.jit
def clipped(norm, clip):
    return tl.where(norm > clip, clip, norm)  # not tl.minimum, which loses a NaN on a GPU


@triton.jit
def trust_ratio(w_norm, u_norm, coefficient, unit_at_zero, row):
    """Return q as ``norms.trust_ratio`` does, and 1 if the group is not adapted."""
    moves = (u_norm > 0) & ((w_norm > 0) | (unit_at_zero == 0))
    at_zero = tl.where(unit_at_zero != 0, 1.0, coefficient)
    quotient = coefficient * tl.where(w_norm > 0, w_norm, 1.0) / tl.where(moves, u_norm, 1.0)
    return tl.where(tl.load(row + ADAPTED) != 0, tl.where(moves, quotient, at_zero), 1.0)
