"""Cameras as splatting takes them, in gsplat's conventions: two matrices each, that look along +z, y down.

Legend: W states, B pictures a state.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dreamprop.scenes.cameras import Cameras


@dataclass(frozen=True)
class CameraMatrices:
    """The cameras of W states, and the size of their pictures."""

    viewmats: Tensor
    """[W, B, 4, 4] from the world to a camera that looks along +z, y down."""
    ks: Tensor
    """[W, B, 3, 3] from there to pixels."""
    width: int
    """Of a picture in pixels."""
    height: int
    """Of a picture in pixels."""


def matrices(cameras: Cameras, states: int, height: int, width: int) -> CameraMatrices:
    """The matrices of W B cameras, those of a state together, for pictures of so many pixels.

    Args:
        cameras: those of all states.
        states: W.
        height, width: in pixels.
    """
    right, up, back = cameras.axes.unbind(1)
    turn = torch.stack([right, -up, -back], 1)
    shift = -(turn @ cameras.position[..., None])
    last = torch.zeros_like(cameras.axes[:, :1, :1]).expand(-1, 1, 4).clone()
    last[..., 3] = 1
    viewmats = torch.cat([torch.cat([turn, shift], 2), last], 1)
    focal = height / 2 / (cameras.fovy.deg2rad() / 2).tan()
    ks = torch.zeros_like(cameras.axes)
    ks[:, 0, 0], ks[:, 1, 1], ks[:, 2, 2] = focal, focal, 1
    ks[:, 0, 2], ks[:, 1, 2] = width / 2, height / 2
    return CameraMatrices(viewmats.unflatten(0, (states, -1)), ks.unflatten(0, (states, -1)), width, height)
