"""Trials start when their own inputs are there: others are still being prepared, and some can't be."""

import dataclasses
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from fake_trials import Silent, drive, nothing_to_prepare, parts, runs, spec
from ray.tune.utils.object_cache import _ObjectCache

from data_pipeline.errors import RequestError
from sweeps.cluster.line import Line
from sweeps.cluster.resources import Shape
from sweeps.cluster.room import Places
from sweeps.drive.coming import Coming
from sweeps.drive.launching.order import InOrder
from sweeps.drive.launching.worker import cause
from sweeps.drive.preparing import prepare
from sweeps.drive.stopping import Stop
from sweeps.drive.workshop import Closed, Workshop


def trial(key: str, model: str = "m") -> SimpleNamespace:
    return SimpleNamespace(key=key, label=model, cost=1.0, turn=0, resources={"cpu": 1.0, "gpu": 0.0})


def coming(groups: list, prepared=lambda group: group, cpus: float = 2.0) -> Coming:
    work = Workshop(lambda: cpus)
    parts = lambda group: [prepared(group)]  # noqa: E731
    made = Coming(groups, parts, lambda one: one, work, lambda *told: made.told.append(told))
    made.told = []
    return made


def asking(key: str, gpu: object = None, network: bool = True, **more: object) -> SimpleNamespace:
    """Return a trial of split `key` as groups looks at it."""
    same = {"strategy": {"kind": "none"}, "dataset": "d", "skew": {}, "genes": {}, "seed": 0, "defects": []}
    config, told = same | {"split": key} | more, SimpleNamespace(gpu=gpu, cpu=None)
    described = {"recipe": {"threads": 1}} | ({"on": more["on"]} if "on" in more else {})
    return SimpleNamespace(
        key=key,
        config=lambda: config,
        resources=told,
        is_network=network,
        described=described,
        rests=more.get("rests"),
        label="m",
        dataset=config["dataset"],
    )


def grouped(gpus: float, *todo: SimpleNamespace) -> list[str]:
    return ["".join(one.key for one in group) for group in prepare.groups(list(todo), [{"CPU": 4.0, "GPU": gpus}])]


def test_no_split_waits_for_what_another_has_made_or_measured():
    networks = [asking(key, "auto") for key in "ab"]
    others = [asking("a", 0.5), asking("b", 0.0, rests="5f"), asking("a", network=False)]
    for gpus in (0.0, 1.0):
        assert grouped(gpus, *networks, *others) == ["aaa", "bb"]
    elsewhere = asking("c", "auto", dataset="other")
    assert grouped(1.0, *networks, *others, elsewhere) == ["aaa", "c", "bb"], "each kind is measured early"
    assert grouped(0.0, *networks, *others, elsewhere) == ["aaa", "bb", "c"]


def test_what_is_ready_of_a_group_is_handed_over_before_the_rest_which_alone_can_fail():
    made, tried = coming([[trial("a"), trial("b", "network")]]), []

    def prepared(group: list):
        tried.append("".join(one.key for one in group))
        yield [one for one in group if one.key == "a"]
        raise RequestError("no GPU is that large")

    made.prepared = prepared
    made.begin()
    wait_for(lambda: (made.arrived(), made.is_over())[1])
    assert [job.key for job in made.jobs] == ["a"] and [job.key for job, _ in made.failed] == ["b"]
    assert tried == ["ab"]


def wait_for(what) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_trials_are_handed_over_while_others_are_still_being_prepared():
    long = threading.Event()

    def prepared(group: list) -> list:
        if group[0].key == "long":
            long.wait(20)
        return group

    made = coming([[trial("long")], [trial("a"), trial("b")], [trial("c")]], prepared)
    made.begin()
    wait_for(lambda: (made.arrived(), len(made.jobs) == 3)[1])
    assert {job.key for job in made.jobs} == {"a", "b", "c"} and not made.is_over()
    line = Line(made.jobs, lambda: {"n": Shape(0.0, 4.0)}, print, None, coming=made)
    for _ in range(3):
        line.over(line.next().job.key)
    assert line.next() is None and not line.is_over() and line.is_preparing()
    long.set()
    wait_for(lambda: (handed := line.next()) is not None and handed.job.key == "long")
    line.over("long")
    assert line.is_over() and not line.is_preparing()
    assert made.told[-1] == ("preparing: trials ready", 4, 4)


