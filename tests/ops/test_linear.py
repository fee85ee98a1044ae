"""Linear maps on huge pages are torch's linear maps."""

import copy
import pickle
from functools import partial

import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

from graphattn.nn.blocks import LazyLinear, Linear
from graphattn.ops import linear as module
from graphattn.ops.linear import linear


@pytest.fixture(autouse=True)
def everything_is_large(monkeypatch):
    monkeypatch.setattr(module, "LEAST_BYTES", 0)


@pytest.fixture
def products(monkeypatch):
    """Number of products into fresh memory of our own."""
    calls, original = [], module._multiply

    def counted(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(module, "_multiply", counted)
    return calls


def given(shape, dtype=torch.float32, out=5, bias=True):
    torch.manual_seed(0)
    width = shape[-1]
    parts = [torch.randn(shape), torch.randn(out, width)] + ([torch.randn(out)] if bias else [])
    return [part.to(dtype).requires_grad_() for part in parts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(7, 3), (2, 7, 3), (0, 3), (2, 0, 3)])
@pytest.mark.parametrize("bias", [True, False])
def test_same_bits_as_torch(products, shape, dtype, bias):
    ours, theirs = given(shape, dtype, bias=bias), given(shape, dtype, bias=bias)
    found, expected = linear(*ours), F.linear(*theirs)
    assert torch.equal(found, expected)
    grad = torch.randn_like(expected)
    found.backward(grad)
    expected.backward(grad)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert len(products) == 2


@pytest.mark.parametrize("bias", [True, False])
def test_derivatives(bias):
    inputs = given((4, 3), torch.float64, bias=bias)
    assert torch.autograd.gradcheck(linear, inputs)
    assert torch.autograd.gradgradcheck(linear, inputs)
    assert torch.autograd.gradcheck(linear, inputs, check_batched_grad=True)
    many, found = torch.eye(20, dtype=torch.float64).view(20, 4, 5), []
    for function in (linear, F.linear):
        pull = partial(torch.autograd.grad, function(*inputs), inputs, retain_graph=True)
        found.append(torch.func.vmap(pull)(many))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_only_the_gradient_that_is_wanted(wanted):
    inputs = [t.detach().requires_grad_(i == wanted) for i, t in enumerate(given((6, 3)))]
    linear(*inputs).sum().backward()
    assert [t.grad is not None for t in inputs] == [i == wanted for i in range(3)]


@pytest.mark.parametrize("shape", [(6, 3), (2, 6, 3)])
def test_results_can_be_changed_in_place(shape):
    inputs = given(shape)
    found, expected = linear(*inputs), F.linear(*inputs)
    torch.testing.assert_close(found.mul_(2).relu_(), expected.mul(2).relu())
    found.sum().backward()
    with torch.no_grad():
        found = linear(*inputs)
    found += inputs[2]
    assert found.requires_grad


def test_a_frozen_layer_keeps_nothing(products):
    x, weight, bias = (t.detach() for t in given((6, 3)))
    x.requires_grad_()
    moved = x * 1
    found = linear(moved, weight, bias)
    moved.mul_(3)  # torch allows it: nobody needs it
    found.sum().backward()
    torch.testing.assert_close(x.grad, weight.sum(0).expand(6, 3))
    x.grad, leaf = None, weight.clone().requires_grad_()
    found = linear(x.detach(), leaf, bias)
    leaf.data.zero_()
    found.sum().backward()
    torch.testing.assert_close(leaf.grad, x.detach().sum(0).expand(5, 3))


def test_really_large_results(monkeypatch, products):
    monkeypatch.undo()
    inputs = given((1 << 16, 3), out=32)
    found, expected = linear(*inputs), F.linear(*inputs)
    assert type(found.grad_fn).__name__ == "_LinearBackward" and torch.equal(found, expected)
    found.sum().backward()


