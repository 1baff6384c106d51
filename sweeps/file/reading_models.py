"""`models:` of a sweep file -> labels, options, recipes and weights, checked against each model's own."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from data_pipeline.errors import RequestError
from data_pipeline.names import nearest
from data_pipeline.reading.file.places import is_uri
from sweeps.file import plugins, variants
from sweeps.file.plugins import Problem, against, shown, unknown
from sweeps.file.reading_data import elsewhere
from sweeps.file.strict import NAME
from sweeps.file.trials import called
from trainables import protocol
from trainables import spec as registry
from trainables.spec import ModelSpec, Recipe


def read_models(
    given: Any, folder: Path, check_files: bool, defects: Iterable[str] = ()
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Return (fields of config.Model for each model, problems). A list of names stands for models as they come.

    A key is a label, what the sweep calls the model; its `model:` says what it is, and is the label itself otherwise.
    defects: of the published recipe, that the sweep's trials have.
    """
    listed = {name: {} for name in given if isinstance(name, str)} if isinstance(given, list) else given
    found, problems = [], []
    for label, said in (listed if isinstance(listed, dict) else {}).items():
        said = {} if said is None else said
        wrong = list(_misnamed(label, said)) if isinstance(said, dict) else []
        if isinstance(said, dict) and not wrong:
            name = said.get("model", label)
            settings = {key: value for key, value in said.items() if key != "model"}
            read, wrong = _settings_of(registry.get(name), settings, folder, check_files)
            found += [{"label": label, "model": name, "code": registry.code_of(name), **fields} for fields in read]
        problems += [(("models", label, *place), what) for place, what in wrong]
    return found, problems + ([] if problems else [*_overruled(found, list(defects)), *_alike(found, list(defects))])


def _settings_of(
    spec: ModelSpec, given: dict[str, Any], folder: Path, check_files: bool
) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Return the fields of each setting that is trained, several with `tune:`, and problems."""
    combinations, problems = variants.read_tune(spec, given)
    plain, found, unread = {key: value for key, value in given.items() if key != "tune"}, [], []
    for values in combinations:
        fields, wrong, idle = _read(spec, plain | values, folder, check_files)
        problems += [(("tune", *where) if where and where[0] in values else where, said) for where, said in wrong]
        found.append(fields | {"tuned": values, "num_settings": len(combinations)})
        unread.append(idle)
    for key, why in plugins.idle(unread, combinations[0]).items():
        where, apart = (("tune", key), ", or tune it under another label") if key in combinations[0] else ((key,), "")
        problems += [] if where in [one for one, _ in problems] else [(where, f"{why}; leave {key} out{apart}")]
    return found, list(dict.fromkeys(problems))


def _misnamed(label: str, said: dict[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with a label, and with the model that it is said to be."""
    known, name = registry.names(), said.get("model", label)
    if not NAME.fullmatch(label):
        what = "is a path, not a name" if "/" in label or "\\" in label else "is no name for a model"
        yield (), f"{shown(label)} {what}; use up to 100 letters, digits, dots, dashes, underscores"
    elif name not in known and "model" in said:
        yield ("model",), unknown("model", name, known)
    elif name not in known and (meant := next((key for key in said if nearest(key, ["model"])), None)):
        yield (meant,), unknown("word of a model", meant, ["model"])
    elif name not in known:
        own = f". A name of your own says which it is: {label}: {{model: NAME}}" if said else ""
        yield (), unknown("model", label, known) + own
    elif label.casefold() in known and label != name:
        yield (), f"{label} would be read as the model of that name, and is {name}: call it otherwise, {name}-2 say"


def _alike(found: list[dict[str, Any]], defects: list[str]) -> Iterator[Problem]:
    """Yield the labels that mean the same as one before them: their trials would be one and the same."""
    blank, first, stands = {"label": "", "tuned": {}, "num_settings": 1}, {}, {}
    for one in found:
        other = first.setdefault(_meaning(one | blank, defects), one)
        plain = stands.setdefault(_meaning(one | blank, []), one)
        if other is not one:
            names = [f"{model['label']}{called(model['tuned'])}" for model in (one, other)]
            said = f"{names[0]} means the same as {names[1]}" if one["tuned"] else f"means the same as {names[1]}"
            said += "" if plain is not one else ", as defects of the published recipe set what they differ in"
            yield ("models", one["label"]), f"{said}; leave one of the two out"


