"""Settings of what is learned, and how: partition, training and the closed-form tier."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from models.descriptor_kind import RIDGES, Features
from models.spec import FEATURE, FEATURE_LR, SOLVED_BELOW, ClosedFormSpec, PartitionSpec, PromptSpec, TrainingSpec
from service.errors import Misconfigured
from service.settings.group import Group


class PartitionSettings(Group):
    """The partition of samples into clusters."""

    kind: Literal["tree", "anchors", "random", "pinned"] = Field(
        "tree", description="How clusters are made: `tree`, `anchors`, `random` or `pinned`."
    )
    cap: int = Field(
        500,
        ge=2,
        description="`tree`: most samples in a cluster; bounds the cost of any deletion. Beside the closed form only "
        "prompts of more than 1 % of all samples are asked: with 500, none above 50,000 samples.",
    )
    min: int = Field(100, ge=1, description="`tree`: fewest samples in a cluster; at most half of `cap`.")
    anchors: int = Field(1000, ge=2, description="`anchors`: samples that centroids are made of.")
    clusters: int | None = Field(
        None, ge=1, description="`random`: clusters, 16 unless set. `anchors`: most clusters, instead of a threshold."
    )
    distance_threshold: float = Field(
        1.05, gt=0, le=2, description="`anchors`: groups closer than this are joined (average linkage, unit vectors)."
    )
    centroids: Path | None = Field(None, description="`pinned`: a .npy file of centroids [clusters, features].")

    @model_validator(mode="after")
    def _sizes_can_be_met(self) -> Self:
        if self.cap < 2 * self.min:
            raise ValueError(f"cap ({self.cap}) must be at least twice min ({self.min})")
        return self

    def spec(self) -> PartitionSpec:
        """As a value of `models`."""
        return PartitionSpec(
            kind=self.kind,
            cap=self.cap,
            min=self.min,
            anchors=self.anchors,
            clusters=16 if self.kind == "random" and self.clusters is None else self.clusters,
            distance_threshold=self.distance_threshold,
        )

    def read_centroids(self) -> bytes | None:
        """The file of `pinned`. Raises Misconfigured."""
        if self.kind != "pinned" or self.centroids is None:
            return None
        try:
            return self.centroids.read_bytes()
        except OSError as error:
            raise Misconfigured(f"partition.centroids: {self.centroids} cannot be read ({error.strerror}).") from None


class TrainingSettings(Group):
    """The training of a cluster's prompt and head, and its time."""

    epochs: int | None = Field(
        None,
        ge=1,
        le=1000,
        description="Passes over a cluster's samples; default: 6, and for feature prompts 3 (8,000 samples and more) "
        "to 12 (fewer than 2,000).",
    )
    batch_size: int = Field(32, ge=1, le=1024, description="Images in a training batch.")
    prompt_lr: float | None = Field(
        None, gt=0, description="Learning rate of the prompt; default: 0.03, for feature prompts 0.05."
    )
    head_lr: float = Field(0.05, gt=0, description="Learning rate of the head.")
    prompt_kind: Literal["padding", "fixed_patch", "random_patch", "none", "feature"] = Field(
        "padding",
        description="Where the prompt's pixels are: a frame, a square in the corner, or one that moves; or `feature`: "
        "scales and shifts of the backbone's channels after a cut.",
    )
    prompt_size: int = Field(12, ge=1, description="Width of the frame or the square, pixels of the backbone's input.")
    cut: int | None = Field(
        None,
        ge=1,
        description="Of feature prompts: how many of the backbone's stages or blocks are left as they are; default: "
        "three sevenths.",
    )
    prompt_init_std: float = Field(0.0, ge=0, description="Noise that a prompt starts from; the reference code's is 1.")
    flip: bool = Field(True, description="Mirror images at random; turn it off where left and right differ.")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of a training; trained bits depend on it.")
    settle_seconds: float = Field(2.0, ge=0, description="Quiet time after an addition before it is trained.")
    settle_max_seconds: float = Field(30.0, ge=0, description="Longest time that additions can put training off.")
    on_new_environment: Literal["keep", "rebuild"] = Field(
        "keep", description="Prompts built with other software or hardware than a worker's: kept, or built again."
    )
    attempts: int = Field(3, ge=1, description="Failed trainings of a cluster before it is shown as failed.")
    retry_seconds: float = Field(10.0, gt=0, description="First pause after a failed training; doubles each time.")

    def spec(self) -> TrainingSpec:
        """As a value of `models`: what the trained bytes depend on."""
        if self.prompt_kind == FEATURE:
            epochs, lr, prompt = self.epochs, FEATURE_LR, PromptSpec(FEATURE, 0, cut=self.cut)
        else:
            epochs, lr = self.epochs or TrainingSpec.epochs, TrainingSpec.prompt_lr
            prompt = PromptSpec(self.prompt_kind, self.prompt_size, self.prompt_init_std)
        return TrainingSpec(
            epochs=epochs,
            batch_size=self.batch_size,
            prompt_lr=self.prompt_lr or lr,
            head_lr=self.head_lr,
            flip=self.flip,
            prompt=prompt,
            solved_below=SOLVED_BELOW if self.prompt_kind == FEATURE else 0,
        )


class ClosedFormSettings(Group):
    """The closed-form tier: a ridge regression on the descriptors of all samples."""

    enabled: bool = Field(True, description="Answer with the closed-form tier, beside the prompts.")
    features: Features = Field(
        "rich",
        description="What it is told of an image: `quick`, `rich` or `richest`; the last two also see mirror images, "
        "unless `training.flip` is off.",
    )
    ridge: float | None = Field(
        None,
        gt=0,
        description="Lambda of its ridge regression; default: chosen by leave-one-out likelihood, in the background; "
        "0.3 for `quick` features and 0.1 for the others until then, and below 200 samples.",
    )
    temperature: float | None = Field(
        None, gt=0, description="Of its softmax, smaller is surer; default: chosen after lambda; 0.1 until then."
    )

    def spec(self) -> ClosedFormSpec:
        """As a value of `models`."""
        return ClosedFormSpec(
            ridge=RIDGES[self.features] if self.ridge is None else self.ridge,
            temperature=ClosedFormSpec.temperature if self.temperature is None else self.temperature,
            chooses_ridge=self.ridge is None,
            chooses_temperature=self.temperature is None,
        )


class QualitySettings(Group):
    """The quality of the closed-form tier, by leave-one-out, computed in the background by each API process."""

    enabled: bool = Field(
        True, description="Compute the closed form's quality by leave-one-out (`GET /quality`), in each API process."
    )
    settle_seconds: float = Field(
        5.0, ge=0, description="Quiet time after a change before lambda, temperature and quality are computed anew."
    )
    settle_max_seconds: float = Field(60.0, ge=0, description="Longest time that changes can put that off.")
    share: float = Field(
        0.25, gt=0, le=1, description="Share of a core that computing them may take; it pauses for the rest."
    )
