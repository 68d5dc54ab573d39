"""Compiled loops that move and mix pixels: filters, smears, zooms, warps, fractals.

Rows are the unit of work: within a row the pixels are independent, so that the compiler may use vector instructions. It
does for slices that are read from their start, not for `row[j + offset]`, which might be negative.
"""

from __future__ import annotations

import math

import numpy as np

from edit_robust.core.compiled import compiled


@compiled
def correlate_symmetric(image: np.ndarray, weights: np.ndarray, reflect: bool, axis: int) -> np.ndarray:
    """`scipy.ndimage.correlate1d` for a symmetric odd kernel: centre first, then pairs from the outermost inwards.

    image float64 or float32 [height, width, channels]; weights [r + 1] from the outermost to the centre;
    borders repeat the edge pixel ("nearest") or mirror the image ("reflect"); r <= side. Sums are float64.
    """
    height, width, channels = image.shape
    r = weights.size - 1
    n = height if axis == 0 else width
    source = np.empty(n + 2 * r, np.int64)
    for i in range(n + 2 * r):
        j = i - r
        if j < 0:
            source[i] = -j - 1 if reflect else 0
        elif j >= n:
            source[i] = 2 * n - j - 1 if reflect else n - 1
        else:
            source[i] = j
    out = np.empty_like(image)
    span = width * channels
    flat, flat_out = image.reshape(height, span), out.reshape(height, span)
    total = np.empty(span, np.float64)
    line = np.empty((width + 2 * r) * channels, np.float64)
    for h in range(height):
        if axis == 0:
            for j in range(span):
                total[j] = np.float64(flat[h, j]) * weights[r]
            for t in range(r):
                above, below, weight = flat[source[h + t]], flat[source[h + 2 * r - t]], weights[t]
                for j in range(span):
                    total[j] += (np.float64(above[j]) + np.float64(below[j])) * weight
        else:
            for i in range(width + 2 * r):
                for c in range(channels):
                    line[i * channels + c] = flat[h, source[i] * channels + c]
            centre = line[r * channels : r * channels + span]
            for j in range(span):
                total[j] = centre[j] * weights[r]
            for t in range(r):
                first, last, weight = t * channels, (2 * r - t) * channels, weights[t]
                left, right = line[first : first + span], line[last : last + span]
                for j in range(span):
                    total[j] += (left[j] + right[j]) * weight
        for j in range(span):
            flat_out[h, j] = total[j]
    return out


@compiled
def shuffle_glass(image: np.ndarray, steps: np.ndarray, delta: int) -> None:
    """One pass of glass blur over uint8 [height, width, 3], in place, from the lower right corner.

    steps int64 [pixels, 2] in (dx, dy). The original swaps two numpy views in one statement; as views see each
    other's writes, the pixel takes its neighbour's colour and the neighbour keeps it.
    """
    height, width = image.shape[:2]
    i = 0
    for h in range(height - delta, delta, -1):
        for w in range(width - delta, delta, -1):
            y, x = h + steps[i, 1], w + steps[i, 0]
            image[h, w, 0], image[h, w, 1], image[h, w, 2] = image[y, x, 0], image[y, x, 1], image[y, x, 2]
            i += 1


@compiled
def smear(
    image: np.ndarray, dys: np.ndarray, dxs: np.ndarray, weights: np.ndarray, height: int, width: int
) -> np.ndarray:
    """float64 [height, width * channels]: weighted sum of the image moved by (dy, dx), edge pixels repeated.

    image float64 [rows, columns, channels]; the result is its upper left part of height x width pixels.
    """
    rows, columns, channels = image.shape
    span = width * channels
    pad = 0
    for i in range(dxs.size):
        pad = max(pad, abs(dxs[i]))
    wide = np.empty((rows, (columns + 2 * pad) * channels))
    for h in range(rows):
        for x in range(columns + 2 * pad):
            for c in range(channels):
                wide[h, x * channels + c] = image[h, min(max(x - pad, 0), columns - 1), c]
    out = np.zeros((height, span))
    for h in range(height):
        total = out[h]
        for i in range(dys.size):
            first, weight = (pad - dxs[i]) * channels, weights[i]
            source = wide[min(max(h - dys[i], 0), rows - 1), first : first + span]
            for j in range(span):
                total[j] += weight * source[j]
    return out


