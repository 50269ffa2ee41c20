"""A run writes what the design says, where it says, and nowhere else."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from dreamprop import checkpoint
from dreamprop.cli import main
from dreamprop.runs.artifacts import mesh as meshes
from dreamprop.runs.artifacts.config import ExportConfig
from tests.cli.runs import final, same, summary

Cli = Callable[..., int]
Refused = Callable[[int], str]
FOLDER = Path("outputs/toy/a_red_sphere")


def test_a_run_writes_all_it_should(cli: Cli, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli("--train") == 0
    assert sorted({p.name for p in FOLDER.iterdir()} - {"tensorboard"}) == [
        "checkpoints", "config.yaml", "mesh.glb", "mesh.obj", "metrics.csv", "summary.json", "turntable.gif",
        "views.png",
    ]  # fmt: skip
    told = summary(FOLDER)
    expected = {
        "prompt", "method", "steps", "rounds", "drifts", "speedup_rounds", "wall_seconds", "seconds_per_step",
        "window", "tolerance", "evaluator", "world_size", "device", "dtype", "seed", "versions",
    }  # fmt: skip
    assert expected <= told.keys()
    assert told["steps"] == 40 and told["window"] == 8 and told["world_size"] == 1
    assert told["evaluator"] == "batched" and told["dtype"] == "float32" and told["device"] == "cpu"
    assert told["rounds"] < 40 and told["speedup_rounds"] == 40 / told["rounds"]
    assert told["seconds_per_step"] == pytest.approx(told["wall_seconds"] / 40)
    with (FOLDER / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == told["rounds"] and int(rows[-1]["step"]) == 40
    assert sum(int(row["stride"]) for row in rows) == 40
    assert sum(int(row["drifts"]) for row in rows) == told["drifts"]
    assert all(float(row["error"]) <= 1.0 for row in rows)
    with Image.open(FOLDER / "turntable.gif") as turn:
        assert turn.n_frames == 4 and turn.size == (32, 32) and turn.info["loop"] == 0
    with Image.open(FOLDER / "views.png") as views:
        assert views.size == (4 * 32, 32)
    saved = sorted(p.name for p in (FOLDER / "checkpoints").glob("*.safetensors"))
    assert saved == kept_checkpoints(rows)
    assert str(FOLDER / "turntable.gif") in capsys.readouterr().out
    assert sorted(p.name for p in place.iterdir()) == ["outputs", "toy.yaml"]


def kept_checkpoints(rows: list[dict[str, str]]) -> list[str]:
    """The first round end at or after each tenth step, and the last step; the two newest of them."""
    ends = [int(row["step"]) for row in rows]
    saved = {next(end for end in ends if end >= tenth) for tenth in (10, 20, 30, 40)}
    return [f"step-{step:06d}.safetensors" for step in sorted(saved)[-2:]]


def test_the_mesh_is_the_level_set_with_its_colours(cli: Cli) -> None:
    assert cli("--train", "export.resolution=48", "trainer.max_steps=60") == 0
    radius = float(final(FOLDER)["radius"])
    # 50 sigmoid(30 (r - |p|)) = 5 where |p| = r + ln(9) / 30
    surface = radius + np.log(9) / 30
    mesh = trimesh.load(FOLDER / "mesh.obj", process=False)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * surface**3, rel=0.02)
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(surface, abs=0.01)
    outward = (mesh.face_normals * mesh.triangles_center).sum(1)
    assert (outward > 0).all()
    colors = mesh.visual.vertex_colors[:, :3] / 255
    assert np.abs(colors - final(FOLDER)["color"].clamp(0, 1).numpy()).max() < 1 / 255
    glb = trimesh.load(FOLDER / "mesh.glb", process=False).to_mesh()
    assert glb.volume == pytest.approx(mesh.volume, rel=1e-4)
    assert glb.is_watertight and len(glb.vertices) == len(mesh.vertices)
    assert np.abs(glb.visual.to_color().vertex_colors[:, :3] / 255 - colors[0]).max() < 1 / 255


def two_balls(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A red ball on a blue one with a hollow in it, and a crumb beside them."""

    def ball(z: float, radius: float, x: float = 0.0) -> torch.Tensor:
        return torch.sigmoid((radius - (points - torch.tensor([x, 0.0, z])).norm(dim=-1)) * 60)

    density = 50 * (ball(0.4, 0.35) + ball(-0.4, 0.45) + ball(0.0, 0.06, 0.8)) * (1 - ball(-0.4, 0.2))
    return density, torch.where(
        points[:, 2:] > 0, torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9])
    )


