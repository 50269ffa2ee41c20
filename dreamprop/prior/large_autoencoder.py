"""An autoencoder that takes pictures of 512 pixels to the latents of 64-pixel ones, for pipelines that resize to 512.

Diffusers' `AsymmetricAutoencoderKL`, most of which is not trained but written down. The encoder has six levels; the
outer three hand on exact averages, so that everything behind them works on the picture in 64 pixels and can be trained
there. The decoder has four: it takes latents that were enlarged to 64 x 64, as threestudio enlarges them, makes a
picture of 64 pixels of them and hands it on, three times doubled by linear interpolation. (Six levels like the
encoder's would make pictures of 2048 pixels of those latents, at every step and mostly to be thrown away.)

Four identities make that possible in a network of residual blocks and convolutions:

    a residual block whose second convolution is zero is its shortcut, a matrix of channels;
    a convolution of stride 2 that looks at the pixels 2i to 2i + 2 is a mean of two with the weights 1/2, 1/2, 0;
    doubling by repetition and the weights 1/4, 1/2, 1/4 are linear interpolation;
    a group of channels (a, b, K, -K) has the standard deviation K / sqrt(2), up to (a² + b²) / 4K² of it, so that
    a normalised one is undone by constants; and x sigmoid(x) is x far to the right of zero.

Legend: N pictures; C channels. Pictures are in [-1, 1].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers import AsymmetricAutoencoderKL, AutoencoderKL
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from dreamprop.prior.stable_diffusion import SIZE

LARGE_SIZE = 512
"""Side of a picture in pixels."""
LATENT_SIZE = 64
"""Side of the latents that are decoded: those of the encoder, 16 wide, enlarged."""
OUTER = 3
"""Levels of the encoder, and of the decoder, that are written down: halvings from 512 pixels to 64."""
GROUPS = 2
"""Of every normalisation."""
HANDED = 4
"""Channels in which the encoder hands on the picture: three colours and a zero."""
HEIGHT = 16.0
"""K: of the two constant channels in each group behind the decoder's trained part."""
OFFSET = 10.0
"""How far to the right of zero the last normalisation moves everything."""
STEEP = 4.0
"""How much smaller it makes the constant channels, lest one of them is moved to the left of zero."""

_COLORS = (0, 1, HANDED)
"""Channels of the colours behind the decoder's trained part."""
_CONSTANTS = {2: HEIGHT, 3: -HEIGHT, HANDED + 2: HEIGHT, HANDED + 3: -HEIGHT}
"""Channels that are constant there."""


def make_large_autoencoder(
    seed: int, widths: tuple[int, ...] = (16, 32, 32), decoder: int = 16
) -> AsymmetricAutoencoderKL:
    """The autoencoder before its training: what is written down, and the rest drawn from a seed.

    Args:
        seed: of the rest; the global random state is left as it was.
        widths: channels of the encoder's inner levels.
        decoder: channels of the decoder's inner level.
    """
    outer = 2 * HANDED
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae: AsymmetricAutoencoderKL = AsymmetricAutoencoderKL(
            sample_size=LARGE_SIZE, latent_channels=4, norm_num_groups=GROUPS,
            down_block_out_channels=((HANDED,) * OUTER + tuple(widths)),
            up_block_out_channels=((outer,) * OUTER + (decoder,)),
            down_block_types=("DownEncoderBlock2D",) * (OUTER + len(widths)),
            up_block_types=("UpDecoderBlock2D",) * (OUTER + 1),
            scaling_factor=1.0,
        )  # fmt: skip
    with torch.no_grad():
        _without_attention(vae)
        _average(vae)
        _interpolate(vae)
    return vae.eval()


