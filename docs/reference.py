"""docs/sweep-file.md, from the code: `python docs/reference.py` writes it, a test compares it with what is there."""

import inspect
import re
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from sweeps.file import reading, reading_data
from sweeps.file.plugins import parameters, registries
from sweeps.file.questions import Question, Until
from trainables import spec
from trainables.posthoc import POSTHOC
from trainables.protocol import DEFECTS, untagged
from trainables.spec import ModelSpec, Recipe
from trainables.trial.confidence import ABSTAINING

HERE = Path(__file__).resolve().parent
TARGET = HERE / "sweep-file.md"
MEANINGS: dict[str, str] = yaml.safe_load((HERE / "meanings.yaml").read_text(encoding="utf-8"))
NESTED = {
    "datasets": reading_data.Dataset,
    "genes": reading.Genes,
    "splits": reading.Splits,
    "until": Until,
    "tracking": reading.Tracking,
    "resources": reading.Share,
    "questions": Question,
}
TITLES = {"skews": "Skews", "strategies": "Strategies", "losses": "Losses"}
START = """# The sweep file

All that may be written, with defaults. Made from the code by `python docs/reference.py`; a test compares the two.

A sweep file is the cross product of its axes (datasets x splits x skews x strategies x losses x models x seeds), less
what `exclude` leaves out. An entry of an axis is a name, or a mapping with `kind:` and parameters. A list where a
parameter takes one value stands for one entry per value:

```yaml
skews: [natural, {kind: exponential, ratio: [10, 100], total: 700}]    # three skews
```

Every mistake in a file is reported at once, with line and way out, before anything starts. `cellskew plan FILE` shows
what a file comes to. A trial is known by the hash of everything resolved, defaults included: add a seed and only the
new trials run; change a parameter and these trials are others.

A rule of `exclude` leaves out the trials that agree with all it names. An entry is meant by its name as in tables and
`--where` (`natural` is not `natural-2000`), or by its kind and some parameters (`{kind: exponential}`: every one).
`cellskew plan` says how many trials each rule leaves out, and which rule leaves out nothing:

```yaml
exclude:
  - {model: scgpt, strategy: [oversample, smote]}
  - {model: majority, skew: {kind: exponential, ratio: 100}}
```

A key of `models:` is a label, what tables, `exclude` and `resources` call the model; `model:` says what it is, the
label itself unless it is said. So a model can stand in a sweep several times. No trial is known by its label: under
another one, or in another sweep of the same storage folder, it isn't trained again. Two labels that mean the same are
refused, and so is an option that changes nothing beside the others (`size` with `weights:`, `gamma` with a constant
rate):

```yaml
models:
  scgpt: {weights: /w/scGPT_human}
  scgpt-scratch: {model: scgpt, size: official}    # the same network without its pretraining
```

`on:` trains a model on vectors of cells in place of genes: `obsm` of the dataset, X of a file of embeddings (one vector
per cell, matched by name; every cell needs one), or what a pretrained network hands to its classifier (of Geneformer to
its pooler, which no published file has), computed once for all splits, skews and remedies where genes are `all`, else
once per choice of genes. TAKERS take them; each number is brought to mean 0 and variance 1 of the training cells,
but for `knn`, which goes by distances as they are. Cells that a strategy makes have no vectors: such trials are left
out. Whether vectors from elsewhere were fitted on the test cells can't be seen from here, and tables say so:

```yaml
models:
  uce-probe: {model: logistic_regression, on: {obsm: X_uce}}
  uce-neighbours: {model: knn, on: {embeddings: /data/uce.h5ad}}
  scgpt-probe: {model: logistic_regression, on: {model: scgpt, weights: /w/scGPT_human}}
```

`train:` says what of a network is trained, whichever it is. `all` of it; `published`, what its authors train (of scBERT
the head, the last norm and the last block but one; of the others all), the default with weights; `head`, the classifier
alone (of Geneformer with the pooler, which no published file has) on frozen features: what is frozen is in eval mode,
without dropout; or adapters (LoRA) beside frozen layers, and the head:

```yaml
models:
  scgpt-head: {model: scgpt, weights: /w/scGPT_human, train: head}
  scgpt-lora: {model: scgpt, weights: /w/scGPT_human, train: {lora: {rank: 8, alpha: 16, dropout: 0, targets: [Wqkv]}}}
```

With weights, scGPT's and Geneformer's heads are trained on stored vectors: what the network at rest makes of every cell
(also of those that a strategy makes) is computed once, before a trial needs it, in parts that a killed run goes on
from, and with `genes: all` is shared by all splits, skews, strategies, losses and seeds (genes that are chosen for each
split make a set for each; `plan` says how many, their time and disk). Such a trial is a matter of seconds on a core,
and has a GPU only where `resources:` asks for one; it leaves a network like any other. scBERT's head reads a vector of
every gene, 13.5 MB a cell at the published size, so none are stored: its frozen network runs in every trial, once per
cell where `fix_projections: true` and `cache_gigabytes` keep these vectors in memory (`plan` says how much that takes),
and it has no vector per cell for `on:`.

The recipe stays what it is for all of the network; `tune:` finds whether a head wants a larger learning rate.
An adapted network starts as exactly the frozen one; checkpoints hold adapters and head alone; `predict` merges them
into the weights that they were trained beside, and `promote` registers both as one. Without weights what is frozen
would be random: refused, unless `random_features: true` says that it is meant, as a control. Layers that `targets` may
name: LAYERS.

`tune:` trains every combination of some settings' values under one label, and each split, seed, skew, strategy and loss
takes the one with the best macro F1 on its validation cells; its test numbers stand in every table, which says so. Test
cells choose nothing. `cellskew results NAME --all-settings` shows all, `plan` how many trials it comes to:

```yaml
models: {geneformer: {weights: /w/Geneformer, tune: {learning_rate: [1e-5, 5e-5, 1e-4]}}}
```

`splits: until:` adds splits until differences are sure, in place of a list of seeds: 0, 1, 2, ... in that order, 5 at
first, then 8, 12, 18, 27, ..., `at_most` at the end. After each round every difference that it asks about is looked at,
on finished trials alone, so that a sweep that was killed goes on with the same splits. [What is sure, and what looking
costs](answers.md#until-it-is-sure). Not with a test set of the dataset's own: all its splits share the test cells:

```yaml
strategies: [none, oversample]
splits: {until: {half_width: 0.02, metric: macro_f1, between: strategy, within: model}, at_most: 30}
```

`tree:` of a dataset names a YAML file that says which type lies above which, one above all: `CD4 T: T cell`, `T cell:
lymphocyte`, and so on, a line each, types by name as in the labels. Then every trial of it has hierarchical precision,
recall and F1 among its metrics. The loss `hierarchical` goes by the tree where labels are of several levels (some cells
are called `T cell`, others `CD4 T`); where no type lies above another it would be `cross_entropy`, and is refused. It
names the finest types alone, so hold it against other losses by `hierarchical_f1`, not by `macro_f1`, in which a broad
type that is never named has 0.

A line of the tree may say which type of the Cell Ontology (release 2026-03-26, CC BY 4.0, part of cellskew) a label is:
`CD4 T: CL:0000624`. Above such types then stand those of the ontology that tell some of them from others, each set of
types once, by its finest one, and `cell` above all; where several do, none above the other, each counts. A label finer
than the ontology hangs below one of its types: `active: stellate`, `stellate: CL:0002410`. `predict --level 1` names
cells by the types right below the top of the tree, `--level 2` by those below these; refused where one
lies below several of them.

Baselines have no loss but `cross_entropy` and those that only weigh types (`scanvi` not even these); such combinations
are left out by themselves.
"""