def all_colors(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return two_balls(points)[0], (points + 1) / 2


@pytest.mark.parametrize(("field", "off"), [(two_balls, 1.5), (all_colors, 12)])
def test_a_mesh_is_its_largest_part_in_its_colours(field: Callable, off: float, tmp_path: Path) -> None:
    """Two colours lie in one slice of the texture, all colours in several: between two, vertices are doubled."""
    made = meshes.extract(field, 1.0, ExportConfig(resolution=48))
    assert made.is_watertight and made.body_count == 1
    assert np.abs(made.vertices[:, 0]).max() < 0.6
    obj, glb = (trimesh.load(path, process=False) for path in meshes.write(tmp_path, made))
    glb = glb.to_mesh()
    for mesh in (obj, glb):
        assert mesh.volume == pytest.approx(made.volume, rel=1e-4)
    place = torch.from_numpy(np.asarray(glb.vertices[:, [2, 0, 1]], dtype=np.float32))
    wanted = field(place)[1].clamp(0, 1).numpy() * 255
    assert np.abs(glb.visual.to_color().vertex_colors[:, :3] - wanted).max() < off
    assert glb.visual.material.metallicFactor == 0 and glb.visual.material.roughnessFactor == 1
    if field is two_balls:
        assert glb.is_watertight and glb.body_count == 1 and len(glb.vertices) == len(obj.vertices)
    glb.merge_vertices(merge_tex=True, merge_norm=True)
    assert glb.is_watertight and glb.body_count == 1
    kept = meshes.extract(field, 1.0, ExportConfig(resolution=48, smallest_part=0.0))
    assert kept.body_count == 2  # the crumb too, and no hollow


def test_the_same_config_gives_the_same_bits(cli: Cli) -> None:
    assert cli("--train", "tag=a") == cli("--train", "tag=b") == 0
    assert same(Path("outputs/toy/a"), Path("outputs/toy/b"))


@pytest.mark.parametrize("exact", ["parallel.window=1", "parallel.tolerance=0"])
def test_exact_settings_equal_the_baseline(cli: Cli, exact: str) -> None:
    assert cli("--train", "--baseline", "tag=baseline") == 0
    assert cli("--train", exact, "tag=exact") == 0
    assert same(Path("outputs/toy/baseline"), Path("outputs/toy/exact"))
    assert summary(Path("outputs/toy/baseline"))["window"] == 1
    assert summary(Path("outputs/toy/exact"))["evaluator"] == "serial"


def test_export_writes_the_mesh_of_a_run(cli: Cli) -> None:
    assert cli("--train") == 0
    for name in ("mesh.obj", "mesh.glb"):
        (FOLDER / name).unlink()
    assert main(["--config", str(FOLDER / "config.yaml"), "--export", "--resume", str(FOLDER)]) == 0
    assert (FOLDER / "mesh.obj").stat().st_size > 1000 and (FOLDER / "mesh.glb").stat().st_size > 1000


def test_a_scene_without_a_surface(
    cli: Cli, refused: Refused, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOY_EMPTY", "1")
    assert cli("--train") == 0
    assert "no mesh: export.threshold must be below the highest density 0" in capsys.readouterr().err
    assert summary(FOLDER)["mesh"] == []
    assert "export.threshold" in refused(cli("--export", "--resume", str(FOLDER)))


def test_a_drift_that_is_not_finite_is_an_error_of_the_run(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOY_NAN", "23")
    assert cli("--train") == 1
    told = capsys.readouterr().err
    assert "step 23" in told and "Traceback" not in told
    assert checkpoint.load(checkpoint.latest(FOLDER / "checkpoints"))[0].step == 23


def test_compare_writes_a_report(cli: Cli) -> None:
    assert cli("--compare") == 0
    report = json.loads((FOLDER / "report.json").read_text())
    assert {
        "baseline", "accelerated", "speedup_wall", "speedup_rounds", "psnr_db", "ssim", "seed_noise_psnr_db",
    } <= report.keys()  # fmt: skip
    assert report["baseline"]["rounds"] == 40 and report["accelerated"]["window"] == 8
    assert report["speedup_rounds"] == 40 / report["accelerated"]["rounds"]
    assert report["psnr_db"] > report["seed_noise_psnr_db"]
    assert report["other_noise"]["seed"] == 1
    page = (FOLDER / "report.html").read_text()
    assert page.count("data:image/gif;base64,") == 3 and page.count("data:image/png;base64,") == 3
    assert "<svg" in page and 'src="http' not in page and "a red sphere" in page
    assert "MiB" in page and "occupied cells" not in page
    assert report["accelerated"]["audit"]["count"] >= 1 and "Accelerated run, audit: drifts used" in page
    radii = set()
    for key, folder in {
        "baseline": FOLDER / "baseline",
        "accelerated": FOLDER,
        "other_noise": FOLDER / "other_noise",
    }.items():
        assert {"summary.json", "metrics.csv", "turntable.gif", "views.png", "mesh.obj", "mesh.glb"} <= {
            p.name for p in folder.iterdir()
        }
        told = summary(folder)
        assert report[key] == told and told["mesh"] == ["mesh.obj", "mesh.glb"]
        assert told["peak_memory_bytes"] is None or told["peak_memory_bytes"] > 2**20
        radii.add(trimesh.load(folder / "mesh.obj", process=False).volume)
    assert len(radii) == 3  # each run its own surface


def test_compare_of_equal_runs_is_a_number(cli: Cli) -> None:
    assert cli("--compare", "parallel.window=1") == 0
    report = json.loads((FOLDER / "report.json").read_text())
    assert report["identical"] is True and report["psnr_db"] == 100.0 and report["ssim"] == pytest.approx(1)
    page = (FOLDER / "report.html").read_text()
    assert "bit for bit" in page and "no accepted step was looked at" in page


def test_a_preview_is_drawn_on_the_way(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    from dreamprop.runs.artifacts import images

    write = images.write_bytes
    monkeypatch.setattr(
        images, "write_bytes", lambda path, data: seen.append((path.name, data)) or write(path, data)
    )
    assert cli("--train", "output.preview_every_n_steps=10", "output.preview_size=16") == 0
    previews = [Image.open(io.BytesIO(data)) for name, data in seen if name == "preview.png"]
    assert [picture.size for picture in previews] == [(4 * 16, 16)] * 3
    assert not (FOLDER / "preview.png").exists()
