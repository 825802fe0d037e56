"""The loops under `rolling`, compiled: one series after the other, each contiguous.

Every kernel takes (S, T) arrays in C order, oldest value first, and fills `out` of the same shape. The window
kernels use the two-block scheme of van Herk (1992): a window is the rest of one block plus the head of the
next, and blocks are counted from the first value. Nothing outside the window enters the arithmetic.
"""

from __future__ import annotations

import numpy as np

from levibot.features.compiled import compiled
from levibot.market.bars import BoolArray, FloatArray

# What is smaller is a zero: dividing by it would overflow.
SMALLEST_DENOMINATOR = 1e-200

# Values that are worked on together where a loop needs room between its steps: they stay in the first cache.
BLOCK = 512

# Of `logarithms`: the bits of floats, and the polynomial of fdlibm's e_log.c.
MANTISSA_BITS = np.uint64(52)
ONE = np.uint64(0x3FF0000000000000)
FROM_ROOT_HALF = np.uint64(0x3FF0000000000000 - 0x3FE6A09E667F3BCD)
TWO_TO_52 = np.uint64(0x4330000000000000)
EXPONENT_ZERO = 2.0**52 + 1023.0
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
L1, L2, L3 = 6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01
L4, L5, L6 = 2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01
L7 = 1.479819860511658591e-01


@compiled
def window_sums(x: FloatArray, window: int, out: FloatArray) -> None:
    """Sum of the last `window` values; NaN before there are so many, and while one of them is NaN."""
    n_series, n_rows = x.shape
    # rest[k]: sum of the values k … window - 1 of the block before; NaN when there is no such block.
    rest, next_rest = np.empty(window + 1), np.empty(window + 1)
    rest[window] = next_rest[window] = 0.0
    for s in range(n_series):
        values, result = x[s], out[s]
        rest[:window] = np.nan
        start = 0
        while start + window <= n_rows:
            head = tail = 0.0
            # Both sums in one loop: neither waits for the other.
            for k in range(window):
                head += values[start + k]
                result[start + k] = head + rest[k + 1]
                tail += values[start + window - 1 - k]
                next_rest[window - 1 - k] = tail
            rest, next_rest = next_rest, rest
            start += window
        head = 0.0
        for k in range(n_rows - start):
            head += values[start + k]
            result[start + k] = head + rest[k + 1]


@compiled
def _powers(decay: float, n: int) -> FloatArray:
    """decay^0 … decay^n, by multiplication: a live call has no time for thousands of `pow`."""
    out = np.empty(n + 1)
    out[0] = 1.0
    for k in range(n):
        out[k + 1] = out[k] * decay
    return out


@compiled
def decayed_sums(x: FloatArray, decay: float, window: int, out: FloatArray) -> None:
    """Sum over the last `window` values of decay^age · value; NaN as in `window_sums`."""
    n_series, n_rows = x.shape
    weights = _powers(decay, window)
    rest, next_rest = np.empty(window + 1), np.empty(window + 1)
    rest[window] = next_rest[window] = 0.0
    for s in range(n_series):
        values, result = x[s], out[s]
        rest[:window] = np.nan
        start = 0
        while start + window <= n_rows:
            head = tail = 0.0
            for k in range(window):
                head = head * decay + values[start + k]
                result[start + k] = head + rest[k + 1] * weights[k + 1]
                tail += values[start + window - 1 - k] * weights[k]
                next_rest[window - 1 - k] = tail
            rest, next_rest = next_rest, rest
            start += window
        head = 0.0
        for k in range(n_rows - start):
            head = head * decay + values[start + k]
            result[start + k] = head + rest[k + 1] * weights[k + 1]


@compiled
def _larger(a: float, b: float) -> float:
    """The larger of two numbers; NaN if one is. Without a branch: prices are not predictable."""
    return a if (a >= b) | (a != a) else b


@compiled
def window_extremes(x: FloatArray, window: int, sign: float, out: FloatArray) -> None:
    """Largest (sign 1) or smallest (sign −1) of the last `window` values; NaN as in `window_sums`."""
    n_series, n_rows = x.shape
    rest, next_rest = np.empty(window + 1), np.empty(window + 1)
    rest[window] = next_rest[window] = -np.inf
    for s in range(n_series):
        values, result = x[s], out[s]
        rest[:window] = np.nan
        start = 0
        while start + window <= n_rows:
            head = tail = -np.inf
            for k in range(window):
                head = _larger(head, sign * values[start + k])
                result[start + k] = sign * _larger(head, rest[k + 1])
                tail = _larger(tail, sign * values[start + window - 1 - k])
                next_rest[window - 1 - k] = tail
            rest, next_rest = next_rest, rest
            start += window
        head = -np.inf
        for k in range(n_rows - start):
            head = _larger(head, sign * values[start + k])
            result[start + k] = sign * _larger(head, rest[k + 1])


