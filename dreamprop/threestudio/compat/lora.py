"""Attention with low-rank corrections, as diffusers had it before 0.30: VSD's second U-Net is made of it.

Newer releases keep the name with nothing behind it, and take `scale` out of `cross_attention_kwargs` before attention
sees it, without a word: a U-Net that is asked for scale 0 then answers with its corrections on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SCALE = "lora_scale"
"""Name under which the scale reaches the attention."""


class LowRank(nn.Module):
    """`up(down(x))` in the precision of its weights, zero at first (LoRA, arXiv:2106.09685, eq. 3)."""

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float | None) -> None:
        super().__init__()
        if rank > min(inputs, outputs):
            raise ValueError(f"LoRA rank must be <= {min(inputs, outputs)}, got {rank}; lower it")
        self.down = nn.Linear(inputs, rank, bias=False)
        self.up = nn.Linear(rank, outputs, bias=False)
        self.factor = 1.0 if alpha is None else alpha / rank
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The low-rank correction of x, in the type of x."""
        return self.up(self.down(x.to(self.down.weight.dtype))).to(x.dtype) * self.factor


class LoRAAttnProcessor(nn.Module):
    """diffusers' attention with a correction of scale `scale` on queries, keys, values and outputs.

    Args:
        hidden_size: Width of what attends.
        cross_attention_dim: Width of what is attended to; None for self-attention.
        rank: Of each correction.
        network_alpha: A correction is multiplied by `network_alpha / rank`; None for 1.
    """

    def __init__(
        self,
        hidden_size: int,
        cross_attention_dim: int | None = None,
        rank: int = 4,
        network_alpha: float | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        self.hidden_size, self.cross_attention_dim, self.rank = hidden_size, cross_attention_dim, rank
        source = cross_attention_dim or hidden_size
        self.to_q_lora = LowRank(hidden_size, hidden_size, rank, network_alpha)
        self.to_k_lora = LowRank(source, hidden_size, rank, network_alpha)
        self.to_v_lora = LowRank(source, hidden_size, rank, network_alpha)
        self.to_out_lora = LowRank(hidden_size, hidden_size, rank, network_alpha)

    # diffusers reads the names of the arguments from `__call__` and drops what is not among them
    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        scale: float = 1.0,
        lora_scale: float | None = None,
    ) -> Tensor:
        """What diffusers calls in place of its own processor; `lora_scale` wins over `scale`."""
        scale = scale if lora_scale is None else lora_scale
        x, shape = hidden_states, hidden_states.shape
        if attn.spatial_norm is not None:
            x = attn.spatial_norm(x, temb)
        if len(shape) == 4:
            x = x.flatten(2).transpose(1, 2)
        if attn.group_norm is not None:
            x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)
        source = x if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            source = attn.norm_encoder_hidden_states(source)
        mask = attn.prepare_attention_mask(attention_mask, source.shape[1], len(source))
        if mask is not None:
            mask = mask.unflatten(0, (len(x), attn.heads))
        query, key, value = (
            (layer(t) + scale * correction(t)).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, correction, t in (
                (attn.to_q, self.to_q_lora, x),
                (attn.to_k, self.to_k_lora, source),
                (attn.to_v, self.to_v_lora, source),
            )
        )
        out = functional.scaled_dot_product_attention(query, key, value, mask, scale=attn.scale)
        out = out.transpose(1, 2).flatten(2).to(query.dtype)
        out = attn.to_out[1](attn.to_out[0](out) + scale * self.to_out_lora(out))
        if len(shape) == 4:
            out = out.transpose(1, 2).reshape(shape)
        if attn.residual_connection:
            out = out + hidden_states
        return out / attn.rescale_output_factor


def keep_scale(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A U-Net's forward that hands `cross_attention_kwargs["scale"]` to the processors above.

    It travels under another name, as an argument: nothing is remembered between calls, so threads may share a U-Net.
    """

    @functools.wraps(forward)
    def inner(self: Any, *args: Any, **kwargs: Any) -> Any:
        given = kwargs.get("cross_attention_kwargs")
        if given and "scale" in given:
            ours = [isinstance(one, LoRAAttnProcessor) for one in self.attn_processors.values()]
            if all(ours):
                rest = {name: value for name, value in given.items() if name != "scale"}
                kwargs["cross_attention_kwargs"] = {**rest, SCALE: given["scale"]}
            elif any(ours):
                raise ValueError(
                    "all attention processors of a U-Net must be LoRAAttnProcessor for `scale` to reach them, got a "
                    "mixture; set them all"
                )
        return forward(self, *args, **kwargs)

    return inner


def install() -> list[tuple[str, str]]:
    """Put both into diffusers where its release lacks them; what was done and why."""
    import diffusers
    from diffusers.models import attention_processor
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    found = getattr(attention_processor, "LoRAAttnProcessor", None)
    if isinstance(found, type) and issubclass(found, torch.nn.Module):
        return []
    attention_processor.LoRAAttnProcessor = LoRAAttnProcessor
    UNet2DConditionModel.forward = keep_scale(UNet2DConditionModel.forward)
    release = f"diffusers {diffusers.__version__}"
    return [
        ("LoRAAttnProcessor", f"{release} has only its name"),
        ("scale of cross_attention_kwargs", f"{release} drops it before attention"),
    ]