def test_compiled_once_for_small_and_large_sizes(monkeypatch):
    monkeypatch.setattr(module, "LEAST_BYTES", 20 * 5 * 4)
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(linear, backend=counter, fullgraph=True, dynamic=True)
    _, weight, bias = (t.detach() for t in given((6, 3)))
    for rows in (6, 15, 40):
        compiled(torch.randn(rows, 3), weight, bias)
    assert counter.frame_count == 1


def test_without_gradients(products):
    inputs = given((6, 3))
    with torch.no_grad():
        assert not linear(*inputs).requires_grad
    with torch.inference_mode():
        assert torch.equal(linear(*inputs), F.linear(*inputs))
    assert len(products) == 2


def test_any_strides(products):
    x, weight, bias = given((7, 3))
    turned = weight.t().contiguous().t()
    for view in (x.t().contiguous().t(), x[::2], x[:, :1].expand(7, 3)):
        torch.testing.assert_close(linear(view, turned, bias), F.linear(view, turned, bias))
    assert len(products) == 3
    wide = torch.randn(4, 2, 3).transpose(0, 1)  # would have to be copied
    assert torch.equal(linear(wide, weight, bias), F.linear(wide, weight, bias))
    assert len(products) == 3


def test_small_results_are_torchs(products, monkeypatch):
    monkeypatch.setattr(module, "LEAST_BYTES", 7 * 5 * 4 + 1)
    linear(*given((7, 3)))
    assert products == []
    monkeypatch.setattr(module, "LEAST_BYTES", 7 * 5 * 4)
    linear(*given((7, 3)))
    assert len(products) == 1


def test_others_have_a_say(products):
    """Compilers, transforms, forward mode, modes, autocast and subclasses see torch's operator."""
    x, weight, bias = given((6, 3))
    compiled = torch.compile(linear, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x, weight, bias), F.linear(x, weight, bias))
    torch.func.vmap(linear, in_dims=(0, None, None))(torch.randn(4, 6, 3), weight, bias)
    tangent = torch.func.jvp(lambda v: linear(v, weight, bias), (x,), (torch.ones_like(x),))[1]
    torch.testing.assert_close(tangent, weight.sum(1).expand(6, 5))
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16

    class Seen(TorchDispatchMode):
        names: list[str] = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.names.append(str(function))
            return function(*args, **(kwargs or {}))

    with Seen() as mode:
        linear(x, weight, bias)
    assert any("addmm" in name for name in mode.names)

    class Special(torch.Tensor):
        pass

    assert type(linear(x.as_subclass(Special), weight, bias)) is Special
    half = [t.detach().bfloat16() for t in (x, weight, bias)]
    assert linear(*half).dtype == torch.bfloat16
    assert products == []


def test_wrong_shapes_devices_and_dtypes_are_torchs_errors(products):
    x, weight, bias = given((6, 3))
    assert linear(x, weight.detach().to("meta"), None).is_meta or products == []
    with pytest.raises(RuntimeError):
        linear(x, torch.randn(5, 4), bias)
    with pytest.raises(RuntimeError):
        linear(x.double(), weight, bias)


def test_module_is_an_nn_linear():
    torch.manual_seed(0)
    ours = Linear(3, 5)
    theirs = nn.Linear(3, 5)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(9, 3)
    assert torch.equal(ours(input=x), theirs(input=x))
    again = pickle.loads(pickle.dumps(copy.deepcopy(ours)))
    assert torch.equal(again(x), ours(x))
    prune.l1_unstructured(ours, "weight", 0.5), prune.l1_unstructured(theirs, "weight", 0.5)
    assert torch.equal(ours(x), theirs(x))
    assert repr(again) == repr(nn.Linear(3, 5)) and isinstance(again, nn.Linear)


def test_a_lazy_one_becomes_ours(products):
    lazy = LazyLinear(5)
    for _ in range(2):  # the first call is still torch's
        lazy(torch.randn(6, 3))
    assert type(lazy) is Linear and len(products) == 1
