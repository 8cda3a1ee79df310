"""`OUBLI_…` variables of the environment: those that are known, and the nearest name to one that is not.

A mistyped name would be a setting that is silently not made (`OUBLI_PARTITON__CAP=200`), so an unknown one is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

PREFIX = "OUBLI_"

# Variables of Oubli that are no settings of the service: read elsewhere.
OTHERS = (
    "OUBLI_CONFIG",  # the TOML file of settings
    "OUBLI_URL",  # clients of the command line
    "OUBLI_KEY",
    "OUBLI_BIN",  # docs/slurm/worker.sbatch
    "OUBLI_ENV_FILE",
    "OUBLI_EXAMPLES",  # tests
    "OUBLI_STEPS",
    "OUBLI_COUNTERFACTUALS",
    "OUBLI_PEERS_PYTHON",  # benchmarks
)
FAMILIES = ("OUBLI_TEST_", "OUBLI_DRILL_", "OUBLI_BENCH_")

# Kubernetes tells every pod of each service in its namespace: one that is called `oubli`, or `oubli-api`, makes these.
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_OF_KUBERNETES = re.compile(
    r"OUBLI_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
_PORT_OF_KUBERNETES = re.compile(r"OUBLI_(\w+_)?PORT")  # and its value is a URL


def unknown(environment: Mapping[str, str], settings: Iterable[str]) -> Iterator[str]:
    """A line for each `OUBLI_…` variable that nothing reads, with the nearest name that something does.

    settings  names of variables that are settings. Like them, names are compared without regard to case.
    """
    known = {*settings, *OTHERS}
    for name in sorted(environment):
        upper = name.upper()
        if upper.startswith(PREFIX) and upper not in known and not _is_of_others(upper, environment[name]):
            dotted = upper.removeprefix(PREFIX).lower().replace("__", ".")
            yield f"{name} ({dotted}): {no_such(upper, known)}"


def no_such(name: str, known: Iterable[str]) -> str:
    """That a name is not known, and which one may have been meant."""
    near = get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return "there is no such setting." + (f" Did you mean {near[0]}?" if near else " `oubli settings` lists all.")


def _is_of_others(name: str, value: str) -> bool:
    if name.startswith(FAMILIES) or _OF_KUBERNETES.fullmatch(name):
        return True
    return bool(_PORT_OF_KUBERNETES.fullmatch(name)) and value.startswith(("tcp://", "udp://", "sctp://"))
