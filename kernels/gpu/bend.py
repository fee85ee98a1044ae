"""Activations of messages and their slopes; the definition is kernels/reference/message.py."""

import triton
import triton.language as tl

from graphattn.kernels.gpu.blocks import LOG2E, real

HALF_ROOT = tl.constexpr(0.7071067811865476)
BELL = tl.constexpr(0.3989422804014327)


@triton.jit
def sigmoid_of(z):
    """1 / (1 + e^-z)."""
    return 1.0 / (1.0 + tl.exp2(-z * LOG2E))


@triton.jit
def bend(z, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    """phi(z)."""
    if ACTIVATION == "relu":
        return tl.where(z <= 0.0, 0.0, z)
    elif ACTIVATION == "leaky_relu":
        return tl.where(z <= 0.0, z * SLOPE, z)
    elif ACTIVATION == "gelu":
        return 0.5 * z * (1.0 + tl.erf(z * HALF_ROOT))
    elif ACTIVATION == "silu":
        return z * sigmoid_of(z)
    elif ACTIVATION == "tanh":
        return 2.0 * sigmoid_of(2.0 * z) - 1.0
    elif ACTIVATION == "square":
        return z * z
    else:
        return z


@triton.jit
def slope_of(z, ACTIVATION: tl.constexpr, SLOPE: tl.constexpr):
    """phi'(z)."""
    if ACTIVATION == "relu":
        return tl.where(z > 0.0, 1.0, 0.0).to(z.dtype)
    elif ACTIVATION == "leaky_relu":
        return tl.where(z > 0.0, real(1.0, z.dtype), real(SLOPE, z.dtype))
    elif ACTIVATION == "gelu":
        density = tl.exp2(z * z * (-0.5 * LOG2E)) * BELL
        return 0.5 * (1.0 + tl.erf(z * HALF_ROOT)) + z * density
    elif ACTIVATION == "silu":
        gate = sigmoid_of(z)
        return gate + z * gate * (1.0 - gate)
    elif ACTIVATION == "tanh":
        value = 2.0 * sigmoid_of(2.0 * z) - 1.0
        return 1.0 - value * value
    elif ACTIVATION == "square":
        return 2.0 * z
    else:
        return tl.full(z.shape, 1.0, z.dtype)


@triton.jit
def feature_at(attr, edge, on, f, FEATURES: tl.constexpr, ACC: tl.constexpr):
    """Feature ``f`` of each slot's edge, [SLOTS]; 0 where off."""
    return tl.load(attr + edge * FEATURES + f, mask=on, other=0.0).to(ACC)


@triton.jit
def projection_of(
    proj, f, lanes, STRIDE: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr,
    ACC: tl.constexpr,
):  # fmt: skip
    """The slice of one feature's projection, [1, BLOCK_H, BLOCK_W]."""
    tile = tl.load(proj + f * STRIDE + lanes[0], mask=lanes[1], other=0.0).to(ACC)
    return tl.reshape(tile, [1, BLOCK_H, BLOCK_W])


@triton.jit
def before_bend(
    own, tile, attr, proj, edge, on, lanes, FEATURES: tl.constexpr, STRIDE: tl.constexpr,
    BLOCK_H: tl.constexpr, BLOCK_W: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """own + gathered + projected edge features, which phi is applied to."""
    total = own + tile.to(ACC)
    if attr is not None:
        for f in range(FEATURES):
            number = feature_at(attr, edge, on, f, FEATURES, ACC)
            row = projection_of(proj, f, lanes, STRIDE, BLOCK_H, BLOCK_W, ACC)
            total += number[:, None, None] * row
    return total
