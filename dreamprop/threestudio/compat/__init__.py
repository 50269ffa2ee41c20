"""What lets an unmodified threestudio be imported and run here: `install` it once a process, before anything of it.

    report = install(Path("~/threestudio").expanduser(), "cpu")
    import threestudio

Each stand-in is used only where the real thing cannot be imported, or cannot run on the device, and is in the report.
"""

from dreamprop.threestudio.compat.install import Report, StandIn, install
from dreamprop.threestudio.compat.optional_modules import MissingModule

__all__ = ["MissingModule", "Report", "StandIn", "install"]
