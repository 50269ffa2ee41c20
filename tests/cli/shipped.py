"""The config of DreamFusion as it is shipped, and where its optimiser's options are."""

from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
METHOD = REPOSITORY / "configs" / "dreamfusion.yaml"
OPTIMIZER = "system.optimizer.args"
