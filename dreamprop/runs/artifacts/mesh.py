"""The surface of a result as files other programs read: `mesh.obj`, coloured by vertex, and `mesh.glb`, by texture.

Legend: N points, V vertices, F faces, R grid points along a side.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from PIL import Image
from skimage.measure import marching_cubes
from torch import Tensor

from dreamprop.config.loader import InputError
from dreamprop.runs.artifacts.config import ExportConfig
from dreamprop.state import State
from dreamprop.utils.atomic_io import replacing

Field = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points [N, 3] to density [N] (per unit of length) and colour [N, 3] in [0, 1]."""

CHUNK = 65536
"""Points asked of the field at once."""
TEXELS = 256
"""Texels along a side of a slice of colours."""
SLICE = 16 / 255
"""Distance between two slices of colours, in RGB from 0 to 1."""


class EmptySurface(InputError):
    """The density reaches the threshold nowhere."""


def write_mesh(
    process: Any, state: State, config: ExportConfig, device: torch.device, place: Path
) -> list[Path]:
    """Write `mesh.obj` and `mesh.glb` of a state.

    Args:
        process: has `density_and_color(state, points)` and `bound`.
        state: the result.
        config: how fine, and at what density.
        device: where the state is.
        place: the folder to write into.

    Returns:
        The files written.

    Raises:
        EmptySurface: the density reaches the threshold nowhere.
        InputError: the disk refused.
    """

    def field(points: Tensor) -> tuple[Tensor, Tensor]:
        density, color = process.density_and_color(state, points.to(device))
        return density, color

    return write(place, extract(field, float(process.bound), config))


def write_mesh_if_any(
    process: Any, state: State, config: ExportConfig, device: torch.device, place: Path
) -> list[str]:
    """The names of what `write_mesh` writes; a scene without a surface is told, but no error of a run that is done."""
    try:
        return [path.name for path in write_mesh(process, state, config, device, place)]
    except EmptySurface as error:
        print(f"no mesh: {error}", file=sys.stderr)
        return []


def extract(field: Field, bound: float, config: ExportConfig) -> trimesh.Trimesh:
    """The level set `density = threshold` by marching cubes, with the field's colour at each vertex.

    Args:
        field: density and colour at points.
        bound: half the side of the cube, which is centred at 0.
        config: resolution and threshold.

    Returns:
        A mesh with V vertices in the field's coordinates (z up) and RGBA colours.

    Raises:
        EmptySurface: the density reaches the threshold nowhere.
    """
    side = np.linspace(-bound, bound, config.resolution, dtype=np.float32)
    grid = torch.from_numpy(np.stack(np.meshgrid(side, side, side, indexing="ij"), -1).reshape(-1, 3))
    density = torch.cat([field(points)[0].float().cpu() for points in grid.split(CHUNK)])
    volume = density.reshape((config.resolution,) * 3).numpy()
    # Outside of the cube there is nothing: a shell of zeros closes a surface that the cube would cut.
    volume = np.pad(volume, 1)
    highest = float(volume.max())
    if not highest > config.threshold:
        near = f"{highest / 2:.3g}" if highest > 0 else "a lower value"
        raise EmptySurface(
            f"export.threshold must be below the highest density {highest:.4g}, got {config.threshold:g}; "
            f"use export.threshold={near} or train for more steps"
        )
    step = 2 * bound / (config.resolution - 1)
    # The winding that makes normals point out of the object, where the density falls.
    corners, faces, _, _ = marching_cubes(
        volume, config.threshold, spacing=(step,) * 3, gradient_direction="ascent"
    )
    corners = np.clip(corners - step - bound, -bound, bound)
    mesh = trimesh.Trimesh(corners, faces, process=False)
    mesh = _largest(mesh, config.smallest_part)
    points = torch.from_numpy(np.asarray(mesh.vertices, dtype=np.float32))
    rgb = torch.cat([field(part)[1].float().cpu() for part in points.split(CHUNK)]).clamp(0, 1)
    alpha = torch.ones(len(rgb), 1)
    colors = torch.cat([rgb, alpha], 1).mul(255).round().byte().numpy()
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=colors)
    return mesh


