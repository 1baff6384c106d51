"""Which trials a sweep's file wants, kept with its MLflow experiment, so that every table can leave the others out.

As tags of the experiment, which hold 5,000 characters each. A list is written to one of two slots, the one not in use;
the tag that names the slot comes last, so that a reader never sees half a list, whatever was killed.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from data_pipeline.errors import RequestError
from sweeps.file.config import SweepSpec
from sweeps.file.questions import Question

TAG, UNTIL = "cellskew.wanted", "cellskew.until"
QUESTIONS, LONGEST = "cellskew.questions", 5000  # characters of a tag
PER_TAG = 250  # keys of 16 hex digits and a space


def write(keys: Iterable[str], tags: Mapping[str, str], put: Callable[[str, str], None]) -> None:
    """Keep the keys, in their order, with an experiment that has `tags`; put(name, value) sets one.

    Nothing is put if it has them.
    """
    kept = list(dict.fromkeys(keys))
    if listed(tags) == kept:
        return
    slot = "b" if tags.get(TAG, "").startswith("a") else "a"
    parts = [kept[start : start + PER_TAG] for start in range(0, len(kept), PER_TAG)]
    for number, part in enumerate(parts):
        put(f"{TAG}.{slot}.{number}", " ".join(part))
    put(TAG, f"{slot} {len(parts)}")


def read(tags: Mapping[str, str]) -> set[str] | None:
    """Return the keys kept with an experiment that has these tags; None if it was never given any."""
    kept = listed(tags)
    return None if kept is None else set(kept)


def listed(tags: Mapping[str, str]) -> list[str] | None:
    """Return the keys as `read` does, in the order of the sweep's file."""
    if TAG not in tags:
        return None
    slot, number = tags[TAG].split()
    return [key for part in range(int(number)) for key in tags[f"{TAG}.{slot}.{part}"].split()]


def write_questions(questions: list[Question], tags: Mapping[str, str], put: Callable[[str, str], None]) -> None:
    """Keep the questions of a sweep's file with an experiment that has `tags`; RequestError if they are too many."""
    text = json.dumps([question.model_dump() for question in questions], ensure_ascii=False)
    if len(text) > LONGEST:
        raise RequestError(f"questions: {len(questions)} make {len(text)} characters, {LONGEST} are kept; ask fewer")
    if tags.get(QUESTIONS, "[]") != text:
        put(QUESTIONS, text)


def read_questions(tags: Mapping[str, str]) -> list[Question]:
    """Return the questions kept with an experiment that has these tags."""
    return [Question(**question) for question in json.loads(tags.get(QUESTIONS, "[]"))]


def until(spec: SweepSpec, splits: int, tags: Mapping[str, str], said: str = "") -> dict[str, Any] | None:
    """Return what is known of a sweep that adds splits until it is sure; None of one that never did.

    asked: what must become sure, None where the file lists its splits now; splits, at_most: so many are wanted now, and
    in the end; looks: the numbers of splits after which it is looked, those included that were `made` under an earlier
    file, as they were looks all the same; said: what the last look found.
    """
    before = read_until(tags)
    if spec.until is None and before is None:
        return None
    made = set() if before is None else {*before["made"], *(one for one in before["looks"] if one <= before["splits"])}
    known = {"asked": None if spec.until is None else str(spec.until), "splits": splits, "at_most": len(spec.splits)}
    return known | {"looks": sorted({*made, *spec.looks}), "made": sorted(made), "said": said}


def write_until(known: dict[str, Any] | None, tags: Mapping[str, str], put: Callable[[str, str], None]) -> None:
    """Keep what `until` returned with an experiment that has `tags`; nothing of a sweep that never added splits."""
    text = "" if known is None else json.dumps(known, ensure_ascii=False)
    if tags.get(UNTIL, "") != text:
        put(UNTIL, text)


def read_until(tags: Mapping[str, str]) -> dict[str, Any] | None:
    """Return what `write_until` kept with an experiment that has these tags, None if nothing."""
    return json.loads(tags[UNTIL]) if tags.get(UNTIL) else None
