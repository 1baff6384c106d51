"""The order of trials and their places: who starts when, on which node, without Ray."""

import heapq
from types import SimpleNamespace

import pytest

from sweeps.cluster import line as lines
from sweeps.cluster.line import Line
from sweeps.cluster.resources import Shape
from sweeps.cluster.room import Held, Places

GPU, CPU = Shape(4.0, 10.0), Shape(0.0, 8.0)


def job(key: str, gpu: float = 0.0, cpu: float = 1.0, cost: float = 1.0) -> SimpleNamespace:
    return SimpleNamespace(key=key, resources={"cpu": cpu, "gpu": gpu}, cost=cost, turn=0)


def line(*jobs: SimpleNamespace, nodes: dict | None = None, most: int | None = None) -> Line:
    given = {"g": GPU, "c": CPU} if nodes is None else nodes
    said: list[str] = []
    made = Line(list(jobs), lambda: given, said.append, most)
    made.heard = said
    return made


def drawn(made: Line) -> list[tuple[str, str | None]]:
    """Return (trial, node) of all that there is room for now."""
    out = []
    while (handed := made.next()) is not None:
        out.append((handed.job.key, handed.node))
    return out


def test_baselines_start_at_once_on_nodes_without_gpus_and_shapes_share_the_gpus():
    jobs = [job(f"whole{n}", 1.0, cost=9) for n in range(4)] + [job(f"half{n}", 0.5, cost=5) for n in range(8)]
    jobs += [job(f"quarter{n}", 0.25, cost=3) for n in range(16)] + [job(f"base{n}", cost=0.1) for n in range(20)]
    found = drawn(line(*jobs))
    on_gpus = [key for key, node in found if node == "g" and not key.startswith("base")]
    assert {key.rstrip("0123456789") for key in on_gpus} == {"whole", "half", "quarter"}, "no shape waits for another"
    shares = {"whole": 1.0, "half": 0.5, "quarter": 0.25}
    assert sum(shares[key.rstrip("0123456789")] for key in on_gpus) == 4.0, "every GPU is given"
    assert [key for key, node in found if node == "c"] == [f"base{n}" for n in range(8)]


def test_a_trial_without_a_gpu_never_takes_the_cpus_that_gpus_can_use():
    jobs = [job("base1", cpu=4.0), job("base2", cpu=4.0), *(job(f"q{n}", 0.25) for n in range(8))]
    first = line(*jobs, nodes={"g": Shape(1.0, 8.0)})
    first.brief = 0.0
    assert drawn(first) == [("q0", "g"), ("q1", "g"), ("q2", "g"), ("q3", "g"), ("base1", "g")]
    first.over("q0")
    assert drawn(first) == [("q4", "g")], "the four CPUs that are left feed the GPU"


def test_cpus_of_gpu_nodes_are_free_for_all_once_no_trial_waits_for_a_gpu():
    alone = line(*(job(f"base{n}", cpu=4.0) for n in range(3)), nodes={"g": Shape(1.0, 8.0)})
    assert len(drawn(alone)) == 2


def test_a_shape_that_fits_nowhere_holds_up_no_other_and_is_told_of_each_minute(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: clock[0])
    made = line(*(job(f"huge{n}", cpu=64.0, cost=9) for n in range(24)), job("small"))
    assert drawn(made) == [("small", "c")]
    assert made.heard == ["24 trials wait for a node with 64 CPU and 0 GPU; none is there now"]
    for _ in range(30):
        clock[0] += 5
        assert made.next() is None
    assert len(made.heard) == 3 and not made.is_over()


def test_a_node_that_comes_later_is_used():
    nodes = {"c": CPU}
    made = line(job("net", 0.5), nodes=nodes)
    assert drawn(made) == []
    nodes["g"] = GPU
    made.looked = -1e9
    assert drawn(made) == [("net", "g")]


