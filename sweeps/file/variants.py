"""What makes variants of one model: `train:`, what is trained; `on:`, on what; `tune:`, settings to choose among."""

import itertools
import json
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import ValidationError

from sweeps.file.plugins import Problem, against, shown, unknown
from trainables.spec import Lora, ModelSpec, Recipe, Train, get, names, settings, what_is_trained

WORDS = get_args(Train)
LORA = "{lora: {rank: 8}}"
ON = "{obsm: X_uce}, {embeddings: cells.h5ad} or {model: scgpt, weights: FOLDER}"
RANDOM = "random_features"
OLD = {"freeze_layers", "freeze"}  # of a network's settings, before `train:`


def read_tune(spec: ModelSpec, given: dict[str, Any]) -> tuple[list[dict[str, Any]], list[Problem]]:
    """Return (every combination of the values that `tune:` gives settings, [{}] without it; problems)."""
    if "tune" not in given:
        return [{}], []
    tuned = given["tune"]
    if not isinstance(tuned, dict) or not tuned:
        return [{}], [
            (("tune",), f"{shown(tuned)} is no mapping of settings to lists: {{learning_rate: [1e-5, 1e-4]}}")
        ]
    problems = [
        (("tune", key), said)
        for key, values in tuned.items()
        for said in _of_tuned(key, values, to_tune(spec), set(given))
    ]
    if problems:
        return [{}], problems
    return [dict(zip(tuned, values, strict=True)) for values in itertools.product(*tuned.values())], []


def to_tune(spec: ModelSpec) -> list[str]:
    """Return the settings of a model that can be tuned: its options and recipe, without what makes another variant."""
    recipe = list(Recipe.model_fields) if spec.recipe is not None else []
    return [name for name in (*settings(spec), *recipe) if name != "train"]


def _of_tuned(key: str, values: Any, known: list[str], beside: set[str]) -> Iterator[str]:
    if key in ("train", "weights", "model", "on", RANDOM):
        yield f"{key} is no setting but makes another variant: give each its own label under `models:`"
    elif key not in known:
        yield unknown("setting to tune", key, known, "docs/sweep-file.md")
    elif key in beside:
        yield f"{key} is given beside `tune:` as well; leave one of them out"
    if not isinstance(values, list):
        yield f"{shown(values)} is no list of values to choose among; one value stands beside the other settings"
    elif len(values) < 2:
        yield f"{shown(values)} leaves nothing to choose; write `{key}:` beside the other settings"
    elif any(values.count(value) > 1 for value in values):
        yield f"{shown(values)} has a value twice; leave one of them out"


