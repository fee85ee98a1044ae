"""What a trained attention model can do without: nodes, edges, heads, layers and weights."""

from graphattn.sparsify.depth import LayerSkips as LayerSkips
from graphattn.sparsify.depth import drop_layers as drop_layers
from graphattn.sparsify.heads import HeadMasks as HeadMasks
from graphattn.sparsify.model import Compacted as Compacted
from graphattn.sparsify.model import Sparsified as Sparsified
from graphattn.sparsify.select import EdgeSelector as EdgeSelector
from graphattn.sparsify.select import NodeSelector as NodeSelector
from graphattn.sparsify.weights import WeightMasks as WeightMasks
from graphattn.sparsify.weights import cubic_sparsity as cubic_sparsity