def test_gpus_are_places_of_their_own_not_one_bag():
    """Two nodes of one GPU, each 0.5 given: a whole GPU is free in sum, and nowhere."""
    places = Places()
    places.look({"a": Shape(1.0, 4.0), "b": Shape(1.0, 4.0)}, [])
    places.take(Shape(0.5, 1.0), "a"), places.take(Shape(0.5, 1.0), "b")
    assert places.find(Shape(1.0, 1.0)) is None
    one_node = Places()
    one_node.look({"a": Shape(2.0, 8.0)}, [Held("a", Shape(0.5, 1.0), (0,)), Held("a", Shape(0.5, 1.0), (1,))])
    assert one_node.find(Shape(1.0, 1.0)) is None and one_node.find(Shape(0.5, 1.0)) == "a"


def test_small_trials_fill_what_is_left_of_a_gpu_before_they_break_into_another():
    places = Places()
    places.look({"a": Shape(2.0, 8.0)}, [])
    parts = [places.take(Shape(0.25, 1.0), "a") for _ in range(4)]
    assert {part.gpus for part in parts} == {(0,)} and places.find(Shape(1.0, 1.0)) == "a"
    places.give(parts[0])
    assert places.take(Shape(0.25, 1.0), "a").gpus == (0,)


def test_behind_a_short_trial_another_waits_for_its_worker(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: clock[0])
    made = line(*(job(f"t{n}") for n in range(4)), nodes={"c": Shape(0.0, 1.0)})
    assert drawn(made) == [("t0", "c")]
    clock[0] += 1
    made.over("t0")
    assert drawn(made) == [("t1", "c"), ("t2", "c")], "one runs, one waits behind it"
    assert not made.has_inherited("t2")
    made.over("t1")
    assert made.has_inherited("t2") and drawn(made) == [("t3", "c")]
    clock[0] += 1000
    made.over("t2")
    made.over("t3")
    assert made.is_over()


def test_one_that_waits_and_gets_a_worker_of_its_own_has_its_own_place():
    nodes = {"c": Shape(0.0, 2.0)}
    made = line(*(job(f"t{n}") for n in range(5)), nodes=nodes)
    drawn(made)
    made.over("t0")
    assert [key for key, _ in drawn(made)] == ["t2", "t3", "t4"], "two behind the two that run"
    nodes["c"], made.looked = Shape(0.0, 3.0), -1e9
    assert made.next() is None
    made.started("t3")
    assert made.handed["t3"].part is not None and made.places.nodes["c"].free_cpu == 0
    made.over("t1")
    assert made.has_inherited("t4") and not made.has_inherited("t3")


def test_what_is_taken_back_from_tune_is_no_longer_kept_a_worker_for(tmp_path):
    from sweeps.drive.launching import order
    from sweeps.drive.stopping import Stop

    said = []
    trial = SimpleNamespace(status="PENDING", config={"key": "t0"}, experiment_tag="1_x")
    trial.init_local_path = lambda: said.append("given a folder")
    tune = SimpleNamespace(get_live_trials=lambda: [trial], _staged_trials=[trial], _actor_cache=SimpleNamespace())
    tune._unstage_trial_with_resources = lambda trial: said.append("unstaged")
    tune.stop_trial = lambda trial: said.append("stopped")
    made = SimpleNamespace(is_misplaced=lambda key: True, back=lambda key: said.append("back"), lends=lambda: False)
    made.has_inherited = lambda key: False
    order.InOrder(made, Stop(tmp_path / "stop")).choose_trial_to_run(tune)
    assert said == ["back", "unstaged", "given a folder", "stopped"]


def test_a_trial_whose_worker_did_not_come_up_goes_back_in_line_a_few_times(tmp_path):
    from sweeps.drive.launching import order
    from sweeps.drive.stopping import Stop

    made = line(job("t0"), nodes={"a": CPU})
    ordered = order.InOrder(made, Stop(tmp_path / "stop"))
    trial = SimpleNamespace(status="PENDING", config={"key": "t0"})
    for _ in range(lines.TRIES):
        assert drawn(made) == [("t0", "a")]
        ordered.on_trial_error(None, trial)
        assert made.came_back("t0") == "its node is gone or has no room"
    assert drawn(made) == [("t0", "a")]
    ordered.on_trial_error(None, trial)
    assert made.came_back("t0") is None, "then it is its own failure"