def read_train(spec: ModelSpec, given: dict[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """Return ({"train": what it comes to}, or {} for a model without it and if something is wrong; problems)."""
    if "train" not in spec.options.model_fields:
        what = f"{spec.name} has nothing to freeze or adapt; leave it out"
        return {}, [((key,), what) for key in ("train", RANDOM) if key in given]
    problems = [((key,), _spelt_anew(key)) for key in given if key in OLD] + list(_misspelt(spec, given))
    if problems:
        return {}, problems
    pretrained = given.get("weights") is not None
    how = what_is_trained(spec, given.get("train"), pretrained)
    problems = list(_of_random_features(how, given.get(RANDOM, False), pretrained))
    return {} if problems else {"train": how}, problems


def misplaced(spec: ModelSpec, given: Any) -> Iterator[Problem]:
    """Yield what is wrong with `on:` of a model, before its files are looked at."""
    if spec.on is None:
        able = ", ".join(name for name in names() if get(name).on is not None)
        yield (), f"{spec.name} takes genes alone; what takes vectors of cells: {able}"
    elif not isinstance(given, dict) or not given:
        yield (), f"{shown(given)} must be a mapping: {ON}"
    elif "model" in given:
        yield from _of_resting(given)
    else:
        yield from (
            ((key,), unknown("word of on", key, ("obsm", "embeddings", "model")))
            for key in given
            if key not in ("obsm", "embeddings")
        )
        yield from (
            ((key,), f"{shown(value)} must be a text") for key, value in given.items() if not isinstance(value, str)
        )
        if len(given) > 1:
            yield (), f"{' and '.join(given)} are two things; give one: {ON}"


def is_resting(given: Any) -> bool:
    """Tell whether `on:` names a network whose vectors can be had."""
    return isinstance(given, dict) and given.get("model") in [name for name in names() if get(name).rests]


def _of_resting(given: dict[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong with a network whose features are asked for."""
    able, model = [name for name in names() if get(name).rests], given["model"]
    if model not in names():
        yield ("model",), unknown("network", model, able)
    elif model not in able:
        what = "gives no vector per cell" if get(model).files else "has no pretrained weights, so no features"
        yield ("model",), f"{model} {what}; known: {', '.join(able)}"
    elif given.get("weights") is None:
        yield (), f"{model} without weights is a random network: say `weights:`, the folder of its published ones"
    of_head = get(model).of_head if model in able else ("train",)
    yield from (
        ((key,), f"what stands under `on:` rests as a whole: leave `{key}` out")
        for key in given
        if key in (*of_head, RANDOM)
    )
    yield from (((key,), f"nothing is trained there: leave {key} out") for key in given if key in Recipe.model_fields)


def _spelt_anew(key: str) -> str:
    return (
        f"{key} is gone: what is trained of any network is said by `train: all`, `published` (what its authors train), "
        f"`head` (everything else is frozen) or `{LORA}`"
    )


def _misspelt(spec: ModelSpec, given: dict[str, Any]) -> Iterator[Problem]:
    said = given.get("train")
    if isinstance(said, dict):
        yield from ((("train", *place), what) for place, what in _of_adapters(spec, said))
    elif said is not None and said not in WORDS:
        yield ("train",), f"{unknown('choice', said, WORDS)}, or {LORA}"
    if not isinstance(given.get(RANDOM, False), bool):
        yield (RANDOM,), f"{shown(given[RANDOM])} must be true or false"


def _of_adapters(spec: ModelSpec, said: dict[str, Any]) -> Iterator[Problem]:
    yield from (((key,), unknown("kind of adapter", key, ["lora"])) for key in said if key != "lora")
    if "lora" not in said:
        if not said:
            yield (), f"{{}} says nothing; use {', '.join(WORDS)}, or {LORA}"
        return
    if spec.adaptable is None:
        yield ("lora",), f"{spec.name} has no layers that adapters can stand beside; use `train: all` or `head`"
        return
    asked = {} if said["lora"] is None else said["lora"]
    strangers = [key for key in asked if key not in Lora.model_fields] if isinstance(asked, dict) else []
    yield from ((("lora", key), unknown("setting of lora", key, Lora.model_fields)) for key in strangers)
    try:
        targets = Lora.model_validate_json(json.dumps(asked), strict=True).targets
    except ValidationError as error:
        wrong = [one for one in error.errors() if one["type"] != "extra_forbidden"]
        yield from ((("lora", *one["loc"]), against(one)) for one in wrong)
        return
    for name in targets or ():
        if name not in spec.adaptable.layers:
            yield ("lora", "targets"), unknown(f"layer of {spec.name}", name, spec.adaptable.layers)


def _of_random_features(how: Any, allowed: bool, pretrained: bool) -> Iterator[Problem]:
    """Yield what is wrong with freezing a network that has learnt nothing, or with allowing it for nothing."""
    frozen = how != "all"
    if frozen and not pretrained and not allowed:
        said = how if isinstance(how, str) else "lora"
        yield (
            ("train",),
            f"{said} without weights trains on the features of a random network: say `weights:`, or "
            f"`{RANDOM}: true` if that is meant, as a control",
        )
    if allowed and (pretrained or not frozen):
        yield (RANDOM,), "nothing random is frozen here; leave it out"
