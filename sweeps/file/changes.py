"""What an edited sweep file would train anew, and which settings make it so."""

import json
from collections import Counter
from pathlib import Path

from data_pipeline.errors import RequestError
from sweeps.file import config
from sweeps.file.trials import Contents, Trial, called

SHOWN = 8
CONTENTS = ("dataset.digest", "dataset.labels", "weights.sha256")  # "" where the files weren't looked at


def since(path: Path, trials: list[Trial]) -> list[str]:
    """Return how the trials differ from those of the file kept at `path`, in sentences; none if they don't.

    Trials alike in all their labels whose key differs are the same cell of the grid under other settings: those
    settings are named with both values.
    """
    if not path.exists():
        return []
    try:
        before = config.load(path, check_files=False).model_copy(update={"contents": _contents(path)}).trials()
    except RequestError:  # written by a version that knew other fields
        return ["the file kept of this sweep's last run can't be read; what has changed since is not known"]
    is_known = all(trial.is_known for trial in (*before, *trials))  # else by what the file says
    old, new = ({trial.key if is_known else trial.declared for trial in some} for some in (before, trials))
    if old == new:
        return []
    said = [
        f"the sweep's file has changed since it last ran: {len(new - old)} of its {len(new)} trials are new, "
        f"{len(old - new)} of the {len(old)} before are left out of every table from now on (their runs stay: --all)"
    ]
    return said + _choices(before, trials) + _settings(before, trials)


def _choices(before: list[Trial], now: list[Trial]) -> list[str]:
    """Return a sentence per axis of the grid whose choices differ."""
    said = []
    for axis in {name: None for trial in now for name in trial.labels}:
        was, is_now = ({trial.labels.get(axis): None for trial in trials} for trials in (before, now))
        gone, come = ([str(one) for one in some if one not in other] for some, other in ((was, is_now), (is_now, was)))
        changes = [f"{', '.join(names)} {word}" for names, word in ((gone, "left out"), (come, "new")) if names]
        said += [f"{axis}: {'; '.join(changes)}"] if changes else []
    return said


def _contents(path: Path) -> Contents:
    """Return what was behind the paths of a kept file; nothing is known of those of earlier versions."""
    try:
        return Contents(**json.loads(path.with_suffix(".contents.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Contents()


def _settings(before: list[Trial], now: list[Trial]) -> list[str]:
    """Return a sentence per setting that differs between trials of the same labels, the commonest first."""
    known = {(*trial.labels.values(), called(trial.tuned)): trial for trial in before}
    found: Counter[str] = Counter()
    for trial in now:
        labels = next(iter(known.values())).labels
        other = known.get((*(trial.labels[name] for name in labels), called(trial.tuned)))
        if other is not None and other.params() != trial.params():
            found.update(_differences(other, trial))
    said = [f"{change} ({number} trials are trained anew)" for change, number in found.most_common(SHOWN)]
    return said + ([f"and {len(found) - SHOWN} more settings"] if len(found) > SHOWN else [])


def _differences(old: Trial, new: Trial) -> list[str]:
    was, now = old.params(), new.params()
    return [
        f"{name}: {was.get(name, 'not set')} before, {now.get(name, 'not set')} now"
        for name in sorted({*was, *now})
        if was.get(name) != now.get(name) and not (name in CONTENTS and "" in (was.get(name), now.get(name)))
    ]
