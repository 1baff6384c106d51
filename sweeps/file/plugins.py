"""`{kind: rarefy, class: "CD34+", cells: [200, 50]}` in a sweep file -> plug-in entries, checked against signatures."""

import inspect
import json
import keyword
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from data_pipeline import names
from data_pipeline.errors import RequestError
from data_pipeline.hashes import identity_hash
from data_pipeline.names import did_you_mean, few_near, nearest
from data_pipeline.outside import types_of

Problem = tuple[tuple[str | int, ...], str]  # where in the entry, what is wrong
WORDS = (
    ("Input should be", "must be"),
    ("a valid ", "a "),
    ("a array", "a list"),
    ("a integer", "an integer"),
    ("an object", "a mapping"),
    ("a string", "a text"),
)
EMPTY = re.compile(r"\w+ should have at least 1 item after validation, not 0")
TYPES = {"str": "text", "int": "whole number", "float": "number", "|": "or", "NoneType": "null"}
STRICT = ConfigDict(strict=True, allow_inf_nan=False)
LONGEST = 80  # characters of a label
MOST = 12  # names in a sentence
OUTSIDE = ("model", "strategy", "loss", "adjustment")  # of which one may have one's own


@dataclass(frozen=True)
class Entry:
    """One skew, strategy or loss with all its parameters, defaults included; `label` is what tables call it."""

    kind: str
    params: dict[str, Any]
    label: str

    @classmethod
    def plain(cls, kind: str) -> "Entry":
        """Return the entry of a plug-in without parameters."""
        return cls(kind, {}, kind)

    def config(self) -> dict[str, Any]:
        """Return the mapping that run_trial and the preparation take."""
        return {"kind": self.kind, **self.params}


@dataclass(frozen=True)
class Parameter:
    """A parameter that a sweep file may set: its name there, its name in Python, its type and default."""

    shown: str
    name: str
    annotation: Any
    default: Any  # inspect.Parameter.empty: required

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


def registries() -> Iterator[tuple[str, Mapping[str, Callable[..., Any]], str, list[str]]]:
    """Yield the axes whose values are plug-ins: key in a sweep file, registry, what one is called, the default."""
    from data_pipeline.rows.resample import STRATEGIES
    from data_pipeline.rows.skew import SKEWS
    from data_pipeline.rows.synthesize import SYNTHESIZERS
    from trainables.losses import LOSSES

    yield "skews", SKEWS, "skew", ["natural"]
    yield "strategies", STRATEGIES | SYNTHESIZERS, "strategy", ["none"]
    yield "losses", LOSSES, "loss", ["cross_entropy"]


def parameters(plugin: Callable[..., Any]) -> dict[str, Parameter]:
    """Return what a sweep file may say about a plug-in, by the name used there; what cellskew passes is left out."""
    passed = {"classes", *getattr(plugin, "passed", ())} | ({getattr(plugin, "needs", None)} - {None})
    hints = types_of(plugin)
    found = {}
    for name, parameter in inspect.signature(plugin).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in passed:
            shown = yaml_name(name)
            found[shown] = Parameter(shown, name, hints.get(name, Any), parameter.default)
    return found


def yaml_name(name: str) -> str:
    """Return how a sweep file calls a Python parameter: class_name is `class`, which Python keeps for itself."""
    stem = name.removesuffix("_name")
    return stem if keyword.iskeyword(stem) else name


def read_entries(
    given: Any, registry: Mapping[str, Callable[..., Any]], noun: str, always: bool = False
) -> tuple[list[Entry], list[Problem]]:
    """Return the entries that one item of a sweep file's list stands for, and what is wrong with it.

    A list where a parameter takes one value stands for one entry per value. `always`: labels show the first parameter
    even at its default.
    """
    item = {"kind": given} if isinstance(given, str) else given
    if not isinstance(item, dict) or not isinstance(item.get("kind"), str):
        return [], [((), f"{given!r} is neither a name nor a mapping with `kind:`; {_meant(item, registry)}")]
    if item["kind"] not in registry:
        where = () if isinstance(given, str) else ("kind",)
        return [], [(where, unknown(noun, item["kind"], registry))]
    plugin = registry[item["kind"]]
    known, values = parameters(plugin), {}
    problems = list(_strangers(item, known))
    for name, parameter in known.items():
        if name in item:
            values[parameter.name], wrong = _values(item[name], parameter)
            problems += [((name, *where), said) for where, said in wrong]
        elif not parameter.required:
            values[parameter.name] = [parameter.default]
    if problems:
        return [], problems
    entries = [_entry(item["kind"], params, known, always) for params in _product(values)]
    unread = getattr(plugin, "idle", lambda params: {})
    found = idle([unread(entry.params) for entry in entries], {name for name in values if len(values[name]) > 1})
    problems = [((key,), f"{why}; leave {key} out") for key, why in found.items() if key in item]
    return entries, problems + [((), said) for said in dict.fromkeys(_refused(plugin, entries))]