def _overruled(found: list[dict[str, Any]], defects: list[str]) -> Iterator[Problem]:
    """Yield the options that change nothing once defects have set others, and would change something without them."""
    for one in found:
        kind, pretrained = registry.get(one["model"]).options, one["weights"] is not None
        ways = (one["options"], _with_defects(one, defects)["options"])
        before, now = (kind(**options).idle(pretrained) for options in ways)
        for key in sorted(now.keys() - before.keys()):
            if one["options"][key] != getattr(kind(), key):
                what = "with the defects of the published recipe it changes nothing; leave it out"
                yield ("models", one["label"], key), what


def _meaning(model: dict[str, Any], defects: list[str]) -> str:
    """Return what a model's trials are with these defects."""
    return json.dumps(_with_defects(model, defects), sort_keys=True)


def _with_defects(model: dict[str, Any], defects: list[str]) -> dict[str, Any]:
    """Return the fields of a model with these defects, of those that touch it."""
    own = protocol.defects_of(model["model"], "", "corrected", defects)
    options, recipe = protocol.apply(own, model["options"], model["recipe"] or {})
    return model | {"options": options, "recipe": recipe}


def _read(
    spec: ModelSpec, given: dict[str, Any], folder: Path, check_files: bool
) -> tuple[dict[str, Any], list[Problem], dict[str, str]]:
    """Return (fields of a Model, problems, the settings that change nothing beside the others, each with why)."""
    trained, problems = variants.read_train(spec, given)
    on, wrong = _on(spec, given.get("on"), folder, check_files) if "on" in given else (None, [])
    problems += wrong
    given = {key: value for key, value in given.items() if key not in ("on", "train", variants.RANDOM, *variants.OLD)}
    in_recipe = set(Recipe.model_fields) if spec.recipe is not None else set()
    problems += _strangers(spec, given, in_recipe)
    weights, wrong = _weights(spec, given.get("weights"), folder, check_files)
    problems += wrong
    chosen = {} if on is None else dict(spec.on)
    chosen |= {key: given[key] for key in given if key in spec.options.model_fields}
    usual = spec.options.sizes.get(str(chosen.get("size", "small")), {}) if weights is None else {}
    chosen = {key: value for key, value in chosen.items() if key not in usual or value != usual[key]}
    options, wrong = _checked(spec.options, chosen | trained)
    problems += wrong
    overrides, recipe, idle = {key: given[key] for key in given if key in in_recipe}, None, {}
    if spec.recipe is not None:
        size = "small" if options is None else options.size
        recipe, idle, wrong = _recipe(spec, weights, size, overrides)
        problems += wrong
    fields = {"kind": spec.kind, "weights": weights, "on": on}
    fields["recipe"] = None if recipe is None else recipe.model_dump()
    fields["options"] = {} if options is None else options.model_dump()
    idle |= {} if options is None else options.idle(given.get("weights") is not None)
    return fields, problems, {key: why for key, why in idle.items() if key in given}


def _on(spec: ModelSpec, given: Any, folder: Path, check_files: bool) -> tuple[dict[str, Any] | None, list[Problem]]:
    """Return what stands for cells in place of their genes, paths absolute, None if something is wrong, and problems.

    {"obsm": name}, {"embeddings": path}, or {"model", "weights", "options"} of a pretrained network.
    """
    problems = list(variants.misplaced(spec, given))
    if problems and not variants.is_resting(given):
        return None, [(("on", *where), what) for where, what in problems]
    if "model" not in given:
        kind, value = next(iter(given.items()))
        if kind == "embeddings" and is_uri(value):
            return None, [(("on", kind), elsewhere(value))]
        path = str(folder / Path(value).expanduser()) if kind == "embeddings" else value
        if kind == "embeddings" and check_files and not Path(path).is_file():
            return None, [(("on", kind), f"the file {path} is not there; give an h5ad file with one vector per cell")]
        return {kind: path}, []
    base = {key: value for key, value in given.items() if key not in ("model", "train", variants.RANDOM)}
    fields, wrong, idle = _read(registry.get(given["model"]), base, folder, check_files)
    problems += wrong + [((key,), f"{why}; leave {key} out") for key, why in idle.items()]
    found = {"model": given["model"], "weights": fields["weights"], "options": fields["options"]}
    return (None if problems else found), [(("on", *where), what) for where, what in problems]


