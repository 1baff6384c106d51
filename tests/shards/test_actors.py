"""Parts of encoded cells worked on by actors: a lost one's part is worked on by another, errors come as they were."""

import os
from pathlib import Path

import pytest

from data_pipeline.errors import RequestError
from data_pipeline.shards.datasource import for_each_part

pytestmark = pytest.mark.slow
TASKS = [(0, start) for start in range(4)]


def test_a_lost_actors_part_is_worked_on_again(ray_here, tmp_path):
    def work(index: int, start: int) -> None:
        if start == 2 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os._exit(1)
        (tmp_path / str(start)).write_text(str(os.getpid()))

    told = []
    for_each_part(TASKS, work, lambda *said: told.append(said))
    assert (tmp_path / "died").exists() and all((tmp_path / str(start)).exists() for _, start in TASKS)
    assert told[-1] == (4, 4)


def test_an_actor_keeps_what_it_has_loaded_and_its_errors_come_as_they_were(ray_here, tmp_path):
    class Loading:
        def __init__(self, folder: Path) -> None:
            self.folder, self.loaded = folder, False

        def __call__(self, index: int, start: int) -> None:
            if not self.loaded:
                (self.folder / f"loaded-{os.getpid()}").touch(exist_ok=False)
                self.loaded = True
            if start == 3:
                raise RequestError("a part that can't be made")

    with pytest.raises(RequestError, match="a part that can't be made"):
        for_each_part(TASKS, Loading(tmp_path), lambda *said: None)
    assert 1 <= len(list(tmp_path.glob("loaded-*"))) <= 2


def test_actors_share_the_gpus_that_they_are_lent(ray_with_gpus, tmp_path):
    def work(index: int, start: int) -> None:
        import ray

        (tmp_path / f"{start}-{ray.get_runtime_context().get_assigned_resources().get('GPU')}").touch()

    for_each_part(TASKS, work, lambda *said: None, gpus=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{start}-0.5" for _, start in TASKS]
    for_each_part(TASKS[:1], work, lambda *said: None)
    assert (tmp_path / "0-None").exists()
