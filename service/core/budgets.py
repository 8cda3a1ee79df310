"""Budgets: no API key can ask for erasures, or contribute images, without measure.

An erasure withdraws prompts at once, and each costs a training: a key that asks for them without end would keep the
model down. What is over budget is refused in words that say when it may be asked again; nothing of it is done.
"""

from __future__ import annotations

import math
from datetime import timedelta

from service.core.context import Context
from service.errors import OverBudget
from service.registry import budgets
from service.registry.engine import WriteSession

ERASURES, IMAGES = "erasures", "images"


def require(context: Context, key_id: str | None, what: str, amount: int = 1) -> None:
    """Raise OverBudget if so much cannot be asked for now: before any work is done for it. Spends nothing.

    key_id  None where no keys are asked for (`auth` off): there is no budget then.
    """
    per_hour = _per_hour(context, what)
    if key_id is None or per_hour == 0:
        return
    with context.registry.read_one() as session:
        _refuse(budgets.wait(session, key_id, what, amount, per_hour=per_hour, now=context.clock()), what, per_hour)


def spend(context: Context, session: WriteSession, key_id: str | None, what: str, amount: int = 1) -> None:
    """Note what is asked for, in the transaction that grants it. Raises OverBudget."""
    per_hour = _per_hour(context, what)
    if key_id is None or per_hour == 0 or amount == 0:
        return
    _refuse(budgets.spend(session, key_id, what, amount, per_hour=per_hour, now=context.clock()), what, per_hour)


def _per_hour(context: Context, what: str) -> int:
    settings = context.settings
    return settings.erasure.per_hour if what == ERASURES else settings.intake.per_hour


def _refuse(wait: timedelta | None, what: str, per_hour: int) -> None:
    if wait is not None:
        raise OverBudget(
            f"This API key has asked for its {per_hour:,} {what} an hour. Nothing was done; try again later.",
            retry_after=max(1, math.ceil(wait.total_seconds())),
        )
