"""The settings of what a run shows: its pictures and its mesh."""

from dataclasses import dataclass

from dreamprop.config.validate import number


@dataclass(frozen=True)
class OutputConfig:
    """The pictures of a run."""

    views: int = 8
    """Views in `views.png` and for the judge, evenly around the object."""
    view_size: int = 256
    """Pixels along a side of a view."""
    elevation: float = 25.0
    """Height of the cameras of all pictures, in degrees."""
    turntable_frames: int = 24
    """Frames of one turn."""
    turntable_size: int = 256
    """Pixels along a side of a frame."""
    turntable_fps: int = 12
    """Frames a second."""
    preview_every_n_steps: int = 50
    """Steps between two pictures `preview.png` while the run goes on; 0: none."""
    preview_size: int = 128
    """Pixels along a side of its four views."""

    def __post_init__(self) -> None:
        for name, high in (
            ("views", 1000), ("view_size", 8192), ("turntable_frames", 10_000), ("turntable_size", 8192),
            ("turntable_fps", 100), ("preview_size", 8192),
        ):  # fmt: skip
            number(f"output.{name}", getattr(self, name), 1, high, whole=True)
        number("output.elevation", self.elevation, -90, 90, unit="degrees", remedy="use 25")
        every = self.preview_every_n_steps
        number("output.preview_every_n_steps", every, 0, 1e9, whole=True, remedy="use 0 for none")


@dataclass(frozen=True)
class ExportConfig:
    """How the surface is taken out of a density."""

    resolution: int = 96
    """Grid points along a side of the cube."""
    threshold: float = 5.0
    """Density of the surface, per unit of length."""
    smallest_part: float = 0.1
    """Loose parts that enclose a smaller share of what the largest one does are left out."""

    def __post_init__(self) -> None:
        number("export.resolution", self.resolution, 8, 1024, whole=True, remedy="use 96")
        number("export.threshold", self.threshold, 0, above=True, remedy="use 5")
        number("export.smallest_part", self.smallest_part, 0, 1, below=True, remedy="use 0.1")