class Inner(nn.Module):
    """What is trained: the encoder's levels from 64 pixels on and the decoder's up to the picture in 64 pixels."""

    def __init__(self, vae: AsymmetricAutoencoderKL) -> None:
        """Take the parts of an autoencoder, which sees their training.

        The picture's matrix alone is a copy, out of a doubling, and `fold` puts it back.
        """
        super().__init__()
        encoder, decoder = vae.encoder, vae.decoder
        self.down = nn.ModuleList(encoder.down_blocks[OUTER:])
        self.down_mid = nn.ModuleList(encoder.mid_block.resnets)
        self.down_out = nn.Sequential(
            encoder.conv_norm_out, encoder.conv_act, encoder.conv_out, vae.quant_conv
        )
        self.up_in = nn.Sequential(vae.post_quant_conv, decoder.conv_in)
        self.up = nn.ModuleList([*decoder.mid_block.resnets, *decoder.up_blocks[0].resnets])
        doubling = decoder.up_blocks[0].upsamplers[0].conv
        self.picture = nn.Conv2d(doubling.in_channels, 3, 1)
        colors = list(_COLORS)
        self.picture.load_state_dict(
            {"weight": doubling.weight[colors].sum((2, 3), keepdim=True), "bias": doubling.bias[colors]}
        )

    def encode(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance, [N, 4, 16, 16] each, of pictures [N, 3, 64, 64]."""
        x = F.pad(pictures, (0, 0, 0, 0, 0, HANDED - 3))
        for block in self.down:
            x = block(x)
        for block in self.down_mid:
            x = block(x, None)
        mean, logvar = self.down_out(x).chunk(2, 1)
        return mean, logvar.clamp(-30.0, 20.0)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [N, 3, 64, 64] of latents [N, 4, 16, 16], which are enlarged first."""
        x = self.up_in(enlarged(latents))
        for block in self.up:
            x = block(x, None)
        found: Tensor = self.picture(x)
        return found

    @torch.no_grad()
    def begin_from(self, small: AutoencoderKL) -> None:
        """Take over the weights of the small encoder's parts that have the same shape."""
        theirs = {f"down.{k}": v for k, v in small.encoder.down_blocks.state_dict().items()}
        theirs |= {f"down_mid.{k}": v for k, v in small.encoder.mid_block.resnets.state_dict().items()}
        out = (small.encoder.conv_norm_out, small.encoder.conv_act, small.encoder.conv_out, small.quant_conv)
        theirs |= {f"down_out.{k}": v for k, v in nn.Sequential(*out).state_dict().items()}
        for name, mine in self.state_dict().items():
            if name in theirs and theirs[name].shape == mine.shape:
                mine.copy_(theirs[name])


def enlarged(latents: Tensor) -> Tensor:
    """Latents [N, 4, h, w] as threestudio has them decoded, [N, 4, 64, 64]."""
    return F.interpolate(latents, (LATENT_SIZE, LATENT_SIZE), mode="bilinear", align_corners=False)


@torch.no_grad()
def fold(vae: AsymmetricAutoencoderKL, inner: Inner) -> None:
    """Put the trained parts into the autoencoder: theirs are its own, and the picture's matrix goes into a doubling.

    Behind it each group of channels holds two colours, or one, and the two constants.
    """
    Inner(vae).load_state_dict(inner.state_dict())
    matrix, bias = inner.picture.weight[:, :, 0, 0], inner.picture.bias
    assert bias is not None
    doubling = vae.decoder.up_blocks[0].upsamplers[0].conv
    channels = torch.zeros(doubling.out_channels, doubling.in_channels)
    constant = torch.zeros(doubling.out_channels)
    for color, channel in enumerate(_COLORS):
        channels[channel], constant[channel] = matrix[color], bias[color]
    for channel, height in _CONSTANTS.items():
        constant[channel] = height
    doubling.weight.copy_(channels[:, :, None, None] * _tent())
    doubling.bias.copy_(constant)


def _without_attention(vae: AsymmetricAutoencoderKL) -> None:
    """Have the attention in the middle of either part add nothing."""
    for block in (vae.encoder.mid_block, vae.decoder.mid_block):
        for parameter in block.attentions[0].parameters():
            nn.init.zeros_(parameter)
    for parameter in vae.decoder.condition_encoder.parameters():
        nn.init.zeros_(parameter)  # never asked: it is for pictures with a hole


def _shortcut(block: ResnetBlock2D) -> None:
    """Make a residual block its shortcut, which hands on the first channels."""
    nn.init.zeros_(block.conv2.weight)
    nn.init.zeros_(block.conv2.bias)
    nn.init.zeros_(block.conv1.weight)
    nn.init.zeros_(block.conv1.bias)
    if block.conv_shortcut is not None:
        nn.init.dirac_(block.conv_shortcut.weight)
        nn.init.zeros_(block.conv_shortcut.bias)


def _average(vae: AsymmetricAutoencoderKL) -> None:
    """Write down the encoder's outer levels: means of 8 x 8 pixels."""
    encoder = vae.encoder
    nn.init.dirac_(encoder.conv_in.weight)
    nn.init.zeros_(encoder.conv_in.bias)
    taps = torch.tensor([0.5, 0.5, 0.0])
    for level in encoder.down_blocks[:OUTER]:
        for block in level.resnets:
            _shortcut(block)
        conv = level.downsamplers[0].conv
        conv.weight.copy_(torch.eye(HANDED)[:, :, None, None] * taps[:, None] * taps)
        nn.init.zeros_(conv.bias)


def _tent() -> Tensor:
    """The weights [3, 3] that make linear interpolation of a doubling by repetition."""
    taps = torch.tensor([0.25, 0.5, 0.25])
    return taps[:, None] * taps


def _interpolate(vae: AsymmetricAutoencoderKL) -> None:
    """Write down the decoder's outer levels: three doublings in all, and constants that undo the normalisation."""
    decoder = vae.decoder
    for level in decoder.up_blocks[1:]:
        for block in level.resnets:
            _shortcut(block)
        if level.upsamplers:
            conv = level.upsamplers[0].conv
            conv.weight.copy_(torch.eye(conv.out_channels)[:, :, None, None] * _tent())
            nn.init.zeros_(conv.bias)
            for channel, height in _CONSTANTS.items():  # at the edges, too, where the taps see zeros
                conv.weight[channel] = 0
                conv.bias[channel] = height
    norm, out = decoder.conv_norm_out, decoder.conv_out
    # a group's mean is half that of its colours and belongs to all of its channels: the constants tell it
    nn.init.constant_(norm.weight, HEIGHT / math.sqrt(2))
    nn.init.constant_(norm.bias, OFFSET)
    nn.init.zeros_(out.weight)
    nn.init.zeros_(out.bias)
    for channel in _CONSTANTS:
        norm.weight[channel] /= STEEP
    for color, channel in enumerate(_COLORS):
        group = channel // HANDED * HANDED
        out.weight[color, channel, 1, 1] = 1
        for constant in (group + 2, group + 3):
            out.weight[color, constant, 1, 1] = -STEEP / 2
    bent = [F.silu(torch.tensor(OFFSET + sign * HEIGHT / STEEP)) for sign in (-1, 1)]
    out.bias[:] = STEEP / 2 * sum(bent) - F.silu(torch.tensor(OFFSET))


def shrunk(pictures: Tensor) -> Tensor:
    """Pictures [N, C, 512, 512] as the trained part sees them, [N, C, 64, 64]."""
    return F.avg_pool2d(pictures, pictures.shape[-1] // SIZE)
