"""The surface of a result as files other programs read: `mesh.obj` and `mesh.glb`, coloured by vertex.

Legend: N points, V vertices, F faces, R grid points along a side.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import trimesh
from skimage.measure import marching_cubes
from torch import Tensor

from dreamprop.config import InputError
from dreamprop.files import replacing
from dreamprop.settings import ExportConfig

Field = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Points [N, 3] to density [N] (per unit of length) and colour [N, 3] in [0, 1]."""

CHUNK = 65536
"""Points asked of the field at once."""


class EmptySurface(InputError):
    """The density reaches the threshold nowhere."""


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
    mesh = _drop_crumbs(mesh, config.smallest_part)
    points = torch.from_numpy(np.asarray(mesh.vertices, dtype=np.float32))
    rgb = torch.cat([field(part)[1].float().cpu() for part in points.split(CHUNK)]).clamp(0, 1)
    alpha = torch.ones(len(rgb), 1)
    colors = torch.cat([rgb, alpha], 1).mul(255).round().byte().numpy()
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=colors)
    return mesh


def _drop_crumbs(mesh: trimesh.Trimesh, smallest: float) -> trimesh.Trimesh:
    """Leave out connected parts with less than a share of the faces."""
    labels = trimesh.graph.connected_component_labels(mesh.face_adjacency, node_count=len(mesh.faces))
    share = np.bincount(labels) / len(labels)
    kept = share >= min(smallest, share.max())
    mesh.update_faces(kept[labels])
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
    turned = mesh.copy()
    # (x, y, z) -> (y, z, x): a rotation that takes up (z) to y and the front (x) to z.
    turned.vertices = np.asarray(mesh.vertices)[:, [1, 2, 0]]
    assert isinstance(mesh.visual, trimesh.visual.ColorVisuals)
    srgb = np.asarray(mesh.visual.vertex_colors, dtype=np.float64) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear[:, 3] = srgb[:, 3]
    turned.visual = trimesh.visual.ColorVisuals(turned, vertex_colors=np.round(linear * 255).astype(np.uint8))
    content = trimesh.exchange.gltf.export_glb(
        trimesh.Scene(turned), include_normals=True, tree_postprocessor=_matte
    )
    with replacing(glb) as beside:
        beside.write_bytes(content)
    return [obj, glb]


def _matte(tree: dict) -> None:
    """Give every part a matte material: glTF's default is bare metal, which viewers show dark."""
    material = {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}, "doubleSided": True}
    tree["materials"] = [material]
    for mesh in tree["meshes"]:
        for primitive in mesh["primitives"]:
            primitive["material"] = 0