def test_tune_can_tell_the_end_of_a_trial_that_was_stopped_before_it_had_a_worker(tmp_path, monkeypatch):
    from ray.train._internal.storage import StorageContext
    from ray.tune.experiment import Trial
    from ray.tune.result_grid import ResultGrid

    from sweeps.drive.launching import order

    monkeypatch.setattr("ray.train._internal.storage._get_ray_train_session_dir", lambda: str(tmp_path))
    trial = Trial("any", stub=True, storage=StorageContext(str(tmp_path), "sweep"))
    order._end(SimpleNamespace(stop_trial=lambda trial: None), trial)
    told = SimpleNamespace(trials=[trial], trial_dataframes={}, _fs=None)
    assert ResultGrid(told)[0].error is None


def test_nothing_waits_behind_a_long_trial(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: clock[0])
    made = line(*(job(f"t{n}") for n in range(3)), nodes={"c": Shape(0.0, 1.0)})
    drawn(made)
    clock[0] += 3600
    made.over("t0")
    assert drawn(made) == [("t1", "c")]


def test_a_trial_whose_node_is_gone_before_it_started_comes_back_and_one_that_ran_moves():
    nodes = {"a": CPU, "b": CPU}
    made = line(job("t0"), job("t1"), nodes=nodes)
    (_, first), (_, second) = drawn(made)
    del nodes[first]
    made.looked = -1e9
    assert made.is_misplaced("t0") and made.moved("t0") != first
    made.back("t0")
    assert drawn(made) == [("t0", next(iter(nodes)))]
    assert second in ("a", "b")


def test_what_waits_in_vain_on_a_node_tries_another(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: clock[0])
    made = line(job("t0"), nodes={"a": CPU, "b": CPU})
    ((_, first),) = drawn(made)
    clock[0] += lines.PATIENCE - 1
    assert not made.is_misplaced("t0")
    clock[0] += 2
    assert made.is_misplaced("t0")
    made.back("t0")
    ((_, second),) = drawn(made)
    assert {first, second} == {"a", "b"}


@pytest.mark.parametrize("most", [1, 3])
def test_no_more_than_asked_for_are_handed_out(most):
    assert len(drawn(line(*(job(f"t{n}") for n in range(9)), most=most))) == most


@pytest.mark.parametrize(("share", "places"), [(0.18, 5), (0.2, 5), (0.3, 3), (0.35, 2), (0.06, 16)])
def test_shares_of_sixteen_gpus_on_two_nodes_are_whole_numbers_of_places(share, places):
    from sweeps.cluster.resources import nth

    nodes = {name: Shape(8.0, 1000.0) for name in "ab"}
    made = line(*(job(f"t{n}", nth(share)) for n in range(16 * places + 10)), nodes=nodes)
    assert len(drawn(made)) == 16 * places


def test_tune_may_pickle_whatever_the_screen_is_made_of(tmp_path):
    import threading

    from ray import cloudpickle

    from sweeps.cluster.demand import Demand
    from sweeps.drive.launching.order import InOrder, Queue
    from sweeps.drive.stopping import Stop

    made = Line([], dict, threading.RLock().acquire, None)
    cloudpickle.dumps([Queue(made, Demand("small"), Stop(tmp_path)), InOrder(made, Stop(tmp_path))])


def test_a_node_that_fails_two_trials_is_barred_and_they_are_free_to_try_another():
    made = line(*(job(f"t{n}") for n in range(4)), nodes={"a": Shape(0.0, 1.0), "b": Shape(0.0, 1.0)})
    made.brief = 0.0
    on = dict(drawn(made))
    bad = on["t0"]
    assert made.refused("t0", "node x does not see /weights") and made.heard == []
    made.over("t0")
    assert made.came_back("t0") == "node x does not see /weights" and made.came_back("t0") is None
    assert drawn(made) == [("t0", bad)], "once may be chance"
    assert made.refused("t0", "node x does not see /weights")
    made.over("t0")
    assert made.heard == ["a node gets no more trials, as it failed 2: node x does not see /weights"]
    assert drawn(made) == [] and made.hopeless() is None
    made.over("t1")
    assert drawn(made) == [("t0", on["t1"])]