def _refused(plugin: Callable[..., Any], entries: list[Entry]) -> Iterator[str]:
    """Yield what a plug-in itself has against its parameters, if it can tell without cells."""
    verify = getattr(plugin, "verify", lambda params: None)
    for entry in entries:
        try:
            verify(entry.params)
        except RequestError as error:
            yield from error.problems


def _meant(item: Any, registry: Mapping[str, Any]) -> str:
    """Return the way out of an entry without `kind:`."""
    first = next(iter(item), None) if isinstance(item, dict) else None
    return f"write {{kind: {first}, ...}}" if first in registry else f"known: {', '.join(registry)}"


def _strangers(item: dict[str, Any], known: dict[str, Parameter]) -> Iterator[Problem]:
    """Yield the parameters that a plug-in doesn't have, and those that it needs and isn't given."""
    for key in (key for key in item if key not in {"kind", *known}):
        yield (key,), unknown(f"parameter of {item['kind']}", key, known)
    for name, parameter in known.items():
        if parameter.required and name not in item:
            yield (), f"{item['kind']} needs {name}: {_type_name(parameter.annotation)}"


def unknown(noun: str, given: object, known: Iterable[str], listed: str = "") -> str:
    """Return the sentence for a name nobody knows, with the nearest known one.

    listed: where all of them are to be read, if they are too many for a sentence, which then has the few nearest.
    """
    known = list(known)
    allowed = f"known: {', '.join(known)}" if known else "it takes none"
    if listed and len(known) > MOST:
        near = [name for name in few_near(given, known) if name != nearest(given, known)]
        allowed = (f"near it: {', '.join(near)}; " if near else "") + f"all {len(known)}: {listed}"
    meant = did_you_mean(given, known)
    own = "; one of your own is in the folder that --plugins names" if noun in OUTSIDE and not meant else ""
    return f"unknown {noun} {given!r}; {meant}{allowed}{own}"


def idle(unread: list[dict[str, str]], varied: Collection[str]) -> dict[str, str]:
    """Return the settings that change nothing, each with why, of several combinations that a sweep file asks for.

    unread: of each combination. A setting that is `varied` is among them if it changes nothing in one, as that would be
    the same as another; what is the same in all combinations, if it changes nothing in any.
    """
    whys = {key: why for one in unread for key, why in one.items()}
    return {key: why for key, why in whys.items() if key in varied or all(key in one for one in unread)}


def check(annotation: Any, value: Any) -> tuple[Any, str | None]:
    """Return (value in the annotated type, None), or (None, what is wrong with it)."""
    try:
        adapter = TypeAdapter(annotation, config=STRICT)
    except PydanticSchemaGenerationError:
        adapter = TypeAdapter(annotation)
    try:
        return adapter.validate_json(json.dumps(value)), None
    except ValidationError as error:
        return None, against(error.errors()[0] | {"input": value})


def against(error: Mapping[str, Any]) -> str:
    """Return what pydantic has against a value, the value first, in the words of a sweep file."""
    message = EMPTY.sub("is empty; give at least one value", error["msg"])
    for theirs, ours in WORDS:
        message = message.replace(theirs, ours)
    return f"{shown(error['input'])} {message[0].lower()}{message[1:]}"


def shown(value: Any) -> str:
    """Return a value as a sweep file would write it."""
    return json.dumps(value, ensure_ascii=False)


def _values(given: Any, parameter: Parameter) -> tuple[list[Any], list[Problem]]:
    value, wrong = check(parameter.annotation, given)
    if wrong is None:
        return [value], []
    if not isinstance(given, list):
        return [], [((), wrong)]
    if not given:
        return [], [((), "an empty list; give at least one value")]
    checked = [check(parameter.annotation, one) for one in given]
    problems = [((index,), said) for index, (_, said) in enumerate(checked) if said is not None]
    return [one for one, _ in checked], problems


def _product(values: dict[str, list[Any]]) -> list[dict[str, Any]]:
    combined: list[dict[str, Any]] = [{}]
    for name, options in values.items():
        combined = [params | {name: value} for params in combined for value in options]
    return combined


def _entry(kind: str, params: dict[str, Any], known: dict[str, Parameter], always: bool) -> Entry:
    label = [kind]
    for place, parameter in enumerate(known.values()):
        value = params[parameter.name]
        is_bare = parameter.required or (always and place == 0 and value is not None)
        if is_bare:
            label.append(_short(value))
        elif value != parameter.default:
            label.append(_short(value) if place == 0 else f"{parameter.shown}={_short(value)}")
    return Entry(kind, params, _readable("-".join(label)))


def _readable(label: str) -> str:
    """Return a label in one line that tables have room for; a longer one ends in a hash, so that no two are one."""
    text = names.shown(label)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 9]}…{identity_hash(label)[:8]}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, dict | list):
        return ",".join(f"{key}:{number}" for key, number in value.items()) if isinstance(value, dict) else str(value)
    return str(value)


def _type_name(annotation: Any) -> str:
    named = getattr(annotation, "__name__", "") if isinstance(annotation, type) else str(annotation)
    return " ".join(TYPES.get(word, word) for word in named.replace("typing.", "").split())