def _largest(mesh: trimesh.Trimesh, smallest: float) -> trimesh.Trimesh:
    """The connected parts that enclose a share of what the largest one does; hollows inside of them are filled.

    Args:
        mesh: closed surfaces, whose normals point out of matter.
        smallest: the share of the largest volume from which on a part stays.
    """
    labels = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
    a, b, c = np.moveaxis(np.asarray(mesh.triangles, dtype=np.float64), 1, 0)  # [F, 3] each
    # the divergence theorem: the wall of a hollow has its normals inwards, and a volume below 0
    volumes = np.bincount(labels, weights=np.einsum("fi,fi->f", a, np.cross(b, c)) / 6)
    mesh.update_faces((volumes >= smallest * volumes.max())[labels] & (volumes > 0)[labels])
    mesh.remove_unreferenced_vertices()
    return mesh


def write(folder: Path, mesh: trimesh.Trimesh) -> list[Path]:
    """Write `mesh.obj` (z up, as the scene) and `mesh.glb` (y up, front towards +z, as glTF 2.0 has it).

    Returns:
        The files written.

    Raises:
        InputError: the disk refused.
    """
    obj, glb = folder / "mesh.obj", folder / "mesh.glb"
    text = trimesh.exchange.obj.export_obj(mesh, include_color=True, include_normals=True, header="dreamprop")
    with replacing(obj) as beside:
        beside.write_text(text, encoding="utf-8")
    content = trimesh.exchange.gltf.export_glb(trimesh.Scene(_turned(mesh)), include_normals=True)
    with replacing(glb) as beside:
        beside.write_bytes(content)
    return [obj, glb]


def _turned(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The mesh as glTF has it: y up, and its colours in a texture.

    Colours of vertices would do for some programs, but others show them only where there is no material, and glTF's
    material where there is none is bare metal. So the texture is a slice through the cube of all colours, along the
    plane that fits those of the mesh best: there a colour is a place, and what lies between two vertices is, on the
    texture as in colour, on the line between them. Colours farther from the plane than `SLICE` / 2 take a slice of
    their own, and vertices between two slices are doubled.
    """
    assert isinstance(mesh.visual, trimesh.visual.ColorVisuals)
    rgb = np.asarray(mesh.visual.vertex_colors, dtype=np.float64)[:, :3] / 255  # [V, 3]
    middle = (rgb.min(0) + rgb.max(0)) / 2
    axes = np.linalg.eigh(np.cov(rgb - middle, rowvar=False, bias=True))[1][
        :, ::-1
    ]  # [3, 3] columns, widest first
    place = (rgb - middle) @ axes
    faces = np.asarray(mesh.faces)
    level = np.rint(place[faces, 2].mean(1) / SLICE).astype(np.int64)  # [F]
    pairs = np.stack([faces.ravel(), np.repeat(level - level.min(), 3)], 1)
    pairs, corners = np.unique(pairs, axis=0, return_inverse=True)
    vertex, tile = pairs[:, 0], pairs[:, 1]

    low, high = place[:, :2].min(0), place[:, :2].max(0)
    wide = np.maximum(high - low, 1e-3)
    across, down = np.meshgrid(np.linspace(0, 1, TEXELS), np.linspace(0, 1, TEXELS))
    flat = np.stack([low[0] + across * wide[0], low[1] + down * wide[1]], -1)  # [T, T, 2]
    slices = [
        flat @ axes[:, :2].T + middle + SLICE * (level.min() + i) * axes[:, 2] for i in range(tile.max() + 1)
    ]
    texels = np.concatenate(slices).clip(0, 1)  # [tiles T, T, 3]
    inside = (place[vertex, :2] - low) / wide * (
        TEXELS - 1
    ) + 0.5  # from the centre of a texel to that of another
    u = inside[:, 0] / TEXELS
    v = 1 - (inside[:, 1] + tile * TEXELS) / len(texels)  # upwards, where rows go down

    matte = trimesh.visual.material.PBRMaterial(
        baseColorTexture=Image.fromarray(np.round(texels * 255).astype(np.uint8)),
        metallicFactor=0.0,
        roughnessFactor=1.0,
        doubleSided=True,
    )
    # (x, y, z) -> (y, z, x): a rotation that takes up (z) to y and the front (x) to z.
    return trimesh.Trimesh(
        np.asarray(mesh.vertices)[vertex][:, [1, 2, 0]],
        corners.reshape(-1, 3),
        vertex_normals=np.asarray(mesh.vertex_normals)[vertex][:, [1, 2, 0]],
        visual=trimesh.visual.TextureVisuals(uv=np.stack([u, v], 1), material=matte),
        process=False,
    )
