"""What a pretrained network at rest makes of encoded cells: vectors that a head, or another model, is trained on."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import RequestError
from trainables.fitting.contents import contents_of, network_of
from trainables.fitting.features import packed
from trainables.spec import Encoded, Encoder, ModelSpec, code_of, get

AT_ONCE = 32  # cells that go through the network together, fewer where memory is short
_LOADED: dict[str, Any] = {}  # the resting network of this process, by what it is: one at a time


class Resting:
    """A network before the parts that no published file has, in eval mode and float32: vectors float32 [width].

    base: the encoder of the cells that it is called with. digest: what stands for the network, see contents.network_of;
    RequestError where the weights folder holds something else by now. Holds paths alone when pickled; each process
    loads the network once. After the first call `origin` says which frozen parameters made the vectors, and where.
    """

    def __init__(self, base: Encoder, model: str, weights: Path, options: Mapping[str, Any], digest: str) -> None:
        spec = get(model)
        self.model, self.weights, self.digest = model, weights, digest
        self.options = {name: value for name, value in options.items() if name not in spec.of_head}
        own = {"encoder": "resting", "version": 3, "model": model, "sha256": digest, "options": self.options}
        self.identity: dict[str, Any] = own | {"base": base.identity}
        self.coverage, self.of_cells = base.coverage, base.network_options
        self.origin: dict[str, str] = {}

    def __call__(self, encoded: Encoded) -> Encoded:
        """Return the vector of every cell."""
        import torch

        from trainables.training.device import MicroBatch, allow_tf32

        network, at_once, kept = self._network(), MicroBatch(AT_ONCE), []
        allow_tf32(next(network.parameters()).device, False)  # which a head's training may have allowed
        with torch.no_grad(), _one_thread(), _kept_before(get(self.model), network, kept):
            parts = [self._vectors(network, encoded, rows, at_once, kept) for rows in _groups(len(encoded))]
        return packed(torch.cat(parts).numpy(), f"{self.model} at rest")

    def _vectors(self, network: Any, encoded: Encoded, rows: np.ndarray, at_once: Any, kept: list[Any]) -> Any:
        import torch

        from trainables.training import device

        def work() -> Any:
            kept.clear()
            for piece in at_once.pieces(len(rows)):
                inputs = get(self.model).collate(encoded, rows[piece])
                network(**(device.move(inputs, where) if where.type == "cuda" else inputs))
            return torch.cat(kept).cpu()

        where = next(network.parameters()).device
        about = lambda: f"cells of at most {encoded.lengths[rows].max()} tokens"  # noqa: E731
        return at_once.attempt(work, len(rows), kept.clear, about)

    def _network(self) -> Any:
        key = repr((self.model, self.digest, self.options, self.of_cells))
        if key not in _LOADED:
            _LOADED.clear()
            _LOADED[key] = self._load()
        network, self.origin = _LOADED[key]
        return network

    def _load(self) -> tuple[Any, dict[str, str]]:
        """Return the network, where it is to compute, and what its vectors are of."""
        from trainables.training import checkpoint, device
        from trainables.training.trained import of_head

        spec, where = get(self.model), device.choose_device("auto")
        network = spec.build(2, weights=self.weights, **(self.options | self.of_cells)).eval()
        found = network_of(self.model, contents_of(self.model, self.weights), code_of(self.model))
        if found != self.digest:
            raise RequestError(
                f"the weights in {self.weights} have changed since the sweep began ({self.digest[:12]} then, "
                f"{found[:12]} now): no vector is made of them; put the first ones back, or run again"
            )
        frozen = checkpoint.frozen_hash(network, of_head(network, spec))
        return network.to(where), {"frozen": frozen, "device": where.type}


@contextmanager
def _one_thread() -> Iterator[None]:
    """Have torch compute on one CPU thread while it lasts: another number rounds otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _kept_before(spec: ModelSpec, network: Any, kept: list[Any]) -> Iterator[None]:
    """Have what the network hands to the module before which it rests added to `kept` while it lasts."""
    end = network.get_submodule(spec.rests)
    hook = end.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].float()))
    try:
        yield
    finally:
        hook.remove()


def _groups(number: int) -> Iterator[np.ndarray]:
    for start in range(0, number, AT_ONCE):
        yield np.arange(start, min(start + AT_ONCE, number))
