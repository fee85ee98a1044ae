import pytest
import torch

from graphattn.models import LargeGT, large_gt
from graphattn.models.large_gt import _some_nodes


def batch(nodes: int = 12) -> tuple[torch.Tensor, ...]:
    features = torch.randn(20, 3, 7)
    return features, torch.randint(0, 20, (nodes, 5)), torch.randn(nodes, 4), torch.arange(nodes)


@pytest.mark.parametrize("variant", ["local", "global", "full"])
def test_variants_run_and_learn(variant: str) -> None:
    model = LargeGT(
        7, 16, 3, num_nodes=40, variant=variant, pe_dim=4, global_dim=8, num_codes=8, dropout=0.0,
        block_dropout=0.0,
    )  # fmt: skip
    arguments = batch()
    out = model(*arguments)
    assert out.shape == (12, 3)
    out.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    reads_pe = not torch.equal(
        model.eval()(*arguments), model(*arguments[:2], arguments[2] + 1, arguments[3])
    )
    assert reads_pe == (variant != "local")


def test_output_does_not_depend_on_the_batch() -> None:
    model = LargeGT(7, 16, 3, num_nodes=40, pe_dim=4, num_codes=8)
    features, tokens, pe, nodes = batch()
    model(features, tokens, pe, nodes)
    model.eval()
    whole = model(features, tokens, pe, nodes)
    part = model(features, tokens[3:5], pe[3:5], nodes[3:5])
    torch.testing.assert_close(part, whole[3:5])


def test_refresh_assigns_all_nodes() -> None:
    model = LargeGT(7, 16, 3, num_nodes=40, pe_dim=4, num_codes=8)
    x, pe = torch.randn(40, 7), torch.randn(40, 4)
    assert not model.codebook.started
    model.refresh(40, lambda nodes: (x[nodes], pe[nodes]))
    assert model.codebook.started and model.training
    u = torch.cat([model.eval().mlp(x), pe], 1)
    normed = (u - model.codebook.mean) / (model.codebook.var + 1e-5).sqrt()
    nearest = torch.cdist(normed, model.codebook.codes).argmin(1)
    assert torch.equal(model.codebook.assignment.long(), nearest)


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="one layer, got 2"):
        LargeGT(7, 16, 3, 2, num_nodes=4)
    with pytest.raises(ValueError, match="heads and hidden_channels must be .* got 0 and 16"):
        LargeGT(7, 16, 3, heads=0, num_nodes=4)
    with pytest.raises(ValueError, match="variant must be one of"):
        LargeGT(7, 16, 3, num_nodes=4, variant="both")
    with pytest.raises(ValueError, match="pe_dim=4"):
        LargeGT(7, 16, 3, num_nodes=20, pe_dim=4)(*batch()[:2], None, torch.arange(12))


@pytest.mark.parametrize("variant", ["local", "global", "full"])
@pytest.mark.parametrize("train", [True, False])
def test_tokens_and_nodes_are_in_range(variant: str, train: bool) -> None:
    model = LargeGT(7, 16, 3, num_nodes=20, variant=variant, pe_dim=4, num_codes=8).train(train)
    features, tokens, pe, nodes = batch()
    for bad in (-1, 20):
        wrong = tokens.clone()
        wrong[3, 2] = bad
        with pytest.raises(ValueError, match=rf"tokens must be in \[0, 20\), got {bad}; tok"):
            model(features, wrong, pe, nodes)
        wrong = nodes.clone()
        wrong[3] = bad
        if variant == "local":  # serves nodes of other graphs too
            model(features, tokens, pe, wrong)
            continue
        with pytest.raises(ValueError, match=rf"nodes must be in \[0, 20\), got {bad}; the layer"):
            model(features, tokens, pe, wrong)
    with pytest.raises(ValueError, match=r"and nodes \[b\], got \[12, 5\] and \[11\]"):
        model(features, tokens, pe, nodes[1:])


@pytest.mark.parametrize(("nodes", "count"), [(10, 10), (100, 30), (100_000, 500)])
def test_starting_nodes_are_distinct_and_from_everywhere(nodes: int, count: int) -> None:
    found = _some_nodes(nodes, count)
    assert len(found) == count and bool((found[1:] > found[:-1]).all())
    assert int(found[0]) >= 0 and nodes / 2 < int(found[-1]) < nodes


def test_refresh_assigns_every_node_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_gt, "_BLOCK", 7)
    model = LargeGT(7, 16, 3, num_nodes=40, variant="global", global_dim=8, num_codes=8)
    x, read = torch.randn(40, 7), []

    def rows(nodes: torch.Tensor) -> tuple[torch.Tensor, None]:
        read.append(nodes)
        return x[nodes], None

    model.refresh(40, rows)
    assert torch.equal(torch.cat(read[1:]), torch.arange(40))
    assert all(len(nodes) <= 7 for nodes in read[1:])
    model.eval()
    codes = model.codebook._nearest(model.codebook._normalised(model.mlp(x)))
    assert torch.equal(model.codebook.assignment.long(), codes)
    assert torch.equal(model.codebook.sizes, torch.bincount(codes, minlength=8))
