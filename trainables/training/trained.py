"""What of a network is trained: all of it, what its authors train, its head alone, or adapters and its head."""

from typing import Any

from torch import nn

from trainables.networks import lora
from trainables.spec import ModelSpec, what_is_trained


def choose(network: nn.Module, spec: ModelSpec, train: Any, pretrained: bool) -> None:
    """Freeze what isn't trained, see spec.what_is_trained; adapters draw their weights from torch's generator.

    With `head` what is frozen rests: it is in eval mode, and without dropout, whenever the network trains (`wake`).
    """
    how = what_is_trained(spec, train, pretrained)
    if how == "all":
        return
    head = (spec.head, *spec.fresh)
    trained = spec.published(network) if how == "published" else head
    for name, parameter in network.named_parameters():
        if not name.startswith(trained):
            parameter.requires_grad_(False)
    if how == "head":
        network.resting = [name for name, _ in network.named_modules() if not _holds(name, head)]
    elif how != "published":
        lora.adapt(network, spec.adaptable.within, **how["lora"])


def of_head(network: nn.Module, spec: ModelSpec) -> set[str]:
    """Return the names of the parameters that `train: head` trains."""
    return {name for name, _ in network.named_parameters() if name.startswith((spec.head, *spec.fresh))}


def _holds(name: str, head: tuple[str, ...]) -> bool:
    """Tell whether the module called `name` is part of the head, or has some of it."""
    return not name or any(f"{name}.".startswith(part) or part.startswith(f"{name}.") for part in head)


def wake(network: nn.Module) -> None:
    """Put a network into training mode, but for what rests."""
    network.train()
    modules = dict(network.named_modules())
    for name in getattr(network, "resting", ()):
        modules[name].train(False)
