"""Positional encodings: where a node sits in its graph."""

from graphattn.encodings.coarse import coarse_laplacian_pe as coarse_laplacian_pe
from graphattn.encodings.laplacian import laplacian_pe as laplacian_pe
from graphattn.encodings.random_walk import random_walk_pe as random_walk_pe
from graphattn.encodings.signs import flip_signs as flip_signs
