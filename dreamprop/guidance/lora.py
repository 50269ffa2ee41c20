"""Low-rank corrections of a frozen U-Net that also knows the camera, of W states at once.

    y = x W^T + x A_s^T B_s^T        (LoRA, arXiv:2106.09685, eq. 3) in the attentions' projections

for a picture x of state s: peft puts the layers where they belong, and they are evaluated with W factors A, B in place
of one, so that the frozen weights are gone through once for all states. The camera's pose is embedded by a small
network of each state's own and added to the embedding of the timestep, as a class would be.

The frozen U-Net itself is left as it was: what is corrected is another tree of modules with the same weights.

Legend: W states, N pictures, those of a state together, C channels of what the U-Net sees, r rank.
"""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from dreamprop.errors import InputError

LORA, CAMERA = "guidance.lora", "guidance.camera"
"""Parameter groups, and how the names in them begin."""
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""Projections of an attention, as diffusers names them."""
ADAPTER = "default"
POSE = 16
"""Numbers of a camera's pose."""


class GroupedLinear(nn.Module):
    """`y = x weight_s^T + bias_s` with a matrix for each of W states, whose rows x stand together.

    Weights [W, out, in] and biases [W, out] are given to each call by `functional_call`.
    """

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(0), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(0), requires_grad=False) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Of x [N, ..., in], N a multiple of W, [N, ..., out]."""
        rows = x.reshape(len(self.weight), -1, x.shape[-1]).to(self.weight.dtype)
        columns = self.weight.transpose(1, 2)
        out = (
            torch.bmm(rows, columns)
            if self.bias is None
            else torch.baddbmm(self.bias[:, None], rows, columns)
        )
        return out.view(*x.shape[:-1], out.shape[-1])


class LoRA:
    """A frozen U-Net with corrections of W states; parameters are given to each call.

    Args:
        unet: a `UNet2DConditionModel` of diffusers, which is not touched.
        rank: r of the corrections; their scale is 1.

    Raises:
        InputError: the U-Net knows classes already, or has no attention.
    """

    def __init__(self, unet: Any, rank: int) -> None:
        if getattr(unet, "class_embedding", None) is not None:
            raise InputError(
                "system.guidance.loss vsd must have a U-Net without classes, whose place the camera takes; "
                "take another model or loss=sds"
            )
        self._unet = corrected(unet, rank)
        self.shapes: dict[str, tuple[int, ...]] = {}
        """Of the parameters of one state, by name."""
        self._paths: dict[str, str] = {}
        for path, module in list(self._unet.named_modules()):
            for own, tensor in module.named_parameters(recurse=False):
                key = name_of(f"{path}.{own}")
                if key:
                    self._paths[key] = f"{path}.{own}"
                    self.shapes[key] = tuple(tensor.shape)
        for path in dict.fromkeys(p.rpartition(".")[0] for p in self._paths.values()):
            parent, _, leaf = path.rpartition(".")
            bias = self._unet.get_submodule(path).bias is not None
            setattr(self._unet.get_submodule(parent), leaf, GroupedLinear(bias))
        self._local = threading.local()

    def init(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Corrections and camera embedding of one state that change nothing yet.

        Of each pair of factors the first is uniform as peft has it, `+-1 / sqrt(in)`, and the second is zero; so it is
        with the two layers of the camera's embedding. At first the corrected U-Net is the frozen one bit for bit.
        """
        params = {}
        for name, shape in self.shapes.items():
            params[name] = torch.zeros(shape)
            if name.endswith(("lora_A.weight", "linear_1.weight")):
                nn.init.kaiming_uniform_(params[name], a=math.sqrt(5), generator=generator)
        return params

    def groups(self) -> dict[str, tuple[str, ...]]:
        """Names of the parameters: corrections, and the camera's embedding."""
        return {g: tuple(n for n in self.shapes if n.startswith(f"{g}.")) for g in (LORA, CAMERA)}

    def predict(
        self,
        params: Mapping[str, Tensor],
        counts: Sequence[int],
        noisy: Tensor,
        timesteps: Tensor,
        text: Tensor,
        pose: Tensor,
    ) -> Tensor:
        """What the corrected U-Net predicts [N, C, h, w] (float32), differentiably in the parameters.

        Args:
            params: [W, ...] by name.
            counts: W, the pictures of each state.
            noisy: [N, C, h, w].
            timesteps: [N].
            text: [N, L, D].
            pose: [N, 16] of the cameras.
        """
        if len(set(counts)) > 1:  # every picture as a state of its own
            owner = [state for state, count in enumerate(counts) for _ in range(count)]
            index = torch.tensor(owner, device=noisy.device)
            params = {name: params[name].index_select(0, index) for name in self.shapes}
        dtype = next(self._unet.parameters()).dtype
        half = dtype.itemsize < 4 and torch.is_grad_enabled()
        size = 2.0 ** round(math.log2(noisy.numel())) if half else 1.0
        weights = {path: _scaled(params[name], 1 / size) for name, path in self._paths.items()}
        noisy = noisy.to(dtype)
        if noisy.device.type == "cpu":
            noisy = noisy.contiguous(memory_format=torch.channels_last)
        inputs = {"encoder_hidden_states": text, "class_labels": pose, "return_dict": False}
        out = functional_call(self._mine(), weights, (noisy, timesteps), inputs, tie_weights=False)[0]
        return _scaled(out[:, : noisy.shape[1]].float(), size)

    def _mine(self) -> nn.Module:
        """The tree of modules of this thread: `functional_call` writes into the one that it calls."""
        if not hasattr(self._local, "unet"):
            self._local.unet = shared_copy(self._unet)
        found: nn.Module = self._local.unet
        return found


def corrected(unet: nn.Module, rank: int) -> nn.Module:
    """A second tree of modules on the weights of a U-Net, with peft's layers and a camera embedding, without memory.

    Raises:
        InputError: the U-Net has no attention.
    """
    # peft takes seconds to import, and only this loss needs it
    from diffusers.models.embeddings import TimestepEmbedding
    from peft import LoraConfig, inject_adapter_in_model

    tree: Any = shared_copy(unet)
    with torch.device("meta"):
        tree.class_embedding = TimestepEmbedding(POSE, tree.time_embedding.linear_2.out_features)
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=list(TARGETS))
    try:
        inject_adapter_in_model(config, tree, adapter_name=ADAPTER, low_cpu_mem_usage=True)
    except ValueError as error:
        raise InputError(
            "system.guidance.loss vsd must have a U-Net with attention, to correct its projections; "
            "take another model or loss=sds"
        ) from error
    return tree.eval()


def name_of(path: str) -> str:
    """The name that a state has for a parameter of the corrected U-Net; none for a frozen one."""
    if path.startswith("class_embedding."):
        return f"{CAMERA}.{path.removeprefix('class_embedding.')}"
    if ".lora_A." in path or ".lora_B." in path:
        return f"{LORA}.{path.replace(f'.{ADAPTER}.', '.')}"
    return ""


def shared_copy(module: nn.Module) -> nn.Module:
    """Another tree of modules with the same tensors."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, tensors)


def _scaled(tensor: Tensor, factor: float) -> Tensor:
    """The same tensor, the gradient that passes multiplied: means over many numbers vanish in half precision."""
    if factor == 1 or not tensor.requires_grad:
        return tensor
    tensor = tensor.view_as(tensor)
    tensor.register_hook(lambda gradient: gradient * factor)
    return tensor