def test_a_trial_that_three_nodes_refuse_has_itself_to_blame():
    made = line(job("t0"), nodes={name: Shape(0.0, 1.0) for name in "abc"})
    for expected in (True, True, False):
        made.avoided.clear()
        ((_, node),) = drawn(made)
        assert made.refused("t0", "no weights") is expected
        made.avoid(node, 1e9)
        made.over("t0")
    assert made.is_over()


def test_when_every_node_is_barred_the_first_reason_is_told():
    made = line(*(job(f"t{n}") for n in range(4)), nodes={"a": Shape(0.0, 2.0)})
    drawn(made)
    assert made.refused("t0", "torch sees no GPU") and made.refused("t1", "torch sees no GPU, either")
    assert made.hopeless() == "torch sees no GPU, either"


def test_a_trial_whose_node_is_drained_goes_back_in_line_once_it_is_saved():
    nodes = {"a": Shape(0.0, 1.0), "b": Shape(0.0, 1.0)}
    made = line(job("t0"), job("t1"), nodes=nodes)
    on = dict(drawn(made))
    assert made.leaving() == [] and not made.leaves("t0")
    gone = on["t0"]
    del nodes[gone]
    made.looked = -1e9
    assert [one.key for one in made.leaving()] == ["t0"]
    assert made.leaves("t0") and not made.leaves("t1")
    made.over("t0")
    assert made.came_back("t0") == "its node is being drained" and drawn(made) == []
    made.brief = 0.0
    made.over("t1")
    assert drawn(made) == [("t0", on["t1"])]


def test_for_a_trial_of_several_gpus_a_node_is_kept_until_it_has_them():
    jobs = [job("two", gpu=2.0, cost=5.0), *(job(f"one{n}", gpu=1.0) for n in range(6))]
    made = line(*jobs, nodes={"a": Shape(2.0, 8.0), "b": Shape(1.0, 8.0), "c": Shape(1.0, 8.0)})
    made.brief = 0.0
    made.places.look(made.capacities(), [])
    held = made._hand(Shape(1.0, 1.0), "a", made.places.take(Shape(1.0, 1.0), "a"))
    assert drawn(made) == [("one1", "b"), ("one2", "c")], "the other GPU of a waits for its neighbour"
    made.over(held.job.key)
    assert drawn(made) == [("two", "a")]
    assert made.handed["two"].part.gpus == (0, 1)
    made.over("two")
    assert [node for _, node in drawn(made)] == ["a", "a"]


def test_mixed_shapes_on_four_nodes_have_every_gpu_until_the_last_wave():
    """120 trials of a whole GPU, half, a quarter and none, on four nodes of a GPU and six CPUs; seconds are made up."""
    kinds = {
        "whole": (1.0, 40.0),
        "half": (0.5, 30.0),
        "quarter": (0.25, 30.0),
        "base": (0.0, 6.0),
        "major": (0.0, 3.0),
    }
    jobs = [job(f"{name}{n}", gpu, cost=cost) for name, (gpu, cost) in kinds.items() for n in range(24)]
    now, running, spans = 0.0, [], []
    nodes = {f"n{number}": Shape(1.0, 6.0) for number in range(4)}
    made = Line(jobs, lambda: nodes, print, None, clock=lambda: now, short=0.0)
    while not made.is_over():
        for handed in iter(made.next, None):
            end = now + handed.job.cost
            heapq.heappush(running, (end, handed.job.key))
            spans.append((now, end, handed.job.resources["gpu"]))
        now, key = heapq.heappop(running)
        made.over(key)
    last = max(begin for begin, _, gpu in spans if gpu)
    given = sum(gpu * max(0.0, min(end, last) - begin) for begin, end, gpu in spans) / last
    assert given > 0.99 * 4 and now < 1.1 * 375, (given, now)
    assert min(begin for begin, _, gpu in spans if not gpu) == 0
