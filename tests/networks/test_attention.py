"""Attention over packed cells, cheap dropout: values, gradients, masks, memory; the CUDA branches played through."""

import types

import numpy as np
import pytest
import torch
from torch.nn import functional

from trainables.networks import attention
from trainables.networks.attention import attend, attend_first, cells_of
from trainables.networks.dropout import BLOCK, Coin, add_dropped, relu_dropped
from trainables.spec import get

LENGTHS = [5, 1, 40, 17]


@pytest.fixture
def cells():
    return cells_of(functional.pad(torch.tensor(LENGTHS).cumsum(0), (1, 0)))


def packed(num_heads: int = 2, width: int = 8, dtype: torch.dtype = torch.float32, parts: int = 3) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(sum(LENGTHS), parts, num_heads, width, dtype=dtype)


def reference(q, k, v, lengths_q, lengths_k, masks=None, kept=1.0):
    """Softmax attention written out, cell by cell; masks: one [H, Q, L] of 0 and 1 per cell."""
    outs = []
    cells = zip(q.split(lengths_q), k.split(lengths_k), v.split(lengths_k), strict=True)
    for number, part in enumerate(cells):
        q_HLD, k_HLD, v_HLD = (x.transpose(0, 1) for x in part)
        p_HQL = torch.softmax(q_HLD @ k_HLD.transpose(1, 2) / q_HLD.shape[-1] ** 0.5, -1)
        p_HQL = p_HQL if masks is None else p_HQL * masks[number] / kept
        outs.append((p_HQL @ v_HLD).transpose(0, 1))
    return torch.cat(outs)


# --- CPU kernels


def test_attention_stays_within_each_cell(cells):
    qkv = packed()
    wanted = reference(*qkv.unbind(1), LENGTHS, LENGTHS)
    torch.testing.assert_close(attend(qkv, cells), wanted, atol=1e-6, rtol=1e-5)