def test_what_cannot_be_made_fails_the_trials_that_need_it_alone():
    tried: Counter = Counter()
    taken = threading.Event()

    def prepared(group: list) -> list:
        tried.update(one.key for one in group)
        if any(one.label == "bad" for one in group):
            raise RequestError("no gene is known")
        if group[0].key == "d":
            taken.wait(20)
        return group

    made = coming([[trial("a"), trial("b", "bad"), trial("c", "bad")], [trial("d")]], prepared)
    made.begin()
    wait_for(lambda: (made.arrived(), len(made.failed) == 2)[1])
    failed = [made.failed.pop(), made.failed.pop()]
    taken.set()
    wait_for(lambda: (made.arrived(), made.is_over())[1])
    assert sorted(job.key for job in made.jobs) == ["a", "d"]
    assert sorted((job.key, str(error)) for job, error in failed) == [(key, "no gene is known") for key in "bc"]
    assert max(tried.values()) == 2
    assert made.told[-1] == ("preparing: trials ready", 2, 2), "what can't be made is waited for no longer"


def test_what_was_not_made_as_its_node_was_lost_is_tried_again_by_the_next_run():
    assert cause(ray.exceptions.WorkerCrashedError()) == "outside"


def test_where_nothing_can_be_made_all_is_refused_at_once():
    def prepared(group: list) -> list:
        raise RequestError(f"no cells of {group[0].key}")

    with pytest.raises(RequestError) as refused:
        coming([[trial("a")], [trial("b")]], prepared).begin()
    assert sorted(refused.value.problems) == ["no cells of a", "no cells of b"]


def test_a_file_is_made_by_one_at_a_time_with_the_cpus_that_trials_leave():
    work = Workshop(lambda: 8.0)
    with work.making([Path("a"), Path("b")], 20) as lent:
        assert lent == work.taken == 8, "no trial wants any"
    work.wanted = Counter({Shape(0.0, 1.0): 3})
    with work.making([Path("a")], 20) as lent:
        assert lent == 5
    work.wanted = Counter({Shape(0.0, 1.0): 100, Shape(0.0, 6.0): 1})
    inside: list[str] = []

    def other() -> None:
        with work.making([Path("a"), Path("c")], 1):
            inside.append("other")

    with work.making([Path("a")], 3) as lent, work.making([Path("d")], 20) as rest:
        assert (lent, rest) == (3, 1), "half of them, whatever trials want"
        work.wanted = Counter()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.05)
        assert inside == [], "another makes it"
    thread.join(20)
    assert inside == ["other"] and work.taken == 0
    work.is_closed = True
    with pytest.raises(Closed):
        work.check()


def lending(**gpus: int) -> Workshop:
    return Workshop(lambda: 8.0, lambda kind: {node: number for node, number in gpus.items() if kind in node})


def test_whole_gpus_are_lent_of_those_that_trials_leave_first():
    work = lending(a=2, b=2)
    with work.on_gpus(9) as nodes:
        assert sorted(nodes) == ["a", "a", "b", "b"], "no trial wants any"
    work.wanted, work.held = Counter({Shape(0.5, 1.0): 100}), {"a": 1.5, "b": 1.0}
    with work.on_gpus(9) as nodes, work.on_gpus(0) as none:
        assert (nodes, none, work.lent) == (["b", "a"], [], {"a": 1, "b": 1}), "half of them, the free one first"
        work.is_closed = True
        with pytest.raises(Closed), work.on_gpus(1):
            pytest.fail("the other half is the trials'")
    assert not work.lent
    with lending(a=1).on_gpus(3, "b") as nodes:
        assert nodes == [], "there is none of this kind"


def test_trials_leave_the_gpus_on_which_something_is_made_and_go_on_beside_it():
    jobs = [trial(key) for key in "abcdef"]
    for job in jobs:
        job.resources = {"cpu": 1.0, "gpu": 0.5}
    made = coming([jobs])
    made.begin()
    line = Line(made.jobs, lambda: {"n": Shape(2.0, 8.0)}, print, None, coming=made)
    made.work.lent = Counter(n=1)
    first, second = line.next(), line.next()
    assert first.node == second.node == "n" and line.next() is None
    assert made.work.held == {"n": 1.0}
    line.over(first.job.key)
    assert line.next().part is not None and line.next() is None, "nor does one wait behind a short one"
    made.work.lent = Counter()
    assert line.next().part.gpus == (1,) == line.next().part.gpus


