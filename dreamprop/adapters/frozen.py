"""Frozen networks of a wrapped loop: which the steps of a window may share, and that they stay as they are."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from dreamprop.adapters.original import versions, written


class FrozenNetworks:
    """Networks that no training touches.

    Args:
        networks: as the user gave them.
        trained: parameters that the optimiser moves.

    Raises:
        ValueError: one is no module, has trained parameters, keeps statistics of its batches, or is compiled in a way
            that its calls cannot be seen.
    """

    def __init__(self, networks: Sequence[nn.Module], trained: Collection[nn.Parameter]) -> None:
        if not isinstance(networks, list | tuple):
            raise ValueError(
                f"frozen must be a list of networks, got {type(networks).__name__}; give [network]"
            )
        moving = {id(p) for p in trained}
        for network in networks:
            _check(network, moving)
        self.networks = list(networks)
        """The networks, which copies share."""
        self._tensors: dict[str, Tensor] = {}
        self._places: list[tuple[str, nn.Module, str, Tensor]] = []
        for network in networks:
            kind = type(network).__name__
            self._tensors |= {f"{n!r} of {kind}": p for n, p in network.named_parameters()}
            for path, part in network.named_modules():
                for name, buffer in part._buffers.items():
                    if buffer is not None:
                        full = f"{path}.{name}".lstrip(".")
                        self._tensors[f"{full!r} of {kind}"] = buffer
                        self._places.append((f"{full!r} of {kind}", part, name, buffer))
        self.tensors = tuple(self._tensors.values())
        """Their parameters and buffers, which are no part of a state."""
        self.ids = {id(tensor) for tensor in self._tensors.values()}
        """Ids of these."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While this lasts their parameters and buffers stay as they are.

        Raises:
            ValueError: one was written to, or replaced.
        """
        before = versions(self._tensors)
        yield
        wrote = written(before, versions(self._tensors))
        wrote += [full for full, part, name, buffer in self._places if part._buffers.get(name) is not buffer]
        if wrote:
            raise ValueError(
                f"networks in frozen must stay as they are, got a write to {wrote[0]}; call its eval(), or leave it "
                "out of frozen"
            )


def _check(network: nn.Module, moving: Collection[int]) -> None:
    kind = type(network).__name__
    if not isinstance(network, nn.Module):
        raise ValueError(
            f"frozen must hold torch.nn.Module, got {kind}; give the networks in it, as in [pipe.unet, pipe.vae]"
        )
    for name, parameter in network.named_parameters():
        if id(parameter) in moving:
            raise ValueError(
                f"networks in frozen must have no trained parameters, got {name!r} of {kind}, which the optimizer "
                "holds; leave it out of frozen"
            )
        if parameter.requires_grad:
            raise ValueError(
                f"networks in frozen must have no trained parameters, got {name!r} of {kind} with requires_grad; call "
                "its requires_grad_(False), or leave it out of frozen"
            )
    for name, part in network.named_modules():
        label = f"{name!r} of {kind}" if name else kind
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training:
            raise ValueError(
                f"networks in frozen must keep no statistics of their batches, got {label} in training mode; call "
                "its eval(), or leave it out of frozen"
            )
        if part._compiled_call_impl is not None:
            raise ValueError(
                f"networks in frozen must not be compiled in place, got {label}; give torch.compile(network) to the "
                "loss and to frozen, or leave it out of frozen"
            )
