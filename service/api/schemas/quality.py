"""The quality of the model over the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from models.quality import MOST_PAIRS
from service.api.schemas.common import LABEL, Schema
from service.registry.records import Marks
from service.serving.held_out import HeldOutMeasured
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


class Evaluation(BaseModel):
    """What the evaluation set says of the closed-form tier of the replica that answers: samples that it never learns.

    No erased sample is counted, and no head that had learned from one is asked: from the 202 of an erasure on, the
    state is `waiting` until the report has been computed anew.
    """

    state: Literal["ready", "waiting", "none", "off"] = Field(
        description="`none`: there are no samples with the role `evaluation`. `waiting`, `off`: as of the whole "
        "report; `waiting` also while nothing is learned, or evaluation samples are described anew."
    )
    samples: int | None = Field(None, description="Samples that are counted. All fields are null unless it is ready.")
    also_learned: int | None = Field(
        None,
        description="Evaluation samples that are not counted: a sample to learn from, of whichever owner, is the same "
        "picture.",
    )
    learned: int | None = Field(None, description="Samples that the closed form had learned from.")
    digest: str | None = Field(None, description="Of the closed form that was measured, as `/status` names it.")
    as_of: datetime | None = Field(None, description="Samples on record then are counted.")
    computed_at: datetime | None = Field(None, description="When the report was done.")
    added_since: int | None = Field(
        None, description="Samples, to learn from or to measure with, that have come since and are not in it."
    )
    accuracy: float | None = Field(None, description="Share of predictions that is right; null if none is counted.")
    interval: tuple[float, float] | None = Field(
        None, description="Wilson's 95 % interval of the accuracy: wide where few samples are counted."
    )
    calibration_error: float | None = Field(None, description="As of the whole report.")
    reliability: list[ReliabilityBin] | None = Field(None, description="At most ten bins, by rising confidence.")
    labels: list[LabelQuality] | None = Field(None, description="Every label of a counted sample, by name.")
    unknown_labels: list[str] | None = Field(
        None, description="Those of them that no sample to learn from has: their samples count as wrong."
    )
    confusion: list[Confusion] | None = Field(None, description=f"As of the whole report, at most {MOST_PAIRS}.")


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
    evaluation: Evaluation


def evaluation_of(measured: HeldOutMeasured, now: Marks) -> Evaluation:
    """From the replica's report of the evaluation set, at the present marks."""
    report = measured.report
    return Evaluation(
        state="ready",
        samples=report.samples,
        also_learned=measured.also_learned,
        learned=measured.learned,
        digest=measured.digest,
        as_of=measured.as_of,
        computed_at=measured.computed_at,
        added_since=now.additions - measured.marks.additions,
        accuracy=report.accuracy if report.samples else None,
        interval=report.interval if report.samples else None,
        calibration_error=report.calibration_error if report.samples else None,
        reliability=[ReliabilityBin.model_validate(one) for one in report.reliability],
        labels=[LabelQuality.model_validate(one) for one in report.labels],
        unknown_labels=list(measured.unknown_labels),
        confusion=[Confusion.model_validate(one) for one in report.confusion],
    )


def quality_of(measured: Measured, now: Marks, evaluation: Evaluation) -> Quality:
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
        evaluation=evaluation,
    )