@compiled
def zoom_axis(out_len: int, in_len: int, shown: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where `scipy.ndimage.zoom(order=1)` reads: int64 [shown] first index (-1: outside, 0), float64 weights [shown].

    A coordinate that rounding carries past the last pixel counts as outside, as it does there.
    """
    step = (in_len - 1) / (out_len - 1)
    first, near, far = np.empty(shown, np.int64), np.empty(shown), np.empty(shown)
    for i in range(shown):
        at = i * step
        if at > in_len - 1:
            first[i], near[i], far[i] = -1, 0.0, 0.0
        else:
            first[i] = math.floor(at)
            near[i] = 1.0 - (at - math.floor(at))
            far[i] = 1.0 - near[i]
    return first, near, far


@compiled
def zoom_layer(image: np.ndarray, y: tuple, x: tuple, top: int, left: int, out: np.ndarray) -> None:
    """out += the zoomed image, each value rounded to out's type first.

    image [height, width, channels]; (y, x): `zoom_axis` of the rows and columns; (top, left): corner of the part that
    is zoomed; out [shown rows, shown columns, channels] of the image's type. What lies outside counts as 0.
    """
    ys, near_y, far_y = y
    xs, near_x, far_x = x
    height, width, channels = image.shape
    shown = out.shape[1] * channels
    span = width * channels
    flat, flat_out = image.reshape(height, span), out.reshape(out.shape[0], shown)
    first, near, far = np.empty(shown, np.uint64), np.empty(shown), np.empty(shown)
    for w in range(out.shape[1]):
        for c in range(channels):
            j = w * channels + c
            first[j] = (left + max(xs[w], 0)) * channels + c
            near[j], far[j] = near_x[w], far_x[w]
    # One pixel more than the row: the last one's right neighbour is read with weight 0 alone.
    above, below = np.zeros(span + channels), np.zeros(span + channels)
    row = np.empty(shown, image.dtype)
    for h in range(out.shape[0]):
        if ys[h] < 0:
            continue
        y0 = top + ys[h]
        upper, lower = flat[y0], flat[min(y0 + 1, height - 1)]
        for j in range(span):
            above[j] = upper[j] * near_y[h]
            below[j] = lower[j] * far_y[h]
        above_next, below_next = above[channels:], below[channels:]
        for j in range(shown):
            at = first[j]
            total = above[at] * near[j] + above_next[at] * far[j]
            total = total + below[at] * near[j]
            row[j] = total + below_next[at] * far[j]
        target = flat_out[h]
        for j in range(shown):
            target[j] += row[j]


@compiled
def _reflected(at: float, n: int) -> tuple[int, int, float]:
    """The two pixels around a coordinate on a line of n that is mirrored at its ends, and the first one's weight."""
    period = 2 * n
    if at < 0:
        if at < -period:
            at = period * int(-at / period) + at
        at = at + period if at < -n else -at - 1
    elif at > n - 1:
        at -= period * int(at / period)
        if at >= n:
            at = period - at - 1
    first = math.floor(at)
    second = first + 1
    if second >= n:
        second = n - 1
    return max(first, 0), second, 1.0 - (at - math.floor(at))


@compiled
def warp(image: np.ndarray, dy: np.ndarray, dx: np.ndarray) -> np.ndarray:
    """`scipy.ndimage.map_coordinates(order=1, mode="reflect")` at (h + dy, w + dx), floored to uint8.

    image float32 [height, width, 3]; dy, dx float32 [height, width] in pixels.
    """
    height, width, channels = image.shape
    out = np.empty(image.shape, np.uint8)
    for h in range(height):
        for w in range(width):
            y0, y1, near_y = _reflected(h + np.float64(dy[h, w]), height)
            x0, x1, near_x = _reflected(w + np.float64(dx[h, w]), width)
            far_y, far_x = 1.0 - near_y, 1.0 - near_x
            for c in range(channels):
                total = image[y0, x0, c] * near_y * near_x + image[y0, x1, c] * near_y * far_x
                total = total + image[y1, x0, c] * far_y * near_x
                value = np.float32(total + image[y1, x1, c] * far_y * far_x)
                out[h, w, c] = np.uint8(min(max(value, np.float32(0)), np.float32(1)) * np.float32(255))
    return out


@compiled
def diamond_square(grid: np.ndarray, step: int, wibble: float, noise: np.ndarray) -> None:
    """One level of a plasma fractal on a torus, in place: squares' centres, then the two kinds of edges' middles.

    grid float64 [size, size]; noise float64 [3, size // step, size // step].
    """
    size, half = grid.shape[0], step // 2
    n = size // step
    for i in range(n):
        below = (i + 1) % n * step
        for j in range(n):
            y, x, right = i * step, j * step, (j + 1) % n * step
            corners = (grid[y, x] + grid[below, x]) + (grid[y, right] + grid[below, right])
            grid[y + half, x + half] = corners / 4 + wibble * noise[0, i, j]
    for i in range(n):
        above, below = (i - 1) % n * step, (i + 1) % n * step
        for j in range(n):
            y, x, left, right = i * step, j * step, (j - 1) % n * step, (j + 1) % n * step
            centre = grid[y + half, x + half]
            across = (centre + grid[above + half, x + half]) + (grid[y, x] + grid[y, right])
            along = (centre + grid[y + half, left + half]) + (grid[y, x] + grid[below, x])
            grid[y, x + half] = across / 4 + wibble * noise[1, i, j]
            grid[y + half, x] = along / 4 + wibble * noise[2, i, j]
