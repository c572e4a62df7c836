"""The command line: what `python -m curl COMMAND` does, with Hydra behind `train`."""

from pathlib import Path

CONFIGS = Path(__file__).parents[1] / "configs"
"""The folder of the YAML files: a link to `configs/` in a clone, a real folder once installed."""
