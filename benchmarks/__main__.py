"""`python -m benchmarks [--images N]`: measure, show, write JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks import main_path

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run every measurement."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()
    figures = main_path.measure(images=arguments.images)
    main_path.show(figures)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "main_path.json").write_text(json.dumps(figures, indent=2) + "\n")


main()