def test_first_tokens_attention_is_the_first_row_of_all(cells):
    qkv = packed()
    first = cells.offsets_B1[:-1]
    torch.testing.assert_close(attend_first(qkv[first, 0], qkv[:, 1:], cells), attend(qkv, cells)[first])


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of queries per cell, the last one shorter."""
    monkeypatch.setattr(attention, "BLOCK", 400)
    monkeypatch.setattr(attention, "MIN_QUERIES", 3)


def drawn_masks(seed: int, rate: float, num_heads: int, dtype: torch.dtype) -> list[torch.Tensor]:
    """The masks of all cells, in the order in which the blocks toss them."""
    coin, masks = Coin(rate, seed), []
    for length in LENGTHS:
        size = max(attention.MIN_QUERIES, attention.BLOCK // (num_heads * length))
        sizes = [min(size, length - start) for start in range(0, length, size)]
        masks.append(torch.cat([coin.toss(torch.empty(num_heads, s, length, dtype=dtype)) for s in sizes], 1))
    return masks


def test_dropout_equals_the_written_out_formula_with_the_same_masks(cells, small_blocks, monkeypatch):
    monkeypatch.setattr(attention, "draw_seed", lambda: 7)
    qkv = packed(dtype=torch.float64).requires_grad_()
    masks = drawn_masks(7, 0.25, 2, torch.float64)
    assert all((mask == 0).any() and (mask == 1).any() for mask in masks[2:])
    ours = attend(qkv, cells, 0.25)
    theirs = reference(*qkv.unbind(1), LENGTHS, LENGTHS, masks, kept=0.75)
    torch.testing.assert_close(ours, theirs)
    weight = torch.randn_like(ours)
    grads = [torch.autograd.grad((out * weight).sum(), qkv)[0] for out in (ours, theirs)]
    torch.testing.assert_close(*grads)


def test_under_autocast_attention_still_counts_in_32_bits(cells, monkeypatch):
    monkeypatch.setattr(attention, "draw_seed", lambda: 7)
    qkv = packed().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = attend(qkv, cells, 0.2)
    assert out.dtype == torch.float32 and torch.equal(out, attend(qkv.float(), cells, 0.2))


def test_dropout_changes_no_mean(cells):
    """Mean of 150 draws against no dropout: 5 standard errors, taken from the draws themselves."""
    qkv = packed()
    torch.manual_seed(0)
    draws = torch.stack([attend(qkv, cells, 0.2) for _ in range(150)])
    error = draws.std(0) / 150**0.5
    assert ((draws.mean(0) - attend(qkv, cells)).abs() < 5 * error + 1e-6).all()
    assert draws.std(0).min() > 0


def test_no_square_matrix_is_kept_for_the_backward_pass():
    length, saved = 1500, []
    qkv = torch.randn(length, 3, 2, 4, requires_grad=True)
    cells = cells_of(torch.tensor([0, length]))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        attend(qkv, cells, 0.2)
    assert sum(saved) == qkv.numel() + qkv.numel() // 3


def test_the_same_torch_seed_gives_the_same_masks(cells):
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return attend(packed_once, cells, 0.3)

    packed_once = packed()
    assert torch.equal(draw(3), draw(3)) and not torch.equal(draw(3), draw(4))


# --- dropout


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_coin_keeps_its_share_independently(rate):
    """A million tosses: share within 5 sigma, neighbours and lanes 4 and 8 apart uncorrelated within 5 sigma."""
    num = 1 << 20
    mask = Coin(rate, 1).toss(torch.empty(num)).numpy()
    assert set(np.unique(mask)) == {0.0, 1.0}
    sigma = (rate * (1 - rate) / num) ** 0.5
    assert abs(mask.mean() - (1 - rate)) < 5 * sigma
    for lag in (1, 4, 8):
        assert abs(np.corrcoef(mask[:-lag], mask[lag:])[0, 1]) < 5 / num**0.5


@pytest.mark.parametrize("shape", [(7,), (3, 5), (BLOCK + 3,)])
def test_add_dropped_drops_and_scales_the_second_and_its_gradient(shape):
    torch.manual_seed(0)
    x, y = torch.randn(shape, requires_grad=True), (torch.rand(shape) + 1).requires_grad_()
    out = add_dropped(x, y, 0.25)
    added = (out - x).detach() / y.detach()
    kept = added > 0.5
    torch.testing.assert_close(added, kept / 0.75, atol=1e-5, rtol=1e-5)
    grad = torch.randn(shape)
    grad_x, grad_y = torch.autograd.grad(out, (x, y), grad)
    assert torch.equal(grad_x, grad)
    torch.testing.assert_close(grad_y, grad * kept / 0.75)
    assert len(kept) < 100 or abs(kept.float().mean() - 0.75) < 0.01


def test_relu_dropped_and_its_gradient():
    torch.manual_seed(0)
    x = torch.randn(1000, requires_grad=True)
    out = relu_dropped(x, 0.5)
    kept = out > 0
    assert 150 < kept.sum() < 350 and (x[kept] > 0).all()
    torch.testing.assert_close(out[kept], 2 * x[kept])
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad, 2.0 * kept)


def test_rate_zero_is_the_plain_operation():
    x, y = torch.randn(9), torch.randn(9)
    assert torch.equal(add_dropped(x, y, 0.0), x + y) and torch.equal(relu_dropped(x, 0.0), x.relu())


# --- the CUDA branches, with a reference in the kernel's place


class Kernel:
    """Stands for a varlen kernel: checks what it is given, computes the written-out attention."""

    def __init__(self) -> None:
        self.calls = []

    def __call__(self, q, k, v, offsets_q, offsets_k, longest_q, longest_k, dropout_p=0.0):
        assert q.dtype == k.dtype == v.dtype and q.dtype in attention.HALF
        assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1 and k.shape == v.shape
        for offsets, longest, x in ((offsets_q, longest_q, q), (offsets_k, longest_k, k)):
            assert offsets.dtype == torch.int32 and offsets.is_contiguous()
            assert offsets[0] == 0 and offsets[-1] == len(x) and type(longest) is int
            assert longest == offsets.diff().max()
        self.calls.append((longest_q, dropout_p))
        lengths = offsets_q.diff().tolist(), offsets_k.diff().tolist()
        return reference(q.float(), k.float(), v.float(), *lengths).to(q.dtype)


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(attention, "on_cpu", lambda x: False)
    monkeypatch.setattr(attention, "has_flash_instructions", lambda: True)
    return Kernel()


def test_flash_attention_is_taken_where_it_is_installed(cells, kernel, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "flash_attn", types.SimpleNamespace(flash_attn_varlen_func=kernel))
    attention.flash_varlen.cache_clear()
    qkv = packed(dtype=torch.bfloat16)
    out = attend(qkv, cells, 0.2)
    first = attend_first(qkv[cells.offsets_B1[:-1], 0], qkv[:, 1:], cells, 0.2)
    attention.flash_varlen.cache_clear()
    assert kernel.calls == [(40, 0.2), (1, 0.2)]
    assert torch.equal(out[cells.offsets_B1[:-1]], first) and out.dtype == torch.bfloat16


class TorchsKernel:
    """Stands for torch's flash kernel, which takes widths of whole eights alone and scales as it is told."""

    def __init__(self) -> None:
        self.calls = []

    def __call__(self, q, k, v, offsets_q, offsets_k, longest_q, longest_k, dropout, causal, debug, *, scale):
        assert q.shape[-1] % 8 == 0 and q.dtype in attention.HALF and not causal and not debug
        self.calls.append((longest_q, dropout))
        lengths = offsets_q.diff().tolist(), offsets_k.diff().tolist()
        scaled = q.float() * scale * q.shape[-1] ** 0.5
        return reference(scaled, k.float(), v.float(), *lengths).to(q.dtype), None, None, None, None


@pytest.mark.parametrize("width", [8, 12])
def test_torchs_varlen_kernel_is_taken_without_flash_attention(cells, kernel, monkeypatch, width):
    torchs = TorchsKernel()
    monkeypatch.setattr(torch.ops.aten, "_flash_attention_forward", torchs)
    monkeypatch.setattr(attention, "flash_varlen", lambda: None)
    qkv = torch.randn(sum(LENGTHS), 3, 2, width, dtype=torch.float16)
    wanted = reference(*qkv.float().unbind(1), LENGTHS, LENGTHS).half()
    torch.testing.assert_close(attend(qkv, cells, 0.2), wanted)
    assert attend_first(qkv[cells.offsets_B1[:-1], 0], qkv[:, 1:], cells).shape == (4, 2, width)
    assert torchs.calls == [(40, 0.2), (1, 0.0)]


