"""`python -m benchmarks [NAME ...] [--images N]`: measure, show, write JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks import (
    accuracy,
    attacks,
    choice,
    closed_form,
    decoders,
    deletion_streams,
    feature_prompts,
    features,
    fence,
    forgetting,
    heads,
    intake,
    main_path,
    prompt_variants,
    quality,
    redis_away,
    retrain,
    scale,
    soak,
    tiers,
)
from benchmarks.serving import deletions, gpu, swaps, table

RESULTS = Path(__file__).parent / "results"
MEASUREMENTS = {
    "accuracy": accuracy,
    "main_path": main_path,
    "forgetting": forgetting,
    "intake": intake,
    "decoders": decoders,
    "closed_form": closed_form,
    "heads": heads,
    "quality": quality,
    "features": features,
    "choice": choice,
    "feature_prompts": feature_prompts,
    "tiers": tiers,
    "prompt_variants": prompt_variants,
    "fence": fence,
    "deletion_streams": deletion_streams,
    "scale": scale,
    "redis_away": redis_away,
    "retrain": retrain,
    "soak": soak,
    "serving": table,
    "deletions_under_load": deletions,
    "swaps": swaps,
    "attacks": attacks,
    "serving_gpu": gpu,
}
BY_NAME_ONLY = {"soak", "scale", "serving_gpu"}  # they take an hour or more, or need a GPU


def main() -> None:
    """Run every measurement, or those named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"of {', '.join(MEASUREMENTS)}; all but {', '.join(BY_NAME_ONLY)} unless given",
    )
    parser.add_argument("--images", type=int, help="how many images; each measurement has its own default")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MEASUREMENTS):
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    RESULTS.mkdir(exist_ok=True)
    for name in arguments.names or [name for name in MEASUREMENTS if name not in BY_NAME_ONLY]:
        given = {"images": arguments.images} if arguments.images else {}
        figures = MEASUREMENTS[name].measure(**given)
        MEASUREMENTS[name].show(figures)
        (RESULTS / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n")


main()
