"""Estimates of time and disk: what they grow with, so that long trials go first and a plan is of the right order."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sweeps.drive.forecast import estimate, planning
from sweeps.drive.forecast.shapes import Shape
from sweeps.file import config

SWEEP = """
name: small
datasets: [pbmc68k_reduced]
genes: {select: hvg, n: 200}
models: {scgpt: {epochs: 10, batch_size: 10}, scbert: {epochs: 10}, geneformer: {epochs: 10}, majority: {}}
"""
CELLS = SimpleNamespace(num_genes=5000, labels=np.zeros(100), facts={"nonzero": 50_000})  # 500 genes a cell


def trials(text: str = SWEEP) -> dict[str, config.Trial]:
    return {trial.model: trial for trial in config.parse(text, Path("sweep.yaml"), check_files=False).trials()}


def shape(rows: int, held: int = 0) -> Shape:
    kept, none = np.array([rows]), np.array([held])
    return Shape(["a"], kept, none, none, kept, kept, [])


def test_scbert_reads_every_gene_and_the_others_those_that_are_expressed():
    few, every = trials(), trials(SWEEP.replace("{select: hvg, n: 200}", "all"))
    assert [estimate.tokens(few[model], CELLS) for model in ("scbert", "scgpt")] == [201, 60]
    assert [estimate.tokens(every[model], CELLS) for model in ("scbert", "geneformer")] == [5001, 500]
    text = SWEEP.replace("scbert: {", "scbert: {weights: /nowhere, ")
    listed = [trials(one)["scbert"] for one in (text, text.replace("/nowhere, ", "/nowhere, gene_set: dataset, "))]
    assert [estimate.tokens(one, CELLS) for one in listed] == [16_907, 201]
    unseen = SimpleNamespace(num_genes=5000, labels=np.zeros(100))
    assert estimate.tokens(every["scgpt"], unseen) == 500


def test_time_grows_with_steps_rounds_and_what_is_evaluated():
    one = trials()["scgpt"]
    seconds = estimate.work(one, shape(1000), 60).cpu_seconds
    assert seconds == pytest.approx(0.3 + 13 * 0.6)  # 10 epochs of 60,000 tokens
    assert estimate.work(one, shape(2000), 60).cpu_seconds > 1.9 * seconds
    held = estimate.work(one, shape(1000, held=300), 60).cpu_seconds
    assert held == pytest.approx(0.3 + 13 * 0.6 * 1.11)
    assert estimate.work(trials()["majority"], shape(1000), 60).cpu_seconds < 1


@pytest.mark.parametrize(("model", "grows"), [("scanvi", False), ("gradient_boosting", True)])
def test_what_passes_less_often_over_more_cells_takes_no_longer_for_them(model, grows):
    one = trials(SWEEP[: SWEEP.index("models")] + f"models: [{model}]\n")[model]
    few, some, many = (estimate.work(one, shape(number), 60).cpu_seconds for number in (10_000, 20_000, 48_000))
    assert few < some and (many > 2 * some if grows else many == some)


def test_pretrained_vocabularies_fill_more_disk_than_the_genes_of_a_sweep():
    pretrained = SWEEP.replace("scgpt: {", "scgpt: {weights: /nowhere, ")
    small, large = (estimate.disk_mb(trials(text)["scgpt"], CELLS) for text in (SWEEP, pretrained))
    assert small < 2 and 200 < large < 800


def test_a_plan_names_the_splits_whose_donors_it_lists():
    kept, none = np.array([8]), np.array([0])
    notes = {"0": ["tiny class", "test donors: d1"], "1": ["tiny class", "test donors: d2"]}
    by_axes = {
        ("my", split, "natural", strategy): Shape(["a"], kept, none, none, kept, kept, said)
        for split, said in notes.items()
        for strategy in ("none", "smote")
    }
    assert planning._notes(by_axes) == [
        "my: tiny class",
        "my, split 0: test donors: d1",
        "my, split 1: test donors: d2",
    ]


def test_larger_published_weights_take_longer_and_fill_more_disk(tmp_path):
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "intermediate_size": 3072, "num_attention_heads": 12}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    (tmp_path / "model.safetensors").write_bytes(b"\0")
    os.truncate(tmp_path / "model.safetensors", 415_000_000)
    small, large = (
        trials(SWEEP.replace("geneformer: {", f"geneformer: {{weights: {where}, batch_size: 16, warmup: 0, "))[
            "geneformer"
        ]
        for where in ("/nowhere", tmp_path)
    )
    seconds = [estimate.work(one, shape(1000), 500).cpu_seconds - 0.3 for one in (small, large)]
    assert seconds[1] == pytest.approx(27 * seconds[0]), "12 x 7.08 million weights against 6 x 0.52"
    assert estimate.disk_mb(large, CELLS) == pytest.approx(0.2 + 2 * 415)