class Row(NamedTuple):
    """One thing that can be written: its name, what it may be, what it is unless written, what it means."""

    name: str
    kind: str
    default: str
    meaning: str


def _adaptable() -> Iterator[tuple[str, list[str]]]:
    """Yield the models that adapters can stand in, and the names of their layers."""
    for name in spec.names():
        if (found := spec.get(name).adaptable) is not None:
            yield name, [f"`{layer}`" for layer in found.layers]


def meaning(name: str, *owners: str, described: str | None = None) -> str:
    """Return what a name means: as the code describes it, or as meanings.yaml does; KeyError if neither does."""
    keys = [*(f"{owner}.{name}" for owner in owners), name]
    found = described or next((MEANINGS[key] for key in keys if key in MEANINGS), None)
    if found is None:
        raise KeyError(f"docs/meanings.yaml: say what `{keys[0]}` means, then run `python docs/reference.py`")
    return found


def kind_of(annotation: Any) -> str:
    """Return a type as a reader of YAML would call it."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return kind_of(inner[0])
    if origin is typing.Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (list, tuple):
        return f"list of {kind_of(inner[0])}"
    if origin is dict:
        return "mapping"
    if inner:
        return " or ".join(kind_of(one) for one in inner if one is not type(None))
    names = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`", Any: "", dict: "mapping"}
    return names.get(annotation, "mapping")


def shown(value: Any) -> str:
    """Return a default as a sweep file would write it."""
    if isinstance(value, BaseModel):
        return "as below"
    if value is None or value in ({}, []):
        return "none"
    if isinstance(value, tuple):
        value = list(value)
    text = str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{text}`".replace("'", "")


def of_fields(model: type[BaseModel], *owners: str) -> list[Row]:
    """Return a row per field of a pydantic model."""
    return [
        Row(
            name,
            kind_of(field.annotation),
            "**needed**" if field.is_required() else shown(field.get_default(call_default_factory=True)),
            meaning(name, *owners, described=field.description),
        )
        for name, field in model.model_fields.items()
    ]


def of_plugin(name: str, plugin: Any) -> list[Row]:
    """Return a row per parameter that a sweep file may give a plug-in."""
    return [
        Row(
            one.shown,
            kind_of(one.annotation),
            "**needed**" if one.required else shown(one.default),
            meaning(one.shown, name),
        )
        for one in parameters(plugin).values()
    ]


def table(rows: Iterable[Row], noun: str = "parameter") -> str:
    cells = [(f"`{row.name}`", row.kind, row.default, row.meaning) for row in rows]
    return _table([noun, "what it may be", "default", "meaning"], cells) if cells else "No parameter.\n"


def _table(head: list[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    safe = ([cell.replace("|", "/").replace("<", "&lt;") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in safe)


def prose(documented: Any) -> str:
    """Return a docstring as a paragraph each, its wrapping undone."""
    text = inspect.getdoc(documented) or ""
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text)) + "\n"


def sections() -> Iterator[str]:
    """Yield the page, part by part."""
    takers = [f"`{name}`" for name in spec.names() if spec.get(name).on is not None]
    start = START.replace("TAKERS", f"{', '.join(takers[:-1])} and {takers[-1]}")
    yield start.replace("LAYERS", "; ".join(f"{name} {', '.join(found)}" for name, found in _adaptable()))
    yield "## Keys\n"
    yield table(of_fields(reading.File, "file"), "key")
    for key, model in NESTED.items():
        yield f"### `{key}:`\n"
        yield table(of_fields(model, key), "key")
    for key, registry, _, _ in registries():
        yield f"## {TITLES[key]}\n"
        for name, plugin in registry.items():
            yield f"### `{name}`\n"
            yield prose(plugin)
            yield table(of_plugin(name, plugin))
    yield "## Adjustments after the training: `posthoc:`\n"
    for name, adjust in {**POSTHOC, **ABSTAINING}.items():
        yield f"- `{name}`: {prose(adjust).replace(chr(10) * 2, ' ').strip()}"
    yield "\n## Models\n"
    yield "Options stand beside the recipe under a model's name: `scgpt: {size: tiny, epochs: 3}`.\n"
    for name in spec.names():
        yield from of_model(spec.get(name))
    yield "### Recipe\n"
    yield "Of networks. Defaults are the model's own, see above where they differ from these.\n"
    yield table(of_fields(Recipe, "recipe"), "key")
    yield "## Defects of the published recipe\n"
    yield "`protocol: paper` has all of them, `defects: [...]` the ones named.\n"
    yield _table(["defect", "what it does", "where"], [(f"`{k}`", d.explanation, d.where) for k, d in DEFECTS.items()])


def of_model(model: ModelSpec) -> Iterator[str]:
    yield f"### `{model.name}`\n"
    more = "" if not model.files else "; `weights:` names the folder of its published weights"
    yield f"{model.title}, a {model.kind}{more}.\n"
    known = [name for name in spec.settings(model) if name not in untagged(model.name, {name: True})]
    if rows := [row for row in of_fields(model.options, model.name, "options") if row.name in known]:
        yield table(rows, "option")
    if model.recipe is not None:
        yield _table(["recipe", "from scratch", "with weights, or `size: official`"], _recipes(model.recipe))


def _recipes(recipe: Any) -> list[tuple[str, str, str]]:
    """Return what a model's two recipes set that isn't the default, or differs between them."""
    plain, own, published = Recipe(), recipe(None, "small"), recipe(Path("weights"), "official")
    return [
        (f"`{name}`", *values)
        for name in Recipe.model_fields
        if len({*(values := [shown(getattr(one, name)) for one in (own, published)]), shown(getattr(plain, name))}) > 1
    ]


def page() -> str:
    return "\n".join(sections())


if __name__ == "__main__":
    TARGET.write_text(page(), encoding="utf-8")
