"""The published recipe's defects, each a named switch, so that its conclusions can be tested one defect at a time.

`protocol: corrected` (default) has none, `protocol: paper` all of them, `defects: [...]` a chosen set. Notebook cells
are counted from 0, markdown included, in the notebooks of "Foundation Models Meet Imbalanced Single-Cell Data".

What else is wrong there is no switch, because it
- stops the notebook before it gives a number: undefined names and arguments (scGPT cells 22 and 25, scBERT cell 9,
  Geneformer cell 13, preprocessing cells 4, 9 and 12), type codes and gene orders taken from one file and read in
  another (scGPT cell 10, scBERT cell 8, Geneformer cell 7);
- gave no wrong number in the published environment: scGPT cell 18 leaves attention random where flash-attn is missing
  (here such a load is refused), scBERT cell 6 hands its unused LDAM and focal losses the wrong things;
- changes what is told, not what is predicted: tables without class names, mislabelled matrices, times and memory that
  aren't comparable;
- is a choice of the sweep file: a single seed (`seeds`, `splits`), counts of an already logarithmic file given to scVI
  (`values: counts` is checked; refused here).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from trainables.config import TrialConfig
from trainables.spec import ModelSpec, Recipe


@dataclass(frozen=True)
class Defect:
    """What one defect is: where it stands, what it does, which models and which strategy it touches (None: all)."""

    where: str
    explanation: str
    models: tuple[str, ...] | None = None
    strategy: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)


ONLY_DEFECTS = {"carry_accumulation"}  # settings of a recipe that nobody would choose; the others are choices
EPOCHS = {"budget": "epochs", "steps": None}
DEFECTS: dict[str, Defect] = {
    "resample_before_split": Defect(
        "preprocessing.ipynb cells 4 and 10; scGPT.ipynb cell 13; scBERT.ipynb cell 9",
        "the training file is resampled first and split afterwards: copies of training cells sit in validation",
    ),
    "unstratified_validation": Defect(
        "scGPT.ipynb cell 13",
        "validation cells are drawn without regard to type: rare types may be missing from it",
        ("scgpt",),
    ),
    "select_on_test": Defect(
        "scBERT.ipynb cell 9; Geneformer.ipynb cell 13",
        "the best epoch is chosen on the test cells, which are then reported",
        ("scbert", "geneformer"),
    ),
    "select_by_loss": Defect(
        "scGPT.ipynb cell 24; Geneformer.ipynb cell 13",
        "the best epoch is the one of lowest loss, which common types decide, instead of highest macro F1",
        ("scgpt", "geneformer"),
        recipe={"select": "val_loss"},
    ),
    "select_by_accuracy": Defect(
        "scBERT.ipynb cell 9",
        "the best epoch is the one of highest accuracy, which common types decide, instead of highest macro F1",
        ("scbert",),
        recipe={"select": "val_accuracy"},
    ),
    "scgpt_test_is_training": Defect(
        "scGPT.ipynb cell 22",
        "the function that should evaluate the test cells reads the training and validation cells instead",
        ("scgpt",),
    ),
    "epoch_budget": Defect(
        "scGPT.ipynb cell 24; scBERT.ipynb cell 9; Geneformer.ipynb cell 13",
        "all train for as many epochs: copying cells lengthens the training, leaving cells out shortens it",
        ("scgpt", "scbert", "geneformer"),
        recipe=EPOCHS,
    ),
    "scgpt_unshuffled": Defect(
        "scGPT.ipynb cell 24",
        "the training cells are seen in the same order in every epoch",
        ("scgpt",),
    ),
    "scbert_bootstrap_items": Defect(
        "scBERT.ipynb cell 6",
        "each item is a random cell instead of the one asked for: training and evaluation see a bootstrap sample",
        ("scbert",),
    ),
    "scbert_misaligned_gene2vec": Defect(
        "scBERT.ipynb cell 4",
        "a gene of the selected 3,000 gets the gene2vec vector of whichever gene has its position in scBERT's own list",
        ("scbert",),
        options={"misaligned_gene2vec": True},
    ),
    "scbert_batch_stabiliser": Defect(
        "scBERT's network, used unchanged",
        "attention keys are stabilised over the whole batch: a cell's logits depend on its neighbours",
        ("scbert",),
        options={"stabiliser": "batch"},
    ),
    "scbert_owed_steps": Defect(
        "scBERT.ipynb cell 9",
        "gradients of an epoch's last partial accumulation are neither stepped nor cleared",
        ("scbert",),
        recipe=EPOCHS | {"carry_accumulation": True},
    ),
    "scbert_hasty_stop": Defect(
        "scBERT.ipynb cell 9",
        "validation and test both count against the patience of 10: 5 epochs without a better one end the training",
        ("scbert",),
        recipe={"patience": 5},
    ),
    "scbert_double_log": Defect(
        "scBERT.ipynb cell 4 after the authors' preprocessing of log-normalised data",
        "log-normalised values are normalised and logged a second time",
        ("scbert",),
        options={"double_log": True},
    ),
    "geneformer_column_tokens": Defect(
        "preprocessing.ipynb cell 12",
        "a gene's token is its column number, so each gene gets the pretrained vector of an unrelated one",
        ("geneformer",),
        options={"column_tokens": True},
    ),
    "geneformer_undertrained": Defect(
        "Geneformer.ipynb cell 13",
        "learning rate 5e-6, batches of 1, one epoch, 500 steps of warm-up; the other models train for 15 epochs",
        ("geneformer",),
        recipe={
            "learning_rate": 5e-6,
            "batch_size": 1,
            "epochs": 1,
            "schedule": "linear",
            "warmup": 500.0,
            "warmup_share": 1.0,
        },
    ),
    "scvi_unscaled": Defect(
        "preprocessing.ipynb cells 9 and 10",
        "generated cells sum to 1 while real ones are log-normalised to 10,000",
        strategy="scvi",
    ),
}


def defects_of(model: str, strategy: str, protocol: str, chosen: list[str]) -> list[str]:
    """Return the defects that a trial of `model` with `strategy` runs with, in the order of DEFECTS."""
    wanted = set(DEFECTS) if protocol == "paper" else set(chosen)
    return [name for name, defect in DEFECTS.items() if name in wanted and _touches(defect, model, strategy)]


def _touches(defect: Defect, model: str, strategy: str) -> bool:
    return (defect.models is None or model in defect.models) and defect.strategy in (None, strategy)


def apply(
    defects: Iterable[str], options: dict[str, Any], recipe: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return options and recipe overrides with those of the defects on top."""
    for name in defects:
        options, recipe = options | DEFECTS[name].options, recipe | DEFECTS[name].recipe
    return options, recipe


def recipe_of(spec: ModelSpec, config: TrialConfig) -> Recipe:
    """Return the recipe that a trial's network is trained by: the model's own, the trial's, the defects' on top."""
    options, overrides = apply(config.defects, config.options, config.recipe)
    default = spec.recipe(config.weights, spec.options(**options).size)
    return Recipe(**(default.model_dump() | overrides))


def untagged(model: str, settings: dict[str, Any]) -> dict[str, str]:
    """Return the settings of a model that are a published defect by themselves: setting -> the defect's name.

    As plain settings they would go without the tag by which every table tells such runs.
    """
    found = {}
    for name, defect in DEFECTS.items():
        own = defect.options | {key: defect.recipe[key] for key in ONLY_DEFECTS & defect.recipe.keys()}
        if model in (defect.models or ()):
            found |= {key: name for key, value in own.items() if settings.get(key) == value}
    return found