@compiled
def known_means(x: FloatArray, decay: float, window: int, min_known: int, out: FloatArray) -> None:
    """Mean of the known values among the last `window`, with weights decay^age.

    NaN while fewer than `min_known` of them are known; values before the first are not.
    """
    n_series, n_rows = x.shape
    weights = _powers(decay, window)
    rest, next_rest = np.empty(window + 1), np.empty(window + 1)
    rest_weight, next_rest_weight = np.empty(window + 1), np.empty(window + 1)
    rest[window] = next_rest[window] = rest_weight[window] = next_rest_weight[window] = 0.0
    for s in range(n_series):
        values, result = x[s], out[s]
        rest[:window] = 0.0
        rest_weight[:window] = 0.0
        n_known = 0
        for start in range(0, n_rows, window):
            n = min(window, n_rows - start)
            head = tail = head_weight = tail_weight = 0.0
            for k in range(n):
                t = start + k
                value = values[t]
                known = 1.0 if value == value else 0.0
                head = head * decay + (value if value == value else 0.0)
                head_weight = head_weight * decay + known
                n_known += int(known)
                if t >= window:
                    n_known -= int(values[t - window] == values[t - window])
                total = head + rest[k + 1] * weights[k + 1]
                weight = head_weight + rest_weight[k + 1] * weights[k + 1]
                result[t] = total / weight if n_known >= min_known else np.nan
            if n == window:
                for k in range(window):
                    value = values[start + window - 1 - k]
                    tail += (value if value == value else 0.0) * weights[k]
                    tail_weight += (1.0 if value == value else 0.0) * weights[k]
                    next_rest[window - 1 - k] = tail
                    next_rest_weight[window - 1 - k] = tail_weight
                rest, next_rest = next_rest, rest
                rest_weight, next_rest_weight = next_rest_weight, rest_weight


@compiled
def carried(x: FloatArray, limit: int, out: FloatArray) -> None:
    """Each NaN becomes the last value before it, at most `limit` places after it; farther, NaN stays."""
    for s in range(x.shape[0]):
        values, result = x[s], out[s]
        last, age = np.nan, 0
        for t in range(values.shape[0]):
            age += 1
            if values[t] == values[t]:
                last, age = values[t], 0
            result[t] = last if age <= limit else np.nan


@compiled
def ratios(numerator: FloatArray, denominator: FloatArray, out: FloatArray) -> None:
    """numerator / denominator; NaN where the denominator is not above SMALLEST_DENOMINATOR."""
    for s in range(numerator.shape[0]):
        above, below, result = numerator[s], denominator[s], out[s]
        for t in range(above.shape[0]):
            result[t] = above[t] / below[t] if below[t] > SMALLEST_DENOMINATOR else np.nan


@compiled
def scaled_changes(x: FloatArray, scale: FloatArray, factor: float, lag: int, out: FloatArray) -> None:
    """(x less its value `lag` places earlier) / (scale · factor); NaN as in `ratios`, and without a value."""
    for s in range(x.shape[0]):
        values, scales, result = x[s], scale[s], out[s]
        result[:lag] = np.nan
        for t in range(lag, values.shape[0]):
            below = scales[t] * factor
            result[t] = (values[t] - values[t - lag]) / below if below > SMALLEST_DENOMINATOR else np.nan


@compiled
def means_across(x: FloatArray, counted: BoolArray, out: FloatArray) -> None:
    """Mean over the series of the values that are known and counted, (1, T); NaN where there are none."""
    n_series, n_rows = x.shape
    total, count = np.empty(BLOCK), np.empty(BLOCK)
    for start in range(0, n_rows, BLOCK):
        n = min(BLOCK, n_rows - start)
        total[:] = 0.0
        count[:] = 0.0
        for s in range(n_series):
            values, counts = x[s, start : start + n], counted[s, start : start + n]
            for k in range(n):
                known = counts[k] & (values[k] == values[k])
                total[k] += values[k] if known else 0.0
                count[k] += 1.0 if known else 0.0
        for k in range(n):
            out[0, start + k] = total[k] / count[k] if count[k] > 0.0 else np.nan


@compiled
def logarithms(x: FloatArray, smallest: float, out: FloatArray) -> None:
    """Natural logarithm; NaN for what is not above `smallest`, and for infinity. smallest: at least 1e-300.

    Tang's method as in fdlibm's e_log.c (Sun Microsystems 1993), to within one unit in the last place. numpy
    has no vector instructions for it below AVX-512; written as two plain loops the compiler finds them.
    """
    mantissa, exponent = np.empty(BLOCK), np.empty(BLOCK)
    mantissa_bits, exponent_bits = mantissa.view(np.uint64), exponent.view(np.uint64)
    flat, result = x.reshape(-1), out.reshape(-1)
    for start in range(0, flat.size, BLOCK):
        n = min(BLOCK, flat.size - start)
        values = flat[start : start + n]
        bits = values.view(np.uint64)
        for k in range(n):
            # x = 2^e · m with m from √½ to √2; e is put into the bits of the float 2^52 + 1023 + e.
            e = (bits[k] + FROM_ROOT_HALF) >> MANTISSA_BITS
            exponent_bits[k] = e | TWO_TO_52
            mantissa_bits[k] = bits[k] - (e << MANTISSA_BITS) + ONE
        for k in range(n):
            f = mantissa[k] - 1.0
            power = exponent[k] - EXPONENT_ZERO
            z = f / (2.0 + f)
            w = z * z
            r = w * (L1 + w * (L2 + w * (L3 + w * (L4 + w * (L5 + w * (L6 + w * L7))))))
            h = 0.5 * f * f
            value = power * LN2_HIGH - ((h - (z * (h + r) + power * LN2_LOW)) - f)
            result[start + k] = value if (values[k] > smallest) & (values[k] < np.inf) else np.nan