def _recipe(
    spec: ModelSpec, weights: str | None, size: str, overrides: dict[str, Any]
) -> tuple[Recipe | None, dict[str, str], list[Problem]]:
    """Return (the recipe that the model's own comes to with what the file says of it, None if that can't be; those of
    its settings that change nothing, each with why; problems).
    """
    problems: list[Problem] = []
    try:
        default = spec.recipe(None if weights is None else Path(weights), size)
    except RequestError as error:
        problems = [(("weights",), problem) for problem in error.problems]
        default = Recipe()
    recipe, wrong = _checked(Recipe, default.model_dump() | overrides)
    return recipe, {} if recipe is None else _idle(recipe, default.patience), problems + wrong


def _idle(recipe: Recipe, usual: int | None) -> dict[str, str]:
    """Return the settings that change nothing, each with why; no patience that turns off the `usual` one."""
    said = recipe.idle()
    if usual is not None and "patience" not in recipe.model_copy(update={"patience": usual}).idle():
        said.pop("patience", None)
    return said


def _strangers(spec: ModelSpec, given: dict[str, Any], in_recipe: set[str]) -> list[Problem]:
    """Return the settings that the model doesn't have, and those that are a defect by themselves."""
    read = {"weights", *spec.options.model_fields, *in_recipe}
    words = ["model", *(["on"] if spec.on is not None else []), *(["tune"] if variants.to_tune(spec) else [])]
    words += [variants.RANDOM] if "train" in spec.options.model_fields else []
    allowed = [*words, "weights", *registry.settings(spec), *sorted(in_recipe)]
    allowed = [key for key in allowed if key not in protocol.untagged(spec.name, dict.fromkeys(allowed, True))]
    problems: list[Problem] = [((key,), _unknown(spec.name, key, allowed)) for key in given if key not in read]
    if "size" in given and "size" not in registry.settings(spec):
        problems += [(("size",), f"size changes nothing about {spec.name}; leave it out")]
    return problems + [
        (
            (key,),
            f"{shown(given[key])} is a defect of the published recipe, and runs with one are tagged: leave it out "
            f"here and write `defects: [{defect}]` beside `models:`",
        )
        for key, defect in protocol.untagged(spec.name, given).items()
    ]


def _unknown(model: str, key: str, allowed: list[str]) -> str:
    if key == "recipe":
        return f"the settings of a recipe stand beside the model's options: write `{model}: {{epochs: 3}}`"
    return unknown(f"setting of {model}", key, allowed, "docs/sweep-file.md")


def _checked(model: type[BaseModel], given: dict[str, Any]) -> tuple[BaseModel | None, list[Problem]]:
    try:
        return model.model_validate_json(json.dumps(given), strict=True), []
    except ValidationError as error:
        wrong = error.errors()
        inside = {one["loc"][0] for one in wrong if len(one["loc"]) > 1}  # lists with a wrong value count as too short
        wrong = [one for one in wrong if one["type"] != "too_short" or one["loc"][0] not in inside]
        return None, [(one["loc"][:1], against(one)) for one in wrong]


def _weights(spec: ModelSpec, given: Any, folder: Path, check_files: bool) -> tuple[str | None, list[Problem]]:
    """Return (the absolute path of the weights folder, or None, problems)."""
    if given is None:
        return None, []
    if not isinstance(given, str):
        return None, [(("weights",), f"{shown(given)} is not the path of a folder")]
    if not spec.files:
        return None, [(("weights",), f"{spec.name} has no pretrained weights; leave `weights:` out")]
    if is_uri(given):
        return None, [(("weights",), elsewhere(given))]
    path = folder / Path(given).expanduser()
    if check_files and not path.is_dir():
        what = "is a file, not a folder" if path.is_file() else "is not there"
        return None, [(("weights",), f"the folder {path} {what}; leave `weights:` out to train from scratch")]
    return str(path), []