def test_the_flash_kernel_of_this_torch_takes_what_it_is_given():
    names = [argument.name for argument in torch.ops.aten._flash_attention_forward.default._schema.arguments]
    lengths = ["cum_seq_q", "cum_seq_k", "max_q", "max_k"]
    assert names[:10] == ["query", "key", "value", *lengths, "dropout_p", "is_causal", "return_debug_mask"]
    assert "scale" in names


@pytest.mark.parametrize(
    ("dtype", "dropout", "flash", "chosen"),
    [
        (torch.bfloat16, 0.2, True, "_flash"),
        (torch.bfloat16, 0.0, True, "_flash"),
        (torch.float32, 0.2, True, "_cell_by_cell"),  # no varlen kernel takes 32 bits
        (torch.bfloat16, 0.0, False, "_varlen"),
        (torch.bfloat16, 0.2, False, "_varlen"),
        (torch.float32, 0.0, False, "_nested"),
    ],
)
def test_the_kernel_suits_the_numbers(kernel, monkeypatch, dtype, dropout, flash, chosen):
    monkeypatch.setattr(attention, "flash_varlen", lambda: print if flash else None)
    assert attention.cuda_kernel(dtype, dropout) is getattr(attention, chosen)


@pytest.mark.parametrize(("dropout", "chosen"), [(0.0, "_nested"), (0.2, "_cell_by_cell")])
def test_a_card_before_ampere_gets_no_varlen_kernel(kernel, monkeypatch, dropout, chosen):
    monkeypatch.setattr(attention, "has_flash_instructions", lambda: False)
    monkeypatch.setattr(attention, "flash_varlen", lambda: print)
    assert attention.cuda_kernel(torch.float16, dropout) is getattr(attention, chosen)


def test_cell_by_cell_is_the_same_attention_and_drops_alike_forward_and_backward(cells):
    qkv = packed().requires_grad_()
    offsets, longest = cells.cumulative_B1, cells.longest
    out = attention._cell_by_cell(*qkv.unbind(1), offsets, offsets, longest, longest, 0.0)
    torch.testing.assert_close(out, reference(*qkv.unbind(1), LENGTHS, LENGTHS), atol=1e-6, rtol=1e-5)
    out = attention._cell_by_cell(*qkv.unbind(1), offsets, offsets, longest, longest, 0.5)
    grad = torch.randn_like(out)
    out.backward(grad)  # the output is linear in v
    torch.testing.assert_close((grad * out).sum(), (qkv.grad[:, 2] * qkv[:, 2]).sum(), atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # from torch's own CPU path
def test_nested_tensors_give_the_same_attention(cells, kernel, monkeypatch):
    monkeypatch.setattr(attention, "flash_varlen", lambda: None)
    qkv = packed().requires_grad_()
    out = attend(qkv, cells)
    wanted = reference(*qkv.unbind(1), LENGTHS, LENGTHS)
    torch.testing.assert_close(out, wanted, atol=1e-6, rtol=1e-5)
    first = attend_first(qkv[cells.offsets_B1[:-1], 0], qkv[:, 1:], cells)
    torch.testing.assert_close(first, wanted[cells.offsets_B1[:-1]], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("model", ["scgpt", "geneformer"])
def test_a_whole_network_trains_through_the_flash_branch(rng, kernel, monkeypatch, model):
    """bf16 numbers as autocast makes them; logits and gradients near those of the CPU kernels."""
    from data_pipeline.shards.encoded import Encoded

    spec = get(model)
    torch.manual_seed(0)
    sizes = {"num_tokens": 30} | ({"num_positions": 30} if model == "geneformer" else {})
    network = spec.build(3, size="tiny", **sizes).eval()
    offsets = np.array([0, 9, 10, 31])
    values = rng.integers(1, 51, 31).astype(np.float32) if model == "scgpt" else None
    batch = spec.collate(Encoded(rng.integers(4, 30, 31).astype(np.int32), values, offsets), np.arange(3))

    def step() -> tuple[torch.Tensor, torch.Tensor]:
        network.zero_grad()
        logits = network(**batch).float()
        functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
        return logits.detach(), torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    monkeypatch.setattr(attention, "on_cpu", lambda x: True)
    wanted = step()
    monkeypatch.setattr(attention, "on_cpu", lambda x: False)
    monkeypatch.setattr(attention, "flash_varlen", lambda: kernel)
    with torch.autocast("cpu", torch.bfloat16):
        logits, gradient = step()
    assert kernel.calls == [(21, 0.0), (1, 0.0)]
    torch.testing.assert_close(logits, wanted[0], atol=0.05, rtol=0.05)
    assert functional.cosine_similarity(gradient, wanted[1], 0) > 0.999
