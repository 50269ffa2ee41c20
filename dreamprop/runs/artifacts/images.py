"""Pictures of a result: views side by side, a turntable. Legend: N views, H x W pixels, RGB in [0, 1]."""

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from dreamprop.utils.atomic_io import replacing


def to_bytes(views: Tensor) -> np.ndarray:
    """Views as 8-bit pixels, [N, H, W, 3]."""
    pixels = views.detach().float().clamp(0, 1).mul(255).round().byte()
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def side_by_side(views: Tensor, columns: int = 8) -> Image.Image:
    """Views in rows of at most `columns`, left to right and top to bottom."""
    pixels = to_bytes(views)
    count, height, width, _ = pixels.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for i, view in enumerate(pixels):
        y, x = divmod(i, columns)
        sheet[y * height : (y + 1) * height, x * width : (x + 1) * width] = view
    return Image.fromarray(sheet)


def png(image: Image.Image) -> bytes:
    """A picture as the bytes of a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def gif(views: Tensor, fps: int) -> bytes:
    """Views as the bytes of an animated GIF that goes round for ever."""
    frames = [Image.fromarray(frame) for frame in to_bytes(views)]
    # One palette for all frames: a palette each makes flat colours flicker.
    palette = side_by_side(views).quantize(colors=256, method=Image.Quantize.MEDIANCUT)
    frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    # GIF counts in hundredths of a second.
    duration = max(20, round(100 / fps) * 10)
    frames[0].save(
        buffer,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=duration,
        loop=0,
        optimize=False,
    )
    return buffer.getvalue()


def write_bytes(path: Path, content: bytes) -> Path:
    """Write bytes beside their place and rename them."""
    with replacing(path) as beside:
        beside.write_bytes(content)
    return path


def write_turntable(folder: Path, views: Tensor, fps: int) -> list[Path]:
    """Write `turntable.gif`, and `turntable.mp4` where the program ffmpeg is on the PATH.

    Args:
        folder: where to write.
        views: [N, 3, H, W], one turn.
        fps: frames a second.

    Returns:
        The files written.
    """
    written = [write_bytes(folder / "turntable.gif", gif(views, fps))]
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg:
        path = folder / "turntable.mp4"
        pixels = to_bytes(views)
        size = f"{pixels.shape[2]}x{pixels.shape[1]}"
        with replacing(path) as beside:
            command = [ffmpeg, "-loglevel", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size]
            command += ["-r", str(fps), "-i", "-", "-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2"]
            command += ["-pix_fmt", "yuv420p", "-f", "mp4", str(beside)]
            done = subprocess.run(command, input=pixels.tobytes(), capture_output=True, check=False)
            if done.returncode:
                raise OSError(done.stderr.decode(errors="replace").strip() or "ffmpeg failed")
        written.append(path)
    return written
