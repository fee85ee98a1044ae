"""Batches of one large graph: samplers, and loaders that keep PyG's contract."""

from graphattn.sampling.cluster import ClusterLoader as ClusterLoader
from graphattn.sampling.hops import hop_features as hop_features
from graphattn.sampling.loader import NeighborLoader as NeighborLoader
from graphattn.sampling.loader import NodeLoader as NodeLoader
from graphattn.sampling.neighbor import NeighborSampler as NeighborSampler
from graphattn.sampling.neighbor import hop_stars as hop_stars
from graphattn.sampling.store import open_store as open_store
from graphattn.sampling.tokens import TokenSampler as TokenSampler
