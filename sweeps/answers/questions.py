"""`cellskew compare --questions`: the comparisons that a sweep's file declares, corrected as one family."""

import pandas as pd

from data_pipeline.errors import RequestError
from sweeps import tables
from sweeps.answers import celltypes, comparison, differences
from sweeps.answers.comparison import Comparison
from sweeps.answers.designs import Designs
from sweeps.answers.runs import results
from sweeps.file.questions import Question
from sweeps.statistics import families


def answer(runs: pd.DataFrame, questions: list[Question], designs: Designs, tie: float = 0.0) -> list[Comparison]:
    """Return a comparison per question, whose p_holm are corrected for the tests of all of them together.

    RequestError if there is no question, or one has no answer yet.
    """
    if not questions:
        raise RequestError(
            "the sweep's file has no `questions:`, or hasn't been run since it has; see docs for how to ask"
        )
    found = [_one(runs, question, designs, tie) for question in questions]
    p = pd.concat([one.table["p"] for one in found])
    corrected, start = families.holm(p.to_numpy(dtype=float)), 0
    for one in found:
        one.table["p_holm"] = corrected[start : start + len(one.table)]
        start += len(one.table)
    return found


def _one(runs: pd.DataFrame, question: Question, designs: Designs, tie: float) -> Comparison:
    try:
        mine = runs if question.type is None else celltypes.with_type(runs, question.type, designs.stored)
        metric = results.full_name(question.metric, mine, question.type)
        return comparison.compare(mine, question.between, question.within, metric, question.against, tie, designs)
    except RequestError as error:
        raise RequestError(*(f"question {question}: {said}" for said in error.problems)) from None


def show(questions: list[Question], found: list[Comparison], form: str, warning: str | None) -> None:
    """Print the answers as tables, each under its question, or as one CSV or JSON."""
    together = [one.table.assign(question=str(question)) for question, one in zip(questions, found, strict=True)]
    if tables.for_programs(pd.concat(together, ignore_index=True), form, warning):
        return
    tests = sum(int(one.table["p"].notna().sum()) for one in found)
    for question, one in zip(questions, found, strict=True):
        print(f"{question}?")
        text = differences.as_text(one)
        tables.draw(text, left=list(text.columns).index(comparison.title(one.metric)))
        family = f"p, Holm: corrected for the {tests} tests of all {len(found)} questions of the sweep's file"
        said = [family if sentence.startswith("p, Holm:") else sentence for sentence in differences.explained(one)]
        tables.say(*said)
        print()
