"""`cellskew compare --questions`: the comparisons that a sweep's file declares, corrected as one family."""

import pandas as pd

from data_pipeline.errors import RequestError
from sweeps.answers import celltypes, comparison
from sweeps.answers.comparison import Comparison
from sweeps.answers.designs import Designs
from sweeps.answers.runs import results
from sweeps.file.questions import Question


def answer(runs: pd.DataFrame, questions: list[Question], designs: Designs, tie: float = 0.0) -> list[Comparison]:
    """Return a comparison per question, whose p_holm are corrected for the tests of all of them together.

    RequestError if there is no question, or one has no answer yet.
    """
    if not questions:
        raise RequestError(
            "the sweep's file has no `questions:`, or hasn't been run since it has; see docs for how to ask"
        )
    found = [_one(runs, question, designs, tie) for question in questions]
    return comparison.as_one_family(found)


def _one(runs: pd.DataFrame, question: Question, designs: Designs, tie: float) -> Comparison:
    try:
        mine = runs if question.type is None else celltypes.with_type(runs, question.type, designs.stored)
        metric = results.full_name(question.metric, mine, question.type)
        return comparison.compare(mine, question.between, question.within, metric, question.against, tie, designs)
    except RequestError as error:
        raise RequestError(*(f"question {question}: {said}" for said in error.problems)) from None
