"""Predictions, clusters, partition and status over the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field

from service.api.schemas.common import LABEL


class LabelScore(BaseModel):
    """A label and its probability."""

    label: str = Field(examples=LABEL["examples"])
    score: float


class Prediction(BaseModel):
    """The labels of an image, and the tier, prompt and cluster that gave them."""

    label: str = Field(examples=LABEL["examples"])
    score: float = Field(description="Probability, 0 to 1.")
    scores: list[LabelScore] = Field(description="The best `top_k`, best first.")
    cluster: UUID | None = Field(
        description="Of the prompt that was asked; if none was, the image's own, if it has any."
    )
    prompt: str | None = Field(description="Key of the prompt that was asked; null if none was.")
    tier: Literal["fused", "closed_form", "prompt"] = Field(
        description="The cluster's prompt, the closed-form head on all owners' samples, or a weighted mean of both."
    )
    degraded: bool = Field(description="The image's own cluster serves no prompt just now; others answered for it.")
    head: Literal["quick", "whole"] | None = Field(
        description="The closed form's head that had a say: `whole`, of all entries of a descriptor, or `quick`, of a "
        "few, for the moments after an erasure until the whole one is solved without the samples; null if none had."
    )


class Predictions(BaseModel):
    """One entry an image, in order."""

    predictions: list[Prediction]


class ServedPrompt(BaseModel):
    """The prompt that a cluster serves."""

    key: str = Field(description="SHA-256 of what it is built from.")
    digest: str = Field(description="SHA-256 of its tensors' bytes.")
    trained_at: datetime
    members: int
    sample_epochs: int
    seconds: float


class Cluster(BaseModel):
    """The samples in one region of the partition, and the prompt that is trained on them."""

    id: UUID
    samples: int
    labels: list[str]
    state: Literal["empty", "training", "serving", "withdrawn", "failed"] = Field(
        description="`empty`: without samples, until the next plan. `training`: it serves no prompt, and one is due or "
        "being trained. `serving`: it serves a prompt; a newer one may be due. `withdrawn`: an erasure took its "
        "prompt, and no worker trains another yet. `failed`: `training.attempts` trainings have failed; it is tried "
        "again."
    )
    prompt: ServedPrompt | None
    failure: str | None = Field(None, description="Why the last training failed, and what to do.")
    retrain_at: datetime | None = Field(
        None,
        description="No training begins before this time: erasures have taken its prompts several times in a row.",
    )


class Partition(BaseModel):
    """The division of samples into clusters."""

    kind: str
    anchors: int = Field(description="Fixed points that samples are routed by.")
    clusters: int
    digest: str = Field(description="Of the rule: the same settings give the same digest.")
    distance_threshold: float | None = Field(description="Of `anchors`, unless it makes a number of clusters.")
    cap: int | None = Field(description="Of `tree`.")
    min: int | None = Field(description="Of `tree`.")
    layout: str | None = Field(description="Digest of the layout in force; null while samples are being located anew.")
    pending: bool = Field(description="A worker is about to move all samples to another layout.")
    failure: str | None = Field(None, description="Why samples cannot be moved, and what to do.")


class WorkerStatus(BaseModel):
    """A worker process."""

    name: str
    device: str = Field(description="What it trains on, and on which host.")
    queues: list[str] = Field(description="The queues that it consumes: `deletions`, `additions`.")
    heartbeat_at: datetime
    alive: bool
    heard_at: datetime | None = Field(description="When it last received a notification.")
    claimed_at: datetime | None = Field(description="When it last began to train a cluster.")


class BackboneStatus(BaseModel):
    """The frozen public network."""

    name: str
    digest: str
    dim: int
    input_size: int


class ClosedFormStatus(BaseModel):
    """The closed-form tier of the replica that answers, with all samples on record."""

    digest: str = Field(
        description="SHA-256 of its accumulators, lambda and temperature: equal wherever the same samples survive, "
        "once it is settled."
    )
    samples: int
    head: Literal["quick", "whole"] | None = Field(
        description="The head that answers now, as in a prediction; null while there are no samples."
    )
    ridge: float = Field(description="Lambda of its ridge regression, in force now.")
    temperature: float = Field(description="Of its softmax, in force now.")
    chosen_from: int = Field(
        description="Samples whose leave-one-out likelihood chose both; 0: constants, as from the 202 of an erasure "
        "on, or settings."
    )
    settled: bool = Field(
        description="False while lambda and temperature are to be chosen anew, seconds after samples came or went."
    )


class Status(BaseModel):
    """Status of the service."""

    samples: int = Field(description="To learn from.")
    evaluation_samples: int = Field(description="With the role `evaluation`, which are never learned from.")
    owners: int
    clusters: dict[str, int] = Field(description="By state.")
    erasures: dict[str, int] = Field(description="By state.")
    queue_age_seconds: float | None = Field(description="Age of the oldest unfinished erasure; null if there is none.")
    workers: list[WorkerStatus]
    backbone: BackboneStatus
    device: str
    serving_epoch: int
    closed_form: ClosedFormStatus | None = Field(description="Null while it is off, or starts from the survivors.")


class Live(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """The conditions of serving, each as true or false."""

    status: Literal["ok", "not ready", "draining"]
    migrated: bool = Field(description="The registry answers and has this release's schema.")
    backbone: bool = Field(description="The backbone is loaded and warm.")
    worker: bool = Field(description="Some worker was heard from a moment ago: what is asked for will be trained.")
    threads: bool = Field(description="A look-up or an erasure that comes now is begun within a second.")
    draining: bool = Field(description="The process was told to stop; it answers a little longer.")
    serving: bool = Field(
        description="Requests may be sent here, also while no worker lives: warm, migrated, threads free, not "
        "draining. For proxies."
    )
