"""The random numbers of kernels/reference/sampling.py, bit for bit, for kernels over arrays."""

import numpy as np
from numba.extending import register_jitable

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11 = (np.uint64(bits) for bits in (30, 27, 31, 11))
_ONE = np.uint64(1)

# Up to this many steps, looking up the displaced numbers is faster than numbering a long row.
_SPARSE_STEPS = 64


@register_jitable  # type: ignore[untyped-decorator]
def mix(x):
    """Finaliser of splitmix64."""
    x = (x ^ (x >> _S30)) * _FIRST
    x = (x ^ (x >> _S27)) * _SECOND
    return x ^ (x >> _S31)


@register_jitable  # type: ignore[untyped-decorator]
def derive(key, number):
    """The key of a stream under a key."""
    return mix(key + (np.uint64(number) + _ONE) * _GOLDEN)


@register_jitable  # type: ignore[untyped-decorator]
def below(key, counter, bound):
    """A draw, uniform over ``0 .. bound - 1``."""
    return np.int64(np.float64(np.int64(derive(key, counter) >> _S11)) * 2.0**-53 * bound)


@register_jitable  # type: ignore[untyped-decorator]
def is_sparse(size, count):
    """Whether ``choose`` needs room for 2 ``count`` numbers only, else for ``size``."""
    few = count <= _SPARSE_STEPS or count * count < 4 * size
    return few and size > 16 * count


@register_jitable  # type: ignore[untyped-decorator]
def choose(key, size, count, room):
    """A partial Fisher-Yates over ``0 .. size - 1``; the choice is in ``room[:count]``.

    Where few of many are chosen, only displaced numbers are kept: number ``room[count + step]``
    was swapped away by that step.
    """
    if not is_sparse(size, count):
        for number in range(size):
            room[number] = number
        for step in range(count):
            other = step + below(key, step, size - step)
            chosen = room[other]
            room[other] = room[step]
            room[step] = chosen
        return
    for step in range(count):
        other = step + below(key, step, size - step)
        chosen, moved = other, step
        for past in range(step):
            place = room[count + 2 * past]
            chosen = room[count + 2 * past + 1] if place == other else chosen
            moved = room[count + 2 * past + 1] if place == step else moved
        room[step] = chosen
        room[count + 2 * step] = other
        room[count + 2 * step + 1] = moved
