"""Checkpoints: whole or absent, only what is trained, frozen weights by their hash."""

import errno

import pytest
import torch
from safetensors import SafetensorError
from torch import nn

from trainables.training import checkpoint as module


def network(frozen: bool = False) -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    if frozen:
        made[0].requires_grad_(False)
    return made


def trained_names(made: nn.Module) -> set[str]:
    return {name for name, parameter in made.named_parameters() if parameter.requires_grad}


def save(directory, epoch: int):
    return module.save(directory, epoch, {"weights.safetensors": {"w": torch.full((3,), float(epoch))}}, {"n": epoch})


def test_the_newest_whole_checkpoint_is_found_and_older_ones_go(tmp_path):
    assert module.newest(tmp_path) is None
    save(tmp_path, 1)
    path = save(tmp_path, 2)
    assert module.newest(tmp_path) == path and [p.name for p in tmp_path.iterdir()] == ["epoch-0002"]
    assert module.load(path)["n"] == 2 and module.tensors(path, "weights.safetensors")["w"][0] == 2


@pytest.mark.parametrize("damage", ["truncate", "flip", "missing", "no state", "another number"])
def test_a_damaged_checkpoint_is_no_checkpoint(tmp_path, damage):
    path = save(tmp_path, 3)
    victim = path / ("state.json" if "state" in damage or "number" in damage else "weights.safetensors")
    data = bytearray(victim.read_bytes())
    if damage == "another number":
        victim.write_bytes(data.replace(b'"n": 3', b'"n": 7'))
    elif damage == "flip":
        data[-1] ^= 1
        victim.write_bytes(data)
    elif damage == "truncate":
        victim.write_bytes(data[:-3])
    else:
        victim.unlink()
    assert module.newest(tmp_path) is None
    assert not path.exists()


def test_a_full_disk_leaves_the_last_good_checkpoint_and_is_blamed_on_the_machine(tmp_path, monkeypatch):
    path = save(tmp_path, 1)

    def full(*args):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(module, "save_file", full)
    with pytest.raises(OSError, match=r"No space left on device: .*weights.safetensors") as caught:
        save(tmp_path, 2)
    assert caught.value.errno == errno.ENOSPC
    assert module.newest(tmp_path) == path and [p.name for p in tmp_path.iterdir()] == ["epoch-0001"]


def test_half_written_folders_never_count(tmp_path):
    path = save(tmp_path, 1)
    (tmp_path / ".epoch-0002.0123456789ab.part").mkdir()
    assert module.newest(tmp_path) == path
    save(tmp_path, 2)
    assert not (tmp_path / ".epoch-0002.0123456789ab.part").exists()


def simulated(every, cost: float, num_bytes: int, epochs: int = 200, seconds: float = 1.0) -> list[int]:
    """Return the epochs after which a trial saves whose checkpoints take `cost` seconds."""
    spacing, saved = module.Spacing(every, num_bytes), []
    for epoch in range(1, epochs + 1):
        if spacing.is_due(epoch, seconds):
            spacing.saved(cost)
            saved.append(epoch)
    return saved


@pytest.mark.parametrize("cost", [0.05, 0.3, 2.0])
def test_saving_stays_below_its_share_of_the_training(cost):
    saved = simulated("auto", cost, num_bytes=round((cost - module.FIXED_COST) * module.BYTES_PER_SECOND))
    assert cost * len(saved) <= module.SHARE * saved[-1]
    assert max(b - a for a, b in zip([0, *saved], saved, strict=False)) <= max(1, round(cost / module.SHARE) + 1)


def test_a_supposed_cost_gives_way_to_the_measured_one():
    assert simulated("auto", cost=0.01, num_bytes=9 * 10**8)[:3] == [181, 182, 183]
    assert simulated("auto", cost=0.2, num_bytes=0)[:3] == [1, 5, 9]


def test_a_given_interval_is_kept_whatever_it_costs():
    assert simulated(3, cost=50.0, num_bytes=10**9, epochs=10) == [3, 6, 9]


def test_only_trained_parameters_and_buffers_are_kept():
    made = network(frozen=True)
    tensors = module.trained_tensors(made, trained_names(made))
    assert "0.weight" not in tensors and "2.weight" in tensors and "1.running_mean" in tensors


def test_the_hash_of_the_frozen_base_sees_every_frozen_weight_and_no_other():
    made = network(frozen=True)
    names = trained_names(made)
    before = module.frozen_hash(made, names)
    with torch.no_grad():
        made[2].weight += 1
    assert module.frozen_hash(made, names) == before
    with torch.no_grad():
        made[0].bias[0] += 1e-7
    assert module.frozen_hash(made, names) != before


def test_the_optimizer_goes_on_as_if_nothing_had_happened():
    def step(made, optimizer):
        optimizer.zero_grad()
        made(torch.ones(5, 3) * torch.arange(5.0)[:, None]).square().sum().backward()
        optimizer.step()

    undisturbed = network()
    optimizer = torch.optim.Adam(undisturbed.parameters(), fused=True)
    step(undisturbed, optimizer)
    resumed = network()
    again = torch.optim.Adam(resumed.parameters(), fused=True)
    module.restore_weights(resumed, module.trained_tensors(undisturbed, trained_names(undisturbed)))
    module.restore_optimizer(resumed, again, module.optimizer_tensors(undisturbed, optimizer))
    step(undisturbed, optimizer)
    step(resumed, again)
    assert all(torch.equal(a, b) for a, b in zip(undisturbed.parameters(), resumed.parameters(), strict=True))


def test_weights_of_another_network_are_refused():
    with pytest.raises(module.CheckpointError, match="does not fit this network"):
        module.restore_weights(network(), {"stranger.weight": torch.zeros(1)})
    with pytest.raises(module.CheckpointError, match="does not fit"):
        module.restore_weights(network(), {"0.weight": torch.zeros(4, 3)})
