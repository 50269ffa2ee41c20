"""LoRA in a U-Net's attention is attention with merged weights, of the scale that is asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dreamprop.threestudio.compat import lora


def attention(cross: int | None, group: bool) -> Any:
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)
    return Attention(
        query_dim=16,
        cross_attention_dim=cross,
        heads=2,
        dim_head=8,
        norm_num_groups=4 if group else None,
        residual_connection=group,
        rescale_output_factor=1.5,
    ).double()


@pytest.mark.parametrize(("cross", "group", "shape"), [(None, True, (2, 16, 3, 3)), (12, False, (2, 5, 16))])
@pytest.mark.parametrize("scale", [0.0, 0.7, None])
def test_lora_attention_is_attention_with_merged_weights(
    cross: int | None, group: bool, shape: tuple[int, ...], scale: float | None
) -> None:
    """`W + scale up down` in diffusers' own processor gives the same, to rounding in float64."""
    from diffusers.models.attention_processor import AttnProcessor

    layer = attention(cross, group)
    processor = lora.LoRAAttnProcessor(16, cross, rank=3).double()
    for correction in processor.children():
        nn.init.normal_(correction.up.weight)
    x = torch.randn(shape, dtype=torch.float64)
    source = None if cross is None else torch.randn(2, 7, cross, dtype=torch.float64)
    mask = None if cross is None else torch.zeros(2, 1, 7, dtype=torch.float64)
    if mask is not None:
        mask[:, :, 5:] = -1e4
    layer.set_processor(processor)
    asked = {} if scale is None else {"lora_scale": scale}
    found = layer(x, source, mask, **asked)
    for name, weight in (("q", layer.to_q), ("k", layer.to_k), ("v", layer.to_v), ("out", layer.to_out[0])):
        low = getattr(processor, f"to_{name}_lora")
        weight.weight.data += (1.0 if scale is None else scale) * low.up.weight.data @ low.down.weight.data
    layer.set_processor(AttnProcessor())
    torch.testing.assert_close(found, layer(x, source, mask), rtol=0, atol=1e-10)


def test_lora_begins_as_nothing_and_has_the_old_names() -> None:
    processor = lora.LoRAAttnProcessor(16, 12)
    names = {f"to_{part}_lora.{side}.weight" for part in ("q", "k", "v", "out") for side in ("down", "up")}
    assert set(processor.state_dict()) == names
    assert processor.to_k_lora.down.weight.shape == (4, 12)
    assert not any(one.up.weight.any() for one in processor.children())
    with pytest.raises(ValueError, match="lower it"):
        lora.LoRAAttnProcessor(16, 12, rank=13)


def test_scale_reaches_the_attention_of_a_unet() -> None:
    """Scale 0 is the U-Net without corrections, scale 1 is not; a plain U-Net is left alone."""
    from diffusers import UNet2DConditionModel

    class Kept(UNet2DConditionModel):
        forward = lora.keep_scale(UNet2DConditionModel.forward)

    torch.manual_seed(0)
    unet = Kept(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
    )
    x, t, text = torch.randn(1, 4, 8, 8), torch.tensor([10]), torch.randn(1, 3, 16)

    def ask(scale: float | None) -> Tensor:
        with torch.no_grad():
            given = None if scale is None else {"scale": scale}
            return unet(x, t, encoder_hidden_states=text, cross_attention_kwargs=given).sample

    plain = ask(None)
    assert torch.equal(ask(1.0), plain)
    unet.set_attn_processor(
        {name: lora.LoRAAttnProcessor(16, 16 if "attn2" in name else None) for name in unet.attn_processors}
    )
    for part in unet.modules():
        if isinstance(part, lora.LowRank):
            nn.init.normal_(part.up.weight)
    torch.testing.assert_close(ask(0.0), plain)
    assert not torch.allclose(ask(1.0), plain, atol=1e-3)
    assert torch.equal(ask(1.0), ask(None))
    half = (ask(0.5) - plain).norm() / (ask(1.0) - plain).norm()
    assert 0.05 < half < 0.95