def test_a_trial_whose_node_is_lost_does_not_start_again_on_a_gpu_that_is_lent():
    nodes, made = {"a": Shape(1.0, 4.0)}, coming([[trial("t")]])
    made.begin()
    made.jobs[0].resources = {"cpu": 1.0, "gpu": 0.5}
    line = Line(made.jobs, lambda: nodes, print, None, coming=made)
    assert line.next().node == "a"
    made.work.lent = Counter(b=1)
    assert line.next() is None
    nodes["b"] = nodes.pop("a")
    assert line.moved("t") is None
    made.work.lent = Counter()
    assert line.next() is None and line.moved("t") == "b"


def test_gpus_that_trials_have_left_are_free_to_the_last_digit():
    places = Places()
    places.look({"n": Shape(1.0, 40.0)}, [])
    held = [places.take(Shape(share, 1.0), "n") for share in (0.3, 0.2, 0.1)]
    for number in (1, 2, 0):
        places.give(held[number])
    assert places.keep({}) == {"n": 0.0}


@pytest.mark.parametrize("what", [{"taken": 1}, {"lent": Counter(n=1)}])
def test_no_idle_worker_keeps_what_others_are_prepared_with(what, tmp_path):
    """Tune keeps the last one, for a trial of its shape that may come: on the only GPU a measurement never began."""
    made = coming([[trial("a")]])
    ordered = InOrder(Line([], lambda: {"n": Shape(1.0, 1.0)}, print, None, coming=made), Stop(tmp_path / "stop"))
    cache = _ObjectCache(may_keep_one=True)
    tune = SimpleNamespace(get_live_trials=list, _staged_trials=[], _actor_cache=cache)
    assert cache.cache_object("shape", "worker")
    ordered.choose_trial_to_run(tune)
    assert not list(cache.flush_cached_objects())
    vars(made.work).update(what)
    ordered.choose_trial_to_run(tune)
    assert list(cache.flush_cached_objects()) == ["worker"]


def test_trials_leave_the_cpus_on_which_others_are_prepared():
    made = coming([[trial("a")], [trial("b")], [trial("c")]])
    made.begin()
    wait_for(lambda: (made.arrived(), made.is_over())[1])
    line = Line(made.jobs, lambda: {"n": Shape(0.0, 2.0)}, print, None, coming=made)
    made.work.taken = 1
    first = line.next()
    assert first is not None and line.next() is None
    line.over(first.job.key)
    assert line.next() is not None
    made.work.taken = 2
    assert line.short and line.next() is None, "nor does one wait behind a short one"
    assert made.work.wanted == {Shape(0.0, 1.0): 2}
    made.work.taken = 0
    assert line.next() is not None


def test_a_sweep_trains_while_it_is_prepared_and_without_what_cannot_be(ray_here, tmp_path):
    sweep, screen = spec(), Silent()

    def prepare(configs: list, *given) -> list:
        (split,), (skew,) = (
            {config[name][of] for config in configs} for name, of in (("split", "seed"), ("skew", "kind"))
        )
        if split == 1:
            wait_for(lambda: [what for what, _ in screen.events].count("finished") >= 3)
            with given[-1].making([Path("genes")], 2) as at_once:  # on CPUs that trials had
                ray.get([ray.remote(num_cpus=1)(lambda: None).remote() for _ in range(at_once)], timeout=60)
        if (split, skew) == (0, "exponential") and any(config["model"] == "scgpt" for config in configs):
            raise RequestError("class b lacks 3 cells")
        return nothing_to_prepare(configs, *given)

    outcome = drive(tmp_path, sweep, screen, dataclasses.replace(parts(), prepare=prepare))
    assert outcome.finished == 7 and list(outcome.failed.values()) == ["class b lacks 3 cells"]
    assert "preparing: trials ready 7/7" in screen.said, "what failed and was taken out is waited for no longer"
    found = runs(tmp_path)
    ((name, (_, _, tags)),) = [(name, run) for name, run in found.items() if run[0] == "FAILED"]
    assert name.startswith("scgpt") and "exponential" in name
    assert (tags["cellskew.reason"], tags["cellskew.cause"]) == ("class b lacks 3 cells", "trial")
