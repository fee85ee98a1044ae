"""The baselines are PyG's convolutions: same numbers as the plain edge_index route."""

import gc

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphattn.graph import CSRGraph, kept
from graphattn.models import GAT, GCN, SAGE

N, F_IN, D, OUT = 13, 5, 8, 3
pyg = pytest.importorskip("torch_geometric.nn")


def edges() -> Tensor:
    """Unsorted, with duplicates, a hub, some self-loops and two nodes without in-edges."""
    gen = torch.Generator().manual_seed(2)
    edge_index = torch.randint(0, N - 2, (2, 47), generator=gen)
    edge_index[1, ::4] = 5
    return torch.cat([edge_index, edge_index[:, :6], torch.tensor([[3], [3]])], dim=1)


def plain_conv(conv: nn.Module) -> nn.Module:
    """PyG's convolution with the same weights, on its default route."""
    if isinstance(conv, pyg.GCNConv):
        other = pyg.GCNConv(conv.in_channels, conv.out_channels).to(conv.lin.weight.dtype)
        other.load_state_dict(conv.state_dict())
        return other
    return conv


def tuned(model: nn.Module, x: Tensor, edge_index: Tensor) -> Tensor:
    """drop(relu(Norm(conv(x) + W_res x))) with dropout off."""
    x = x if model.lin_in is None else model.lin_in(x)
    total = 0
    for i, conv in enumerate(model.convs):
        h = plain_conv(conv)(x, edge_index)
        h = h + model.skips[i](x) if len(model.skips) else h
        x = F.relu(model.norms[i](h))
        total = total + x
    return model.lin_out(total if model.jumping else x)


@pytest.mark.parametrize("cls", [GCN, SAGE, GAT])
@pytest.mark.parametrize(
    "residual, input_linear, jumping", [(True, False, False), (False, True, True)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_pyg_on_edge_index(
    cls: type, residual: bool, input_linear: bool, jumping: bool, dtype: torch.dtype
) -> None:
    options = {"residual": residual, "input_linear": input_linear, "jumping": jumping}
    model = cls(F_IN, D, OUT, 3, heads=2, norm="layer", dropout=0.0, **options).to(dtype)
    x = torch.randn(N, F_IN, dtype=dtype, requires_grad=True)
    expected = tuned(model, x, edges())
    out = model(x, CSRGraph.from_edge_index(edges(), N))
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {}
    torch.testing.assert_close(out, expected, **tolerance)
    weight = torch.randn_like(out)
    ours = torch.autograd.grad((out * weight).sum(), x)
    theirs = torch.autograd.grad((expected * weight).sum(), x)
    torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("cls", [GCN, SAGE, GAT])
def test_self_loops_are_asked_for_and_not_doubled(cls: type) -> None:
    model = cls(F_IN, D, OUT, 2).eval()
    assert model.self_loops is True
    x = torch.randn(N, F_IN)
    bare = CSRGraph.from_edge_index(edges(), N).remove_self_loops()
    looped = bare.add_self_loops()
    same = torch.allclose(model(x, bare), model(x, looped), atol=1e-6)
    assert same is (cls is GCN)  # its normalisation adds the missing loops itself


def test_adjacency_is_kept_with_the_graph_and_goes_with_it() -> None:
    gc.collect()
    before = len(kept._kept)
    graph = CSRGraph.from_edge_index(edges(), N)
    model = GCN(F_IN, D, OUT, 2)
    first = model.adjacency(graph, torch.float32)
    assert model.adjacency(graph, torch.float32) is first
    assert model.adjacency(graph, torch.float64).dtype == torch.float64
    assert len(kept._kept) == before + 1
    del graph
    gc.collect()
    assert len(kept._kept) == before


@pytest.mark.parametrize("cls", [GCN, SAGE, GAT])
def test_inference_first_then_training(cls: type) -> None:
    model = cls(F_IN, D, OUT, 2)
    graph = CSRGraph.from_edge_index(edges(), N)
    with torch.inference_mode():
        model(torch.randn(N, F_IN), graph)
    model(torch.randn(N, F_IN), graph).sum().backward()


@pytest.mark.parametrize("cls", [GCN, SAGE, GAT])
def test_autocast(cls: type) -> None:
    model = cls(F_IN, D, OUT, 2).eval()
    x, graph = torch.randn(N, F_IN), CSRGraph.from_edge_index(edges(), N)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x, graph)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), model(x, graph), rtol=0.05, atol=0.05)


def test_no_layers_and_bad_heads() -> None:
    model = GCN(F_IN, D, OUT, 0)
    assert model(torch.randn(N, F_IN), edges()).shape == (N, OUT)
    with pytest.raises(ValueError, match="8 channels and 3 heads"):
        GAT(F_IN, D, OUT, 1, heads=3)


def test_gcn_on_a_graph_without_edges() -> None:
    none = CSRGraph.from_edge_index(torch.empty(2, 0, dtype=torch.int64), 4)
    model = GCN(3, 8, 2, 2)
    assert model(torch.randn(4, 3), none).isfinite().all()
