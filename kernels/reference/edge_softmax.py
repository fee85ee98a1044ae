"""Softmax over the edges of every row: the definition that every kernel is held against."""

import torch
from torch import Tensor

from graphattn.kernels.layout import Layout
from graphattn.kernels.reference.attention import row_softmax
from graphattn.kernels.reference.edges import edge_list


def edge_softmax_forward(scores: Tensor, rows: Layout) -> Tensor:
    """scores [B, E, H] in the caller's order -> weights of the same shape and dtype.

    A row of nothing but -inf has weights 0; NaN reaches every weight of its row and head.
    """
    high = torch.float64 if scores.dtype == torch.float64 else torch.float32
    edges = edge_list(rows)
    weights, _ = row_softmax(scores.to(high)[:, edges.id], edges.row, rows.indptr.shape[0] - 1)
    return weights[:, edges.id.argsort()].to(scores.dtype)


def edge_softmax_backward(grad: Tensor, weights: Tensor, rows: Layout) -> Tensor:
    """Gradient of the scores, w (g - sum_row w g); differentiable in both arguments."""
    high = torch.float64 if grad.dtype == torch.float64 else torch.float32
    edges, num_rows = edge_list(rows), rows.indptr.shape[0] - 1
    row = torch.empty_like(edges.row)
    row[edges.id] = edges.row
    pull, wide = grad.to(high), weights.to(high)
    shape = grad.shape[0], num_rows, grad.shape[2]
    mean = wide.new_zeros(shape).index_add(1, row, wide * pull)
    return (wide * (pull - mean[:, row])).to(grad.dtype)
