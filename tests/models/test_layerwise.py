from pathlib import Path

import pytest
import torch

from graphattn.datasets.generated import power_law
from graphattn.models import GCN, GraphTransformer
from graphattn.models.layerwise import layerwise


@pytest.mark.parametrize("variant", ["gt", "gt-sep"])
def test_equals_the_full_graph(variant: str, tmp_path: Path) -> None:
    edges = power_law(200, 1500, 0.8, 0.5)
    x, pe = torch.randn(210, 5), torch.randn(210, 3)
    model = GraphTransformer(
        5, 16, 4, 3, heads=2, variant=variant, norm="batch", pe_dim=3, impl="reference"
    )
    model(x, edges, pe)  # running statistics that are not 0 and 1
    want = model.eval()(x, edges, pe)
    model.train()
    for folder in (None, tmp_path):
        out = layerwise(model, x, edges, pe, rows=37, folder=folder)
        torch.testing.assert_close(out, want, rtol=1e-5, atol=1e-5)


def test_refuses_what_is_not_made_of_blocks() -> None:
    with pytest.raises(ValueError, match="GCN has no encode"):
        layerwise(GCN(5, 8, 2, 2), torch.randn(4, 5), torch.zeros(2, 0, dtype=torch.int64))
