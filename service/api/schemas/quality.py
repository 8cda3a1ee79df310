"""The quality of the model over the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from models.quality import MOST_PAIRS
from service.api.schemas.common import LABEL, Schema
from service.registry.records import Marks
from service.serving.quality import Measured


class ReliabilityBin(Schema):
    """Predictions of like confidence."""

    confidence: float = Field(description="Mean probability of the predicted label.")
    accuracy: float = Field(description="Share of these predictions that is right.")
    samples: int


class LabelQuality(Schema):
    """Quality of one label."""

    label: str = Field(examples=LABEL["examples"])
    samples: int
    recall: float = Field(description="Share of its samples that is recognised.")
    precision: float | None = Field(description="Share of its predictions that is right; null without any.")


class Confusion(Schema):
    """Two labels, and how many samples of the first are taken for the second."""

    label: str = Field(examples=LABEL["examples"])
    predicted: str
    samples: int


class Quality(BaseModel):
    """Leave-one-out quality of the closed-form tier of the replica that answers.

    Each sample is predicted by the head of all others. No erased sample is counted: from the 202 of an erasure on, the
    state is `waiting` until the report has been computed anew.
    """

    state: Literal["ready", "waiting", "off"] = Field(
        description="`waiting`: not computed yet since the last erasure or start, or fewer than two samples. `off`: "
        "`quality.enabled` or `closed_form.enabled` is false."
    )
    samples: int | None = Field(None, description="Samples that are counted. All fields are null while it waits.")
    digest: str | None = Field(None, description="Of the closed form that was measured, as `/status` names it.")
    ridge: float | None = Field(None, description="Lambda of the head that was measured.")
    temperature: float | None = Field(None, description="Of its softmax.")
    chosen_from: int | None = Field(
        None, description="Samples whose leave-one-out likelihood chose both; 0: constants, or settings."
    )
    as_of: datetime | None = Field(None, description="Samples on record then are counted.")
    computed_at: datetime | None = Field(None, description="When the report was done.")
    added_since: int | None = Field(None, description="Samples that have come since and are not counted.")
    accuracy: float | None = Field(None, description="Share of predictions that is right, 0 to 1.")
    calibration_error: float | None = Field(
        None, description="Expected calibration error: mean gap between confidence and accuracy, 0 to 1."
    )
    reliability: list[ReliabilityBin] | None = Field(None, description="At most ten bins, by rising confidence.")
    labels: list[LabelQuality] | None = Field(None, description="Every label, by name.")
    confusion: list[Confusion] | None = Field(
        None, description=f"Labels taken for each other, most frequent first, at most {MOST_PAIRS}."
    )


def quality_of(measured: Measured, now: Marks) -> Quality:
    """From the replica's report, at the present marks."""
    report = measured.report
    return Quality(
        state="ready",
        samples=report.samples,
        digest=measured.digest,
        ridge=measured.choice.ridge,
        temperature=measured.choice.temperature,
        chosen_from=measured.choice.samples,
        as_of=measured.as_of,
        computed_at=measured.computed_at,
        added_since=now.additions - measured.marks.additions,
        accuracy=report.accuracy,
        calibration_error=report.calibration_error,
        reliability=[ReliabilityBin.model_validate(one) for one in report.reliability],
        labels=[LabelQuality.model_validate(one) for one in report.labels],
        confusion=[Confusion.model_validate(one) for one in report.confusion],
    )
