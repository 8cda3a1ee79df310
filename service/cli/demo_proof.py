"""The end of the demo: what serves after an erasure, beside a service that never saw what was erased.

Both are asked over HTTP for the digests of all that they have learned. A digest is the SHA-256 of the tensors' bytes,
so equal digests are equal models, byte for byte.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from service.cli.client import Client
from service.cli.demo_steps import POLL_SECONDS, prompt_digests, served_clusters
from service.errors import ServiceError

PATIENCE_SECONDS = 180.0


class NotProven(ServiceError):
    """The two services have not learned the same."""

    status = 409
    code = "not-proven"
    title = "Not proven"


@dataclass(frozen=True)
class ServiceDigests:
    """All that a service has learned, by digests.

    samples      how many are on record.
    prompts      one for each served prompt; equal prompts count once.
    closed_form  of the closed-form sums, and of the lambda and temperature chosen from them.
    """

    samples: int
    prompts: frozenset[str]
    closed_form: str


def learned_by(client: Client, *, patience: float = PATIENCE_SECONDS) -> ServiceDigests:
    """What a service at rest has learned.

    patience  seconds that its closed form may take to know exactly the samples that the service holds.

    Raises NotProven if they take longer.
    """
    deadline = time.monotonic() + patience
    while True:
        status = client.request("GET", "/status")
        tier, samples = status["closed_form"], int(status["samples"])
        if tier is not None and tier["samples"] == samples and tier["settled"]:
            return ServiceDigests(samples, frozenset(prompt_digests(served_clusters(client))), str(tier["digest"]))
        if time.monotonic() > deadline:
            raise NotProven("The closed-form sums do not hold the samples that the service holds.")
        time.sleep(POLL_SECONDS)


def compare(forgetful: ServiceDigests, innocent: ServiceDigests, *, forgotten: str) -> str:
    """The proof, in a sentence. Raises NotProven, saying what differs.

    forgetful  has erased everything of `forgotten`.
    innocent   never saw any of it.
    """
    differing = []
    if forgetful.samples != innocent.samples:
        differing.append(f"the numbers of samples ({forgetful.samples} and {innocent.samples})")
    if forgetful.prompts != innocent.prompts:
        differing.append(f"{len(forgetful.prompts ^ innocent.prompts)} digests of prompts")
    if forgetful.closed_form != innocent.closed_form:
        differing.append("the digests of the closed-form sums")
    if differing or not forgetful.prompts:
        raise NotProven(f"Not equal to a service that never saw {forgotten}: {', '.join(differing) or 'no prompt'}.")
    return (
        f"A second service, which never saw {forgotten}, was given the other {innocent.samples:,} digits in the same "
        f"order. All {len(innocent.prompts)} prompts and the closed-form sums of the two have equal SHA-256 digests: "
        f"{forgotten} is forgotten to the last bit."
    )
