"""A tree of cell types: what it may be, the metrics of it by hand, the loss by its formula and where it is lowest."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import trial_config
from scipy.special import softmax

from data_pipeline import tree as trees
from data_pipeline.errors import RequestError
from sweeps.drive.contents import check_trees
from sweeps.file.plugins import Entry
from trainables.losses import loss_of
from trainables.trial import run_trial

TREE = {"CD4 T": "T", "CD8 T": "T", "T": "lymphocyte", "B": "lymphocyte", "lymphocyte": "cell", "myeloid": "cell"}
CLASSES = ["T", "CD4 T", "CD8 T", "B", "myeloid"]
BELOW = trees.below(TREE, CLASSES)


def read(tmp_path, text: str) -> dict[str, str]:
    file = tmp_path / "tree.yaml"
    file.write_text(text)
    return trees.read_tree(file)


def test_a_tree_is_read_with_its_root_said_or_not(tmp_path):
    assert read(tmp_path, "a: top\n' b ': a\n") == {"a": "top", "b": "a"}
    assert read(tmp_path, "a: top\nb: a\ntop:\n") == {"a": "top", "b": "a"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: b\nb: c\nc: a\n", "a -> b -> c -> a is a circle"),
        ("a: a\n", "a -> a is a circle"),
        ("a: top\nb: a\n'a ': b\n", "a: stands 2 times; a type has one type above it"),
        ("a: x\nb: y\n", r"has 2 roots \(x, y\)"),
        ("- a\n", "is no tree"),
        ("", "is no tree"),
        ("a: {b: c\n", "can't be read"),
    ],
)
def test_what_is_no_tree_is_refused(tmp_path, text, words):
    with pytest.raises(RequestError, match=words):
        read(tmp_path, text)
    with pytest.raises(RequestError, match="can't be read"):
        trees.read_tree(tmp_path / "none.yaml")


def test_types_that_a_tree_lacks_and_a_loss_that_would_be_another_are_named():
    def said(tree: dict, classes: list[str], loss: str) -> str:
        spec = SimpleNamespace(trees={"d": tree} if tree else {}, losses=[Entry.plain(loss)])
        try:
            check_trees(spec, {"d": SimpleNamespace(classes=classes)})
        except RequestError as error:
            return str(error)
        return ""

    assert said(TREE, CLASSES, "hierarchical") == "" == said({}, CLASSES, "focal")
    assert "'CD8' is missing; did you mean CD8 T" in said(TREE, ["CD8", "B"], "focal")
    assert "no type of it lies above another" in said(TREE, ["CD4 T", "B"], "hierarchical")
    assert "it has no `tree:`" in said({}, CLASSES, "hierarchical")


def test_hierarchical_precision_and_recall_are_those_of_ancestor_sets():
    above = {"T", "lymphocyte"}
    sets = [above, above | {"CD4 T"}, above | {"CD8 T"}, {"B", "lymphocyte"}, {"myeloid"}]
    truth, predicted = np.array([1, 1, 0, 2, 3, 4, 4]), np.array([2, 1, 1, 0, 4, 4, 3])
    table = np.bincount(truth * 5 + predicted, minlength=25).reshape(5, 5)
    shared = sum(len(sets[t] & sets[p]) for t, p in zip(truth, predicted, strict=True))
    of_truth, of_predicted = (sum(len(sets[one]) for one in part) for part in (truth, predicted))
    found = trees.hierarchical(table, trees.ancestors(TREE, CLASSES))
    assert found["hierarchical_precision"] == pytest.approx(shared / of_predicted)
    assert found["hierarchical_recall"] == pytest.approx(shared / of_truth)
    assert found["hierarchical_f1"] == pytest.approx(2 * shared / (of_predicted + of_truth))
    assert trees.hierarchical(np.diag([1, 2, 3, 4, 5]), trees.ancestors(TREE, CLASSES))["hierarchical_f1"] == 1


def test_the_loss_is_the_papers_formula_and_cross_entropy_without_a_tree():
    """-log((R p)_y), p the softmax and R[i, j] = 1 where j is i or lies below it."""
    generator = torch.Generator().manual_seed(0)
    outputs, labels = torch.randn(40, 5, generator=generator), torch.arange(40) % 5
    loss = loss_of({"kind": "hierarchical"}, [9, 8, 7, 6, 5], BELOW)
    up = torch.softmax(outputs, 1) @ torch.tensor(BELOW, dtype=torch.float32).T
    assert loss(outputs, labels, 0.0).item() == pytest.approx(-up.log()[range(40), labels].mean().item(), rel=1e-5)
    plain, without = (loss_of({"kind": kind}, [9, 8, 7, 6, 5]) for kind in ("cross_entropy", "hierarchical"))
    assert without(outputs, labels, 0.0).item() == pytest.approx(plain(outputs, labels, 0.0).item(), rel=1e-6)
    far = loss(torch.tensor([[-300.0, -300, -300, 300, 0]]).requires_grad_(), torch.tensor([0]), 0.0)
    assert far.item() == pytest.approx(600 - np.log(3), rel=1e-5)  # where the paper's stops at 13.8, with no gradient


def test_where_it_is_lowest_it_has_learnt_the_finest_types_and_says_in_which_mix():
    """Of T cells a third is called no more than T, whichever they are: then the true posterior is known exactly."""
    finest = np.array([[60, 6, 12, 3], [12, 30, 6, 9], [6, 12, 42, 30]])  # what is seen x CD4 T, CD8 T, B, myeloid
    broad = finest[:, :2].sum(axis=1) // 3
    cells = np.column_stack([broad, finest[:, :2] * 2 // 3, finest[:, 2:]])
    loss = loss_of({"kind": "hierarchical"}, cells.sum(axis=0), BELOW)
    outputs = torch.zeros((3, 5), dtype=torch.float64, requires_grad=True)
    seen, labels = (torch.from_numpy(np.repeat(part, cells.ravel())) for part in np.indices(cells.shape).reshape(2, -1))
    optimizer = torch.optim.LBFGS([outputs], max_iter=100, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss.of_cells(outputs[seen], labels, 1.0).mean()
        value.backward()
        return value

    optimizer.step(closure)
    learnt = softmax(loss.logits(outputs.detach().numpy()), axis=1)
    assert np.abs(learnt[:, 1:] - finest / finest.sum(axis=1, keepdims=True)).max() < 2e-3
    assert learnt[:, 0].max() < 2e-3, "the broad type's share has passed to those below it"
    assert loss.prior.tolist() == pytest.approx([0, *finest.sum(axis=0)])


def test_a_trial_with_a_tree_has_its_metrics_and_the_loss_goes_by_it(tmp_path):
    tree = {"type 0": "type 1", "type 1": "all", "type 2": "all", "type 3": "all"}
    recipe = {"epochs": 2, "learning_rate": 0.01}
    plain = run_trial(trial_config(tmp_path / "a", "mlp", recipe=recipe), lambda *said: None, None)
    config = trial_config(tmp_path / "b", "mlp", recipe=recipe, tree=tree, loss={"kind": "hierarchical"})
    nested = run_trial(config, lambda *said: None, None)
    assert "test_hierarchical_f1" not in plain and 0 < nested["test_hierarchical_f1"] <= 1
    assert nested["test_hierarchical_recall"] >= nested["test_accuracy"] > 0
    assert nested["test_accuracy"] != plain["test_accuracy"] or nested["test_brier"] != plain["test_brier"]


def test_a_tree_that_lacks_a_type_gives_no_number(tmp_path):
    with pytest.raises(RequestError, match="'type 3' is missing"):
        run_trial(trial_config(tmp_path, "majority", tree={"type 1": "type 0", "type 2": "type 0"}), print, None)


def test_types_by_their_ids_in_the_cell_ontology_have_its_types_above_them(tmp_path):
    """Of the ontology stands what tells some of the types from others, each set once, by its finest type."""
    text = "CD4: CL:0000624\nCD8: CL:0000625\nB: CL:0000236\nT: CL:0000084\nNK: CL:0000623\nbeta: CL:0000169\n"
    found = read(tmp_path, text)
    assert found["CD4"] == found["CD8"] == "mature alpha-beta T cell" and found["mature alpha-beta T cell"] == "T"
    assert found["T"] == found["B"] == found["NK"] == "lymphocyte" and found["lymphocyte"] == "cell"
    assert found["beta"] == "cell" and len(found) == 8
    assert trees.below(found, ["T", "CD4", "B"]).tolist() == [
        [True, True, False],
        [False, True, False],
        [False, False, True],
    ]
    mixed = read(tmp_path, "active: stellate\nquiet: stellate\nstellate: CL:0002410\nB: CL:0000236\n")
    assert mixed == {"active": "stellate", "quiet": "stellate", "stellate": "cell", "B": "cell"}
    called = read(tmp_path, "lymphocyte: CL:0000084\nB: CL:0000236\nbeta: CL:0000169\n")
    assert called["B"] == called["lymphocyte"] == "lymphocyte (CL:0000542)"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "a: CL:9999999\n",
            "a: CL:9999999 is no type of the Cell Ontology of 2026-03-26: mistyped, newer, or obsolete",
        ),
        ("a: CL:0000084\nb: CL:0000084\n", "b and a are both CL:0000084: put a type above them"),
        ("a: CL:0000084\nb: x\n", r"has 2 roots \(cell, x\)"),
        (
            "a: CL:0000084\nb: CL:0000236\nc: CL:0000169\nlymphocyte: x\n",
            "lymphocyte: the Cell Ontology says what lies",
        ),
    ],
)
def test_ids_that_give_no_tree_are_refused(tmp_path, text, words):
    with pytest.raises(RequestError, match=words):
        read(tmp_path, text)


def test_types_are_rolled_up_to_a_level_where_there_is_one():
    assert trees.at_level(TREE, CLASSES, 1) == ["lymphocyte"] * 4 + ["myeloid"]
    assert trees.at_level(TREE, CLASSES, 2) == ["T", "T", "T", "B", "myeloid"]
    assert trees.at_level(TREE, CLASSES, 3) == CLASSES
    with pytest.raises(RequestError, match="--level 4: the deepest types of the tree are at level 3"):
        trees.at_level(TREE, CLASSES, 4)
    several = {"B": ["x", "y"], "x": "cell", "y": "cell", "T": "x"}
    with pytest.raises(RequestError, match="--level 1: B lies below x and y, not below one type there; take a deeper"):
        trees.at_level(several, ["T", "B"], 1)
    assert trees.at_level(several, ["T", "B"], 2) == ["T", "B"]
    with pytest.raises(RequestError, match="'DC' is missing"):
        trees.at_level(TREE, ["DC"], 1)


def test_several_types_above_one_count_each_in_hierarchical_numbers():
    tree = {"B": ["x", "y"], "x": "cell", "y": "cell", "T": "x"}
    assert trees.ancestors(tree, ["T", "B"]).tolist() == [[False, True, True, False], [True, False, True, True]]
