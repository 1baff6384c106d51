"""Logits of the three networks on the device: against the goldens, and at official size against the CPU."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from gpu_parts.props import cells
from gpu_parts.scene import ROOT, Record, Scene, Skip, Wrong

GOLDEN = ROOT / "tests" / "golden"
LARGE = (ROOT / "shared" / "golden", ROOT.parent / "shared" / "golden")  # beside some checkouts
LIMITS = {torch.float32: 1e-4, torch.float16: 0.03, torch.bfloat16: 0.2}  # root mean squares: of differences by logits


def run(scene: Scene) -> Iterator[Record]:
    for dtype in LIMITS:
        short = str(dtype).removeprefix("torch.")
        for name, golden in GOLDENS.items():
            yield from scene.check(f"golden {name} {short}", lambda g=golden, d=dtype: against_golden(scene, g(), d))
    for name, case in official(scene).items():
        yield from scene.check(f"official {name} against the CPU", lambda c=case: against_cpu(scene, c), seconds=3)


def logits(network: nn.Module, inputs: dict[str, Any], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return float32 logits on the host, in evaluation, under autocast unless dtype is float32."""
    network.to(device).eval()
    moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype is not torch.float32):
        return network(**moved).float().cpu()


def compared(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype) -> Record:
    """Return how far two sets of logits are apart; Wrong if that is more than the type of numbers explains."""
    difference = float((found - wanted).abs().max()) if bool(torch.isfinite(found).all()) else float("nan")
    share = float((found - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
    record = {"max_difference": difference, "largest_logit": float(wanted.abs().max()), "share": share}
    record["same_best"] = float((found.argmax(1) == wanted.argmax(1)).float().mean())
    if not share <= LIMITS[dtype]:
        raise Wrong(f"logits differ by {share:.2g} of their size; {LIMITS[dtype]} is allowed", record)
    return record


def against_golden(scene: Scene, golden: tuple, dtype: torch.dtype) -> Record:
    network, inputs, wanted = golden
    return compared(logits(network, inputs, scene.device, dtype), wanted, dtype)


def golden_scgpt() -> tuple[nn.Module, dict, torch.Tensor]:
    from trainables.networks.scgpt import ScGPT
    from trainables.spec import get

    golden = torch.load(GOLDEN / "scgpt_model.pt", weights_only=True)
    config, inputs = golden["config"], golden["inputs"]
    sizes = {"width": config["d_model"], "hidden": config["d_hid"], "num_layers": config["nlayers"]}
    network = ScGPT(config["ntoken"], config["n_cls"], num_heads=config["nhead"], num_layers_cls=3, **sizes)
    network.load_state_dict(get("scgpt").convert(golden["state_dict"]), strict=True)
    real = inputs["src"] != inputs["pad_id"]
    offsets = functional.pad(real.sum(1).cumsum(0), (1, 0))
    packed = {"ids": inputs["src"][real], "values": inputs["values"][real], "offsets": offsets}
    return network, packed, golden["logits"]["vanilla"]


def golden_geneformer() -> tuple[nn.Module, dict, torch.Tensor]:
    from trainables.networks.bert import Bert
    from trainables.spec import get

    golden = torch.load(GOLDEN / "geneformer.pt", weights_only=True)
    network = Bert(golden["config"], golden["num_labels"])
    network.load_state_dict(get("geneformer").convert(golden["state_dict"]), strict=True)
    batch = golden["batch"]
    return network, {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}, golden["logits"]


def golden_scbert() -> tuple[nn.Module, dict, torch.Tensor]:
    """The network's golden is too large for the repository; it is taken where the large ones are at hand."""
    from trainables.networks.performer import CellHead, PerformerLM
    from trainables.spec import get

    path = next((folder / "scbert_model.pt" for folder in LARGE if (folder / "scbert_model.pt").is_file()), None)
    if path is None:
        raise Skip("the large goldens are not beside this checkout; `official scbert` compares with the CPU")
    part = torch.load(path, weights_only=True)["small_depth3_heads2"]
    config = part["config"]
    table = torch.zeros(config["max_seq_len"], config["dim"], dtype=torch.float64)
    network = PerformerLM(table, depth=config["depth"], heads=config["heads"], redraw_after=None, stabiliser="cell")
    network.to_out = CellHead(config["max_seq_len"], config["dim"], config["head"]["out_dim"])
    network.load_state_dict(get("scbert").convert(part["state_dict"]), strict=True)
    return network, {"tokens": part["inputs"]["tokens"]}, part["logits_batch1"]


GOLDENS = {"scgpt": golden_scgpt, "geneformer": golden_geneformer, "scbert": golden_scbert}


def official(scene: Scene) -> dict[str, cells.Case]:
    """Few and short cells: the CPU has to work them out too."""
    return {
        "scgpt": cells.scgpt(scene, 4, tokens=200),
        "geneformer-V1-10M": cells.geneformer(scene, "V1-10M", 3),
        "scbert-1000": cells.scbert(scene, 1000, 2),
    }


def against_cpu(scene: Scene, case: cells.Case) -> Record:
    from trainables.spec import get

    torch.manual_seed(0)
    network, rows = case.build(), np.arange(min(4, len(case.encoded)))
    inputs = get(case.model).collate(case.encoded, rows)
    wanted = logits(network, inputs, torch.device("cpu"), torch.float32)
    record: Record = {"weights": sum(parameter.numel() for parameter in network.parameters())}
    for dtype in LIMITS:
        found = compared(logits(network, inputs, scene.device, dtype), wanted, dtype)
        record |= {f"{str(dtype).removeprefix('torch.')}_{name}": found[name] for name in ("share", "same_best")}
    return record
