"""In 16 bits the heads stay in float32: no two types have the same logit, so none wins by its name."""

import numpy as np
import pytest
import torch
from scipy import sparse

from trainables.spec import get

NUM_TYPES, NUM_CELLS = 60, 64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("model", ["scgpt", "scbert", "geneformer"])
def test_no_two_types_tie_in_16_bits(model, dtype):
    spec, genes = get(model), [f"g{number}" for number in range(40)]
    counts = sparse.csr_matrix(np.random.default_rng(0).poisson(2.0, (NUM_CELLS, 40)).astype(np.float32))
    encoder = spec.encoder(genes, size="tiny")
    encoded = encoder(counts, np.random.default_rng(0), totals=np.asarray(counts.sum(1)).ravel())
    torch.manual_seed(0)
    network = spec.build(NUM_TYPES, size="tiny", **encoder.network_options).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype):
        logits = network(**spec.collate(encoded, np.arange(NUM_CELLS)))
    assert logits.dtype == torch.float32
    ordered = logits.sort(-1, descending=True).values
    assert (ordered[:, :-1] > ordered[:, 1:]).all(), "of all pairs, not of the best two alone"


def test_a_head_of_16_bits_is_computed_in_its_own_numbers():
    from trainables.networks.exact import exactly

    assert exactly(torch.nn.Linear(3, 2).bfloat16(), torch.ones(4, 3)).dtype == torch.bfloat16
