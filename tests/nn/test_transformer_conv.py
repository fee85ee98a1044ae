"""TransformerConv against PyG's layer: weights, outputs, gradients, inputs, refusals."""

import copy
import io
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from graphattn.graph import CSRGraph
from graphattn.nn import TransformerConv

pyg = pytest.importorskip("torch_geometric.nn")
IMPLS = ("reference", "auto")


def multigraph(sources: int = 13, targets: int = 13, edges: int = 61) -> Tensor:
    """Unsorted edges with duplicates, a hub (target 2) and rows without edges (the last two)."""
    gen = torch.Generator().manual_seed(5)
    source = torch.randint(0, sources, (edges,), generator=gen)
    target = torch.randint(0, targets - 2, (edges,), generator=gen)
    target[::3] = 2
    return torch.cat([torch.stack([source, target]), torch.tensor([[1, 1, 4], [0, 0, 4]])], dim=1)


def pair(impl: str = "reference", **options: Any) -> tuple[TransformerConv, torch.nn.Module]:
    ours = TransformerConv(7, 5, **options, impl=impl)
    theirs = pyg.TransformerConv(7, 5, **options)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def gradients(conv: torch.nn.Module, inputs: list[Tensor], *args: Tensor) -> list[Tensor]:
    """Output and gradients of a fixed weighting of it: to the inputs, then to the parameters."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    x = inputs[0] if len(inputs) < 2 or args[1:] else tuple(inputs[:2])
    out = conv(x, args[0], *inputs[1:]) if args[1:] else conv(x, args[0])
    weight = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
    params = [p for _, p in sorted(conv.named_parameters())]
    grads = torch.autograd.grad((out * weight).sum(), [*inputs, *params], allow_unused=True)
    return [out, *(torch.zeros(1) if g is None else g for g in grads)]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    "concat, beta, root_weight, bias, edge_dim",
    [*product([True, False], [True, False], [True, False], [True], [None, 3])]
    + [(True, False, True, False, 3)],
)
def test_equals_pyg(
    concat: bool, beta: bool, root_weight: bool, bias: bool, edge_dim: int | None, impl: str
) -> None:
    flags = {"concat": concat, "beta": beta, "root_weight": root_weight, "bias": bias}
    ours, theirs = pair(impl, heads=2, edge_dim=edge_dim, **flags)
    edge_index = multigraph()
    inputs = [torch.randn(13, 7)]
    marker = (edge_index,)
    if edge_dim is not None:
        inputs.append(torch.randn(edge_index.shape[1], edge_dim))
        marker = (edge_index, edge_index)
    assert_same(gradients(ours, inputs, *marker), gradients(theirs, inputs, *marker))


@pytest.mark.parametrize("impl", IMPLS)
def test_bipartite_equals_pyg(impl: str) -> None:
    ours = TransformerConv((7, 4), 5, heads=2, impl=impl)
    theirs = pyg.TransformerConv((7, 4), 5, heads=2)
    theirs.load_state_dict(ours.state_dict())
    edge_index = multigraph(sources=17, targets=9)
    inputs = [torch.randn(17, 7), torch.randn(9, 4)]
    assert_same(gradients(ours, inputs, edge_index), gradients(theirs, inputs, edge_index))
    out = ours((inputs[0], inputs[1]), edge_index, size=(17, 9))
    assert out.shape == (9, 10)
    with pytest.raises(ValueError, match=r"size must be .* \(17, 9\).*got \(9, 17\)"):
        ours((inputs[0], inputs[1]), edge_index, size=(9, 17))


def test_same_seed_same_weights() -> None:
    options = {"heads": 3, "edge_dim": 2, "beta": True}
    torch.manual_seed(11)
    ours = TransformerConv(7, 5, **options)
    torch.manual_seed(11)
    theirs = pyg.TransformerConv(7, 5, **options)
    assert [n for n, _ in ours.named_parameters()] == [n for n, _ in theirs.named_parameters()]
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)
    assert repr(ours) == repr(theirs) == "TransformerConv(7, 5, heads=3)"


def test_message_goes_from_source_to_target() -> None:
    conv = TransformerConv(1, 1, root_weight=False, impl="reference")
    x = torch.tensor([[1.0], [2.0], [3.0]])
    out = conv(x, torch.tensor([[0, 1], [1, 2]]))
    value = conv.lin_value(x)
    torch.testing.assert_close(out, torch.cat([torch.zeros(1, 1), value[:2]]))


def test_pyg_assert_module() -> None:
    from torch_geometric.testing import assert_module

    edge_index = torch.tensor([[0, 1, 2, 3, 4, 1], [2, 0, 0, 2, 0, 4]])
    conv = TransformerConv(7, 5, heads=2, impl="reference")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyG changes the filters itself
        assert_module(conv, torch.randn(5, 7), edge_index, expected_size=(5, 10), atol=1e-6)


def test_every_graph_form_gives_the_same() -> None:
    from torch_geometric import EdgeIndex

    edge_index = torch.unique(multigraph(), dim=1).contiguous()
    conv = TransformerConv(7, 5, impl="reference")
    x = torch.randn(13, 7)
    expected = conv(x, edge_index)
    graph = CSRGraph.from_edge_index(edge_index, 13)
    ones = torch.ones(edge_index.shape[1])
    adj_t = torch.sparse_coo_tensor(edge_index.flip(0), ones, (13, 13))
    for form in (graph, EdgeIndex(edge_index, sparse_size=(13, 13)), adj_t, adj_t.to_sparse_csr()):
        torch.testing.assert_close(conv(x, form), expected)


def test_attention_weights_equal_pyg() -> None:
    ours, theirs = pair(heads=3, edge_dim=2, dropout=0.5)
    ours.eval(), theirs.eval()
    edge_index = multigraph()
    args = (torch.randn(13, 7), edge_index, torch.randn(edge_index.shape[1], 2))
    out, (given, alpha) = ours(*args, return_attention_weights=True)
    expected, (_, expected_alpha) = theirs(*args, return_attention_weights=True)
    assert given is edge_index
    assert_same([out, alpha], [expected, expected_alpha])
    assert isinstance(ours(*args, return_attention_weights=False), tuple)
    assert isinstance(ours(*args), Tensor)
    ours.train()
    torch.testing.assert_close(ours(*args, return_attention_weights=True)[1][1], alpha)


def test_attention_weights_of_sparse_input() -> None:
    edge_index = torch.unique(multigraph(), dim=1).contiguous()
    ours, theirs = pair(heads=2)
    x = torch.randn(13, 7)
    ones = torch.ones(edge_index.shape[1])
    adj_t = torch.sparse_coo_tensor(edge_index.flip(0), ones, (13, 13)).to_sparse_csr()
    _, (given, alpha) = ours(x, adj_t, return_attention_weights=True)
    _, (_, expected) = theirs(x, adj_t, return_attention_weights=True)
    assert given is adj_t
    torch.testing.assert_close(alpha, expected, rtol=1e-5, atol=1e-6)


class FakeSparseTensor:
    """The part of torch_sparse.SparseTensor that a layer touches."""

    def __init__(self, adj_t: Tensor, value: Tensor | None = None) -> None:
        self.adj_t = adj_t
        self.value = value

    def csr(self) -> tuple[Tensor, Tensor, Tensor | None]:
        return self.adj_t.crow_indices(), self.adj_t.col_indices(), self.value

    def sparse_sizes(self) -> tuple[int, int]:
        return self.adj_t.shape[0], self.adj_t.shape[1]

    def sparse_size(self, dim: int) -> int:
        return self.adj_t.shape[dim]

    def set_value(self, value: Tensor, layout: str) -> "FakeSparseTensor":
        assert layout == "coo"
        return FakeSparseTensor(self.adj_t, value)


def test_sparse_tensor_comes_back_with_the_weights() -> None:
    edge_index = torch.unique(multigraph(), dim=1).contiguous()
    ones = torch.ones(edge_index.shape[1])
    adj_t = torch.sparse_coo_tensor(edge_index.flip(0), ones, (13, 13)).to_sparse_csr()
    conv = TransformerConv(7, 5, heads=2, impl="reference")
    x = torch.randn(13, 7)
    out, adj = conv(x, FakeSparseTensor(adj_t), return_attention_weights=True)
    expected, (_, alpha) = conv(x, adj_t, return_attention_weights=True)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(adj.value, alpha)


@pytest.mark.parametrize("used_first", [False, True])
@pytest.mark.parametrize("ours_loads", [False, True])
def test_lazy_widths_load_both_ways(used_first: bool, ours_loads: bool) -> None:
    edge_index = multigraph()
    args = torch.randn(13, 7), edge_index, torch.randn(edge_index.shape[1], 3)
    options = {"heads": 2, "edge_dim": -1, "beta": True}
    ours = TransformerConv(-1, 5, **options, impl="reference")
    theirs = pyg.TransformerConv(-1, 5, **options)
    giver, taker = (theirs, ours) if ours_loads else (ours, theirs)
    if used_first:
        giver(*args)
    taker.load_state_dict(giver.state_dict())
    assert taker(*args).shape == (13, 10)
    giver(*args)
    taker.load_state_dict(giver.state_dict())
    torch.testing.assert_close(ours(*args), theirs(*args), rtol=1e-5, atol=1e-5)


def test_lazy_layer_resets_and_reports() -> None:
    conv = TransformerConv((-1, -1), 4, impl="reference")
    assert repr(conv) == "TransformerConv((-1, -1), 4, heads=1)"
    conv((torch.randn(5, 3), torch.randn(2, 6)), torch.tensor([[0, 4], [1, 0]]))
    assert conv.lin_key.weight.shape == (4, 3) and conv.lin_query.weight.shape == (4, 6)
    before = conv.lin_key.weight.clone()
    conv.reset_parameters()
    assert not torch.equal(before, conv.lin_key.weight)
    assert conv.lin_key.bias.abs().max() <= 3**-0.5


def test_dropout_acts_in_training_only_and_follows_the_seed() -> None:
    conv = TransformerConv(7, 5, heads=2, dropout=0.5, impl="reference")
    x, edge_index = torch.randn(13, 7), multigraph()
    torch.manual_seed(1)
    first = conv(x, edge_index)
    torch.manual_seed(1)
    assert torch.equal(first, conv(x, edge_index))
    assert not torch.equal(first, conv(x, edge_index))
    conv.eval()
    assert torch.equal(conv(x, edge_index), conv(x, edge_index))


def test_compiles_without_graph_breaks() -> None:
    edge_index = multigraph()
    conv = TransformerConv(7, 5, heads=2, edge_dim=3)
    compiled = torch.compile(copy.deepcopy(conv), fullgraph=True, backend="aot_eager")
    x, edge_attr = torch.randn(13, 7), torch.randn(edge_index.shape[1], 3)
    for graph in (edge_index, CSRGraph.from_edge_index(edge_index, 13)):
        expected, found = conv(x, graph, edge_attr), compiled(x, graph, edge_attr)
        torch.testing.assert_close(found, expected)
        found.sum().backward()


def test_saves_and_copies() -> None:
    conv = TransformerConv(7, 5, impl="reference")
    x, edge_index = torch.randn(13, 7), multigraph()
    buffer = io.BytesIO()
    torch.save(conv, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    torch.testing.assert_close(again(x, edge_index), conv(x, edge_index))


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"flow": "target_to_source"}, ValueError, r"flow='source_to_target' only.*flip\(0\)"),
        ({"aggr": "mean"}, ValueError, "aggr='add' only, got 'mean'"),
        ({"node_dim": -2}, ValueError, "node_dim=0 only, got -2"),
        ({"colour": 1}, TypeError, "unknown argument 'colour'"),
    ],
)
def test_refuses_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        TransformerConv(7, 5, **options)
    TransformerConv(7, 5, aggr="add", flow="source_to_target", node_dim=0)


def test_edge_features_need_edge_dim() -> None:
    edge_index = multigraph()
    x, edge_attr = torch.randn(13, 7), torch.randn(edge_index.shape[1], 3)
    with pytest.raises(ValueError, match="edge_dim=None and got edge_attr"):
        TransformerConv(7, 5)(x, edge_index, edge_attr)
    with pytest.raises(ValueError, match="edge_dim=3 and got no edge_attr"):
        TransformerConv(7, 5, edge_dim=3)(x, edge_index)
    with pytest.raises(ValueError, match="edge_attr must have shape"):
        TransformerConv(7, 5, edge_dim=3)(x, edge_index, edge_attr[:-1])


@pytest.mark.parametrize(
    "change, error, message",
    [
        (lambda x: torch.stack([x, x]), ValueError, r"x must be .*\[N, F\], got \[2, 13, 7\]"),
        (lambda x: (x, x[0]), ValueError, r"x must be .*got \[7\]"),
        (lambda x: (x, None), TypeError, r"got tuple of \(Tensor, NoneType\).*pass \(x, x\)"),
        (lambda x: (x, x, x), TypeError, "pair"),
        (lambda x: x.tolist, TypeError, "x must be node features"),
    ],
)
def test_node_features_must_be_matrices(
    change: Callable[[Tensor], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TransformerConv(7, 5)(change(torch.randn(13, 7)), multigraph())


def test_needs_a_head() -> None:
    with pytest.raises(ValueError, match="heads must be at least 1, got 0"):
        TransformerConv(7, 5, heads=0)


def test_importing_layers_does_not_import_pyg() -> None:
    import subprocess
    import sys

    code = "import graphattn.nn, sys; assert not {'torch_geometric', 'numba'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
