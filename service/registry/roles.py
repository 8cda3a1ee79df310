"""What a sample is for: to be learned from, to adapt the backbone as well, or to measure with.

A sample with the role `core` is learned from like any other; the adapter is trained on these alone. One with the role
`evaluation` is held out: no cluster has it, no position, no number in the feed of the closed form. A constraint of the
table keeps it so, and most queries of learners find none of these samples by that alone.
"""

from __future__ import annotations

import sqlalchemy as sa

from service.errors import Invalid
from service.registry.records import Role
from service.registry.tables import SampleRow

TRAINING: Role = "training"
CORE: Role = "core"
EVALUATION: Role = "evaluation"
ROLES: tuple[Role, ...] = (TRAINING, CORE, EVALUATION)


def check_role(text: str) -> Role:
    """The role of that name. Raises Invalid, naming those that there are."""
    for role in ROLES:
        if role == text:
            return role
    raise Invalid(f"role must be one of {', '.join(ROLES)}.")


def learned() -> sa.ColumnElement[bool]:
    """Of samples that are learned from."""
    return SampleRow.role != EVALUATION


def held_out() -> sa.ColumnElement[bool]:
    """Of samples that are measured with: few among many, found by the index on clusters."""
    return sa.and_(SampleRow.cluster_id.is_(None), SampleRow.role == EVALUATION)
