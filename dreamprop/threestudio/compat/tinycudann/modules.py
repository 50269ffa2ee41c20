"""tiny-cuda-nn's Python interface in plain torch: what `import tinycudann` finds where the real one cannot be had.

Same classes, arguments, flat `params` in the same order and number, so a checkpoint of the one is read by the other.
What differs: initial values are other draws of the same distributions, and computation is in the precision of `params`
(float32; the real one uses half for networks). Any device, any autocast state, and everything can be differentiated
twice, as normals from the gradient of a density ask for.

Legend: N points, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dreamprop.threestudio.compat.tinycudann import encodings

__version__ = "2.0"
ALIGNMENT = {"FullyFusedMLP": 16, "CutlassMLP": 8, "MLP": 8}
"""Inputs of a network are filled up to a multiple of this, and so are the rows of its last layer."""
SHARPNESS = 10.0
"""tiny-cuda-nn's softplus and squareplus are those of ten times the argument, divided by ten."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "None": lambda x: x,
    "ReLU": functional.relu,
    "LeakyReLU": lambda x: functional.leaky_relu(x, 0.01),
    "Exponential": torch.exp,
    "Sine": torch.sin,
    "Sigmoid": torch.sigmoid,
    "Squareplus": lambda x: (SHARPNESS * x + ((SHARPNESS * x) ** 2 + 4).sqrt()) / (2 * SHARPNESS),
    "Softplus": lambda x: functional.softplus(x, beta=SHARPNESS),
    "Tanh": torch.tanh,
}


def free_temporary_memory() -> None:
    """Nothing is kept between calls."""


def _named(table: Mapping[str, Any], name: str, what: str) -> Any:
    for known, value in table.items():
        if known.lower() == name.lower():
            return value
    raise ValueError(f"{what} must be one of {', '.join(table)}, got {name}")


class _MLP:
    """Layers without bias, row-major [fan_out, fan_in] one after another in the parameters."""

    def __init__(self, inputs: int, outputs: int, settings: Mapping[str, Any]) -> None:
        kind = str(settings.get("otype", "MLP"))
        multiple = _named(ALIGNMENT, kind, "network")
        self.inputs = _up(inputs, multiple)
        self.outputs = outputs
        width, hidden = int(settings.get("n_neurons", 128)), int(settings.get("n_hidden_layers", 5))
        last = _up(outputs, multiple)
        self.shapes = [(out, into) for into, out in pairwise([self.inputs, *[width] * hidden, last])]
        self.hidden = _named(ACTIVATIONS, str(settings.get("activation", "ReLU")), "activation")
        self.last = _named(ACTIVATIONS, str(settings.get("output_activation", "None")), "output_activation")
        self.count = sum(out * into for out, into in self.shapes)

    def init(self, generator: torch.Generator) -> Tensor:
        """Uniform in +-sqrt(6 / (fan_in + fan_out))."""
        layers = [
            (torch.rand(out * into, generator=generator) * 2 - 1) * math.sqrt(6 / (out + into))
            for out, into in self.shapes
        ]
        return torch.cat(layers)

    def __call__(self, x: Tensor, params: Tensor) -> Tensor:
        layers = params.split([out * into for out, into in self.shapes])
        for number, (layer, shape) in enumerate(zip(layers, self.shapes, strict=True)):
            x = functional.linear(x, layer.view(shape))
            x = (self.hidden if number < len(layers) - 1 else self.last)(x)
        return x[:, : self.outputs]


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


class Module(nn.Module):
    """What the three modules share: one parameter vector, and points [N, inputs] in any floating type.

    Attributes:
        params: All parameters [P], float32.
        seed: What the initial values were drawn from; no global random state is read or written.
        dtype: Type of the output when it is half or bfloat16; otherwise that of `params`.
    """

    def __init__(
        self, initial: Callable[[torch.Generator], Tensor], seed: int, dtype: torch.dtype | None
    ) -> None:
        super().__init__()
        self.seed, self.dtype = seed, dtype or torch.float32
        self.params = nn.Parameter(initial(torch.Generator().manual_seed(seed)).float())

    def forward(self, x: Tensor) -> Tensor:
        """Outputs [N, n_output_dims]."""
        with torch.autocast(x.device.type, enabled=False):
            out = self._evaluate(x.to(self.params.dtype), self.params)
        return out.to(self.dtype) if self.dtype in (torch.float16, torch.bfloat16) else out

    def _evaluate(self, x: Tensor, params: Tensor) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} must define _evaluate(x, params)")


class Encoding(Module):
    """An encoding alone.

    Args:
        n_input_dims: Inputs of a point.
        encoding_config: tiny-cuda-nn's settings, `otype` and what belongs to it.
        seed: For the initial values.
        dtype: Of the output: float32, float16, or None for float32.
    """

    def __init__(
        self,
        n_input_dims: int,
        encoding_config: Mapping[str, Any],
        seed: int = 1337,
        dtype: torch.dtype | None = None,
    ) -> None:
        if dtype not in (None, torch.float32, torch.float16):
            raise ValueError(f"Encoding only supports fp32 or fp16 precision, but got {dtype}")
        encoding = encodings.encoding(n_input_dims, encoding_config)
        super().__init__(encoding.init, seed, dtype)
        self.encoding = encoding
        self.encoding_config = encoding_config
        self.n_input_dims, self.n_output_dims = n_input_dims, encoding.width

    def _evaluate(self, x: Tensor, params: Tensor) -> Tensor:
        return self.encoding(x, params)


class NetworkWithInputEncoding(Module):
    """An encoding and a network behind it; the parameters are the network's, then the encoding's.

    Args:
        n_input_dims: Inputs of a point.
        n_output_dims: Outputs of a point.
        encoding_config: As for `Encoding`.
        network_config: `otype`, `n_neurons`, `n_hidden_layers`, `activation`, `output_activation`.
        seed: For the initial values.
    """

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        encoding_config: Mapping[str, Any],
        network_config: Mapping[str, Any],
        seed: int = 1337,
    ) -> None:
        encoding = encodings.encoding(n_input_dims, encoding_config)
        network = _MLP(encoding.width, n_output_dims, network_config)
        super().__init__(lambda g: torch.cat([network.init(g), encoding.init(g)]), seed, None)
        self.encoding, self.network = encoding, network
        self.encoding_config, self.network_config = encoding_config, network_config
        self.n_input_dims, self.n_output_dims = n_input_dims, n_output_dims

    def _evaluate(self, x: Tensor, params: Tensor) -> Tensor:
        layers, rows = params.split([self.network.count, self.encoding.count])
        features = self.encoding.pad(self.encoding(x, rows), self.network.inputs)
        return self.network(features, layers)


class Network(NetworkWithInputEncoding):
    """A network alone. Inputs that are filled up are 1, as in tiny-cuda-nn, and so work as biases.

    Args:
        n_input_dims: Inputs of a point.
        n_output_dims: Outputs of a point.
        network_config: As for `NetworkWithInputEncoding`.
        seed: For the initial values.
    """

    def __init__(
        self, n_input_dims: int, n_output_dims: int, network_config: Mapping[str, Any], seed: int = 1337
    ) -> None:
        super().__init__(n_input_dims, n_output_dims, {"otype": "Identity"}, network_config, seed)
