"""Dense peers of sparse attention: torch's SDPA under a mask, and compiled FlexAttention."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

Call = Callable[[Tensor, Tensor, Tensor], Tensor]
Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
MOST_NODES = 8192
"""A mask of more takes too long to be a peer."""


def adjacency(edge_index: Tensor, nodes: int) -> Tensor:
    """Who attends to whom, [nodes, nodes]; knows no edge twice."""
    found = torch.zeros(nodes, nodes, dtype=torch.bool, device=edge_index.device)
    found[edge_index[1], edge_index[0]] = True
    return found


def masked_sdpa(allowed: Tensor) -> Call:
    """All pairs of query, key and value [N, H, D] under a mask."""

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads_first = (t.transpose(0, 1)[None] for t in (q, k, v))
        return scaled_dot_product_attention(*heads_first, attn_mask=allowed)[0].transpose(0, 1)

    return call


def compiled_flex(allowed: Mask, nodes: int, device: str) -> Call:
    """FlexAttention [N, H, D] over the blocks of a mask, compiled; no gradient on the CPU."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    mask = torch.compile(create_block_mask)(allowed, None, None, nodes, nodes, device=device)
    attend = torch.compile(flex_attention)

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # On the CPU it refuses tensors that want gradients.
        given = (t.detach() if device == "cpu" else t for t in (q, k, v))
        heads_first = (t.transpose(0, 1)[None] for t in given)
        return attend(*heads_first, block_mask=mask)[0].transpose(0, 1)

    return call


def dense_peers(edge_index: Tensor, nodes: int, device: str) -> dict[str, Call]:
    """Both, for a graph without an edge twice."""
    allowed = adjacency(edge_index, nodes)

    def looked_up(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return allowed[query, key]

    return {
        "dense SDPA": masked_sdpa(allowed),
        "compiled Flex": compiled_flex(looked_up, nodes, device),
    }
