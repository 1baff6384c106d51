"""FAVOR+ attention: the kernel and its projections as upstream's, the blocked path equal to the plain one."""

from pathlib import Path

import pytest
import torch

from trainables.networks import favor

GOLDEN = torch.load(Path(__file__).parents[1] / "golden" / "scbert.pt", weights_only=True)
PARTS = ("cell", "batch", "head")


def test_features_are_upstreams():
    kernel = GOLDEN["softmax_kernel"]
    x_BLHD = kernel["data"].transpose(1, 2)
    scale = len(kernel["projection"]) ** -0.5
    for part, over in (("query", (-1,)), ("key", favor.STABILISERS["batch"])):
        ours = favor.features(x_BLHD, kernel["projection"], over).transpose(1, 2) * scale
        torch.testing.assert_close(ours, kernel[part], rtol=1e-5, atol=1e-9)


def test_projections_follow_from_torchs_seed_as_upstream_draws_them():
    torch.manual_seed(7)
    drawn = favor.draw_projection(266, 64)
    torch.testing.assert_close(drawn, GOLDEN["softmax_kernel"]["projection"])
    directions = drawn[:64] / drawn[:64].norm(dim=1, keepdim=True)
    torch.testing.assert_close(directions @ directions.T, torch.eye(64), atol=1e-5, rtol=0)


@pytest.mark.parametrize("stabiliser", PARTS)
@pytest.mark.parametrize("block", [1 << 18, 200], ids=["whole cells", "parts of cells"])
@pytest.mark.parametrize("growth", [1.0, 30.0], ids=["even", "ever larger keys"])
def test_blocks_give_the_plain_formula_and_its_gradient(monkeypatch, stabiliser, block, growth):
    monkeypatch.setattr(favor, "BLOCK", block)
    torch.manual_seed(1)
    projection = favor.draw_projection(20, 8).double()
    q, k, v = (torch.randn(3, 37, 2, 8, dtype=torch.double) for _ in range(3))
    k = k * torch.linspace(1, growth**0.5, 37, dtype=torch.double)[:, None, None]
    inputs = [x.requires_grad_() for x in (q, k, v)]
    ours, plain = (f(*inputs, projection, stabiliser) for f in (favor._Blocked.apply, favor.plain))
    torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)
    grad = torch.randn_like(ours)
    for mine, theirs in zip(
        torch.autograd.grad(ours, inputs, grad), torch.autograd.grad(plain, inputs, grad), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-8, atol=1e-11)


def test_the_reference_is_raised_when_keys_leave_it_behind():
    """The premise of the last cases above, and that the sums don't show it."""
    torch.manual_seed(1)
    projection = favor._scaled(favor.draw_projection(20, 8))
    k, v = torch.randn(1, 40, 2, 8) * torch.linspace(0.1, 20, 40)[:, None, None], torch.randn(1, 40, 2, 8)
    blocks = [slice(start, start + 10) for start in range(0, 40, 10)]
    parts, whole = (favor._sum_keys(k, v, projection, pieces, False) for pieces in (blocks, [slice(0, 40)]))
    assert bool((parts.references[-1] > parts.references[0] + favor.SLACK).all())
    for sums in (parts, whole):
        sums.finish(whole.top_N)
    torch.testing.assert_close(parts.context_NMV, whole.context_NMV)


def test_a_cells_attention_is_its_own_but_for_the_batch_stabiliser():
    torch.manual_seed(0)
    projection = favor.draw_projection(266, 64)
    q, k, v = (torch.randn(3, 30, 2, 64) for _ in range(3))
    k[1] *= 1.5  # the largest keys are another cell's
    alone = {part: favor.attend(q[:1], k[:1], v[:1], projection, part) for part in PARTS}
    among = {part: favor.attend(q, k, v, projection, part)[:1] for part in PARTS}
    assert float((alone["cell"] - among["cell"]).abs().max()) < 1e-6
    assert float((alone["head"] - among["head"]).abs().max()) < 1e-6
    assert float((alone["batch"] - among["batch"]).abs().max()) > 1e-5
    torch.testing.assert_close(alone["batch"], alone["cell"])


def test_it_stays_in_float32_under_autocast():
    torch.manual_seed(0)
    projection = favor.draw_projection(20, 8)
    q, k, v = (torch.randn(2, 9, 2, 8).bfloat16() for _ in range(3))
    with torch.autocast("cpu", torch.bfloat16):
        out = favor.attend(q, k, v, projection, "cell")
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, favor.attend(q.float(), k.float(), v.float(), projection, "cell"))
