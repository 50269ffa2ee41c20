"""Pinhole cameras around the origin, in threestudio's conventions: right-handed, z up, azimuth 0 in front on +x.

Legend: W states, B cameras a state, N cameras, H and V pixels down and across; angles in degrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

UNIFORMS, NORMALS = 9, 9
"""How many draws a camera takes of each kind."""


@dataclass(frozen=True)
class Ranges:
    """Where cameras and lights may be."""

    elevation: Sequence[float] = (-10.0, 90.0)
    azimuth: Sequence[float] = (-180.0, 180.0)
    batch_uniform_azimuth: bool = True
    distance: Sequence[float] = (1.0, 1.5)
    fovy: Sequence[float] = (40.0, 70.0)
    camera_perturb: float = 0.0
    center_perturb: float = 0.0
    up_perturb: float = 0.0
    light_distance: Sequence[float] = (0.8, 1.5)
    light_position_perturb: float = 1.0


@dataclass(frozen=True)
class Cameras:
    """N cameras and their lights."""

    elevation: Tensor
    """[N] angles above the horizon, in degrees."""
    azimuth: Tensor
    """[N] angles around the vertical axis, in degrees; 0 is in front of the object."""
    distance: Tensor
    """[N] from the origin, before perturbations"""
    position: Tensor
    """[N, 3] places of the cameras."""
    axes: Tensor
    """[N, 3, 3] rows: to the right, up, and back from the scene to the camera, in world coordinates"""
    fovy: Tensor
    """[N] vertical field of view"""
    light: Tensor
    """[N, 3] place of the light"""


def draw(batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The draws behind `batch` cameras: uniform [B, UNIFORMS] and standard normal [B, NORMALS]."""
    return torch.rand(batch, UNIFORMS, generator=generator), torch.randn(batch, NORMALS, generator=generator)


def direction(elevation: Tensor, azimuth: Tensor) -> Tensor:
    """Unit vectors [..., 3] from the origin towards elevations and azimuths [...]."""
    e, a = elevation.deg2rad(), azimuth.deg2rad()
    return torch.stack([e.cos() * a.cos(), e.cos() * a.sin(), e.sin()], -1)


def look_at(position: Tensor, center: Tensor, up: Tensor) -> Tensor:
    """Axes [N, 3, 3] (right, up, back) of cameras at `position` that look at `center`; all [N, 3]."""
    back = F.normalize(position - center, dim=-1)
    right = F.normalize(torch.linalg.cross(up, back), dim=-1)
    return torch.stack([right, torch.linalg.cross(back, right), back], -2)


def _upright(like: Tensor) -> Tensor:
    """The z axis [N, 3], made where `like` [N, 3] is."""
    up = torch.zeros_like(like)
    up[..., 2] = 1.0
    return up


def orbit(elevation: Tensor, azimuth: Tensor, distance: Tensor, fovy: Tensor) -> Cameras:
    """Unperturbed cameras that look at the origin, each with its light at its own place; all [N]."""
    position = direction(elevation, azimuth) * distance[:, None]
    axes = look_at(position, torch.zeros_like(position), _upright(position))
    return Cameras(elevation, azimuth, distance, position, axes, fovy, position)


def place(uniform: Tensor, normal: Tensor, ranges: Ranges) -> Cameras:
    """Cameras from draws, as threestudio's random cameras with DreamFusion's lights (arXiv:2209.14988, section 3.2).

    Args:
        uniform: [W, B, UNIFORMS] in [0, 1).
        normal: [W, B, NORMALS].
        ranges: where to place them.

    Returns:
        W * B cameras, those of one state together.
    """
    batch = uniform.shape[1]
    u = uniform.unbind(-1)  # each [W, B]
    low, high = ranges.elevation
    # half of them uniform in the angle, half uniform on the sphere
    lowest, highest = torch.tensor([low, high]).deg2rad().sin()  # scalars on the CPU: arguments of kernels
    on_sphere = (lowest + (highest - lowest) * u[1]).clamp(-1, 1).asin().rad2deg()
    elevation = torch.where(u[0] < 0.5, low + (high - low) * u[1], on_sphere)
    share = u[2]
    if ranges.batch_uniform_azimuth:
        share = (share + torch.arange(batch, device=share.device)) / batch
    azimuth = ranges.azimuth[0] + (ranges.azimuth[1] - ranges.azimuth[0]) * share
    distance = ranges.distance[0] + (ranges.distance[1] - ranges.distance[0]) * u[3]
    fovy = ranges.fovy[0] + (ranges.fovy[1] - ranges.fovy[0]) * u[4]
    light_distance = ranges.light_distance[0] + (ranges.light_distance[1] - ranges.light_distance[0]) * u[5]
    elevation, azimuth, distance, fovy, light_distance = (
        x.reshape(-1) for x in (elevation, azimuth, distance, fovy, light_distance)
    )
    steady = orbit(elevation, azimuth, distance, fovy)
    shift = uniform[..., 6:9].reshape(-1, 3) * 2 - 1
    n_center, n_up, n_light = normal.reshape(-1, NORMALS).split(3, dim=-1)
    position = steady.position + ranges.camera_perturb * shift
    up = F.normalize(ranges.up_perturb * n_up + _upright(n_up), dim=-1)
    axes = look_at(position, ranges.center_perturb * n_center, up)
    light = F.normalize(position + ranges.light_position_perturb * n_light, dim=-1) * light_distance[:, None]
    return Cameras(elevation, azimuth, distance, position, axes, fovy, light)


def rays(cameras: Cameras, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rays through the centres of pixels, row by row from the top left.

    Returns:
        origins [N, 3] and unit directions [N, H * V, 3].
    """
    device = cameras.position.device
    half = (cameras.fovy.deg2rad() / 2).tan()  # [N]
    across = (torch.arange(width, device=device) + 0.5 - width / 2) / (height / 2)
    down = (torch.arange(height, device=device) + 0.5 - height / 2) / (height / 2)
    v, u = torch.meshgrid(-down, across, indexing="ij")
    plane = torch.stack([u.reshape(-1), v.reshape(-1)], -1) * half[:, None, None]  # [N, HV, 2]
    towards = torch.cat([plane, plane.new_full((*plane.shape[:2], 1), -1.0)], -1)
    return cameras.position, F.normalize(towards @ cameras.axes, dim=-1)


def project(cameras: Cameras, points: Tensor, height: int, width: int) -> Tensor:
    """Where points [P, 3] fall in the pictures: columns and rows [N, P, 2] in pixels, the first centre at 0.5."""
    local = (points[None] - cameras.position[:, None]) @ cameras.axes.transpose(1, 2)  # [N, P, 3]
    scale = height / 2 / (cameras.fovy.deg2rad() / 2).tan()[:, None] / -local[..., 2]
    return torch.stack([width / 2 + local[..., 0] * scale, height / 2 - local[..., 1] * scale], -1)


def pose(cameras: Cameras) -> Tensor:
    """Matrices from camera to world [N, 16]: columns to the right, up, back, and the place; homogeneous, row by row."""
    top = torch.cat([cameras.axes.transpose(1, 2), cameras.position[:, :, None]], -1)  # [N, 3, 4]
    last = torch.zeros_like(top[:, :1])
    last[..., 3] = 1.0
    return torch.cat([top, last], 1).flatten(1)
