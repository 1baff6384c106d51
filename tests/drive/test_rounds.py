"""A sample of the seeded rounds that benchmarks/faults.py runs by the dozen; see rounds.py."""

from pathlib import Path

import pytest
import rounds
from servers import Hostile, MlflowServer, postgres, s3_endpoint, server_on

pytestmark = [pytest.mark.server, pytest.mark.faults, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> MlflowServer:
    folder = tmp_path_factory.mktemp("server")
    made = MlflowServer(f"sqlite:///{folder}/server.db", str(folder / "artifacts"), folder / "server.log")
    made.start()
    yield made
    made.stop()


@pytest.mark.parametrize("seed", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_an_mlflow_that_answers_strangely_costs_nothing(ray_here, tmp_path, server, seed):
    fates = rounds.hostile_round(seed, tmp_path, server)
    assert fates["pass"] < fates.total()


@pytest.mark.cluster
@pytest.mark.parametrize("seed", ["0", pytest.param("1", marks=pytest.mark.slow)])
def test_two_drivers_of_one_sweep_make_one_record(tmp_path: Path, server, seed):
    with rounds.cluster(tmp_path) as address:
        rounds.drivers_round(seed, tmp_path, server, address)


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.parametrize("seed", ["1", "2"])
def test_a_killed_poisoned_and_twice_driven_sweep_on_postgresql_and_s3_ends_with_the_undisturbed_table(seed, tmp_path):
    logs = tmp_path / "postgres.log", tmp_path / "s3.log"
    with postgres("secret", logs[0]) as database, s3_endpoint(logs[1]) as endpoint:
        server = server_on(database, endpoint, tmp_path / "server.log", "secret")
        server.start()
        try:
            with rounds.cluster(tmp_path) as address:
                done = rounds.poisoned_round(seed, tmp_path, server, address)
        finally:
            server.stop()
    strange = sum(done[fate] for fate in Hostile.FATES if fate != "pass")
    assert done["SIGKILL"] and done["poison"] and strange
