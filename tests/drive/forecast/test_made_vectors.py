"""What `plan` says of vectors that networks at rest make: how many sets, their disk, time, and what would save them."""

from pathlib import Path

import pytest
from h5ad_files import GENES, write
from official_folders import write_scbert
from scgpt_folder import folder_args, write_folder

import sweeps
from sweeps.drive.forecast.fleet import Done

SWEEP = """
name: s
datasets: [{{path: {folder}/cells.h5ad, label: celltype}}]
genes: {genes}
splits: {{seeds: [0, 1, 2]}}
skews: [natural, {{kind: exponential, ratio: 5}}]
models:
  head: {{model: scgpt, weights: {folder}/scGPT, train: head}}
  probe: {{model: knn, on: {{model: scgpt, weights: {folder}/scGPT}}}}
  whole: {{model: scgpt, weights: {folder}/scGPT}}
"""


def planned(folder: Path, genes: str):
    file = folder / "s.yaml"
    file.write_text(SWEEP.format(folder=folder, genes=genes))
    return sweeps.plan(file, folder / "runs")


@pytest.mark.parametrize(("genes", "number"), [("{select: all}", 1), ("{select: hvg, n: 20}", 6)])
def test_sets_of_vectors_are_counted_and_what_all_genes_would_save_is_said(genes, number, tmp_path):
    write(tmp_path / "cells.h5ad"), write_folder(tmp_path, GENES, args=folder_args(embsize=16))
    plan = planned(tmp_path, genes)
    (made,) = plan.vectors
    assert (made.number, made.labels, made.num_cells) == (number, ("head", "probe"), 90)
    assert made.gb == pytest.approx(number * 90 * 16 * 6 / 1e9) and 0 < made.seconds < plan.seconds
    (said,) = [note for note in plan.notes if "at rest" in note]
    shared = "all splits, skews, strategies, losses and seeds share it" in said
    assert (
        shared == (number == 1) and ("6 sets" in said and "with `genes: all` one would do, and save" in said) != shared
    )


def test_a_head_on_vectors_costs_a_fraction_of_its_network(tmp_path):
    write(tmp_path / "cells.h5ad"), write_folder(tmp_path, GENES)
    plan = planned(tmp_path, "{select: all}")
    seconds = {trial.label: plan.works[trial.key].cpu_seconds for trial in plan.trials}
    assert seconds["head"] < seconds["whole"]


def test_vectors_are_due_until_a_trial_on_them_is_finished_whatever_else_is(tmp_path):
    write(tmp_path / "cells.h5ad"), write_folder(tmp_path, GENES)
    plan = planned(tmp_path, "{select: all}")
    for label, there in (("whole", 0.0), ("head", plan.vectors[0].seconds)):
        key = next(trial.key for trial in plan.trials if trial.label == label)
        took = plan.works[key].cpu_seconds
        left = plan.rest({key: Done(took, "")}).seconds
        assert left == pytest.approx(plan.seconds - took - there), label


def test_what_a_frozen_scbert_costs_in_every_trial_is_said(tmp_path):
    write(tmp_path / "cells.h5ad"), write_folder(tmp_path, GENES), write_scbert(tmp_path, GENES)
    file, own = tmp_path / "s.yaml", f"  bert: {{model: scbert, weights: {tmp_path}/scBERT, train: head}}\n"
    file.write_text(SWEEP.format(folder=tmp_path, genes="all") + own)
    (said,) = [note for note in sweeps.plan(file, tmp_path / "runs").notes if "no vectors are stored" in note]
    assert said.startswith("cells: no vectors are stored for bert, whose frozen network runs in every trial: scbert's")
    assert "13.5 MB a cell" in said and said.endswith("fix_projections: true, cache_gigabytes: 1.2"), said
