"""Linear maps on huge pages are torch's linear maps."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
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


@pytest.mark.parametrize(
    "wanted", [(True, False, False), (False, True, False), (False, False, True)]
)
def test_only_the_gradients_that_are_wanted(wanted):
    inputs = [t.detach().requires_grad_(w) for t, w in zip(given((6, 3)), wanted, strict=True)]
    linear(*inputs).sum().backward()
    assert [t.grad is not None for t in inputs] == list(wanted)


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


def test_wrong_shapes_and_dtypes_are_torchs_errors():
    x, weight, bias = given((6, 3))
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
    assert torch.equal(ours(x), theirs(x))
    assert repr(ours) == repr(theirs) and isinstance(copy.deepcopy(ours), nn.Linear)


def test_a_lazy_one_becomes_ours(products):
    lazy = LazyLinear(5)
    for _ in range(2):  # the first call is still torch's
        lazy(torch.randn(6, 3))
    assert type(lazy) is Linear and len(products) == 1
