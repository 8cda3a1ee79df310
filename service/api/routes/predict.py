"""Classifying images."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, TypeVar

from fastapi import APIRouter, File, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from service.api.deps import Running, Service, scope
from service.api.problems import batch_problems, respond, responses
from service.api.schemas.model import LabelScore, Prediction, Predictions
from service.core.intake import read_picture
from service.errors import ServiceError
from service.serving.batcher import Announcement
from service.serving.jobs import Answer, Description, Job, Outcome
from service.serving.jobs import Query as ImageQuery

router = APIRouter(tags=["predictions"])

MAX_IMAGES = 64
Result = TypeVar("Result")


@router.post(
    "/predict",
    response_model=Predictions,
    dependencies=[scope("predict")],
    responses=responses(413, 415, 429, 503),
    summary="Classify up to 64 images",
)
async def predict(
    service: Running,
    request: Request,
    images: Annotated[
        list[UploadFile], File(alias="image", min_length=1, max_length=MAX_IMAGES, description="The images.")
    ],
    top_k: Annotated[int, Query(ge=1, le=1000, description="Labels listed for each image.")] = 5,
) -> Predictions | JSONResponse:
    """Each image is answered by its cluster's prompt, all in one forward pass, and by the closed form of all samples.

    Nothing of them is kept.
    """
    files = [await image.read() for image in images]
    with service.batcher.expect(len(files)) as announcement:
        answers = await asyncio.gather(*(_answer(service, announcement, data) for data in files))
    if problems := _problems(answers):
        return _refuse(request, problems)
    return Predictions(predictions=[_prediction(answer, top_k) for answer in _good(answers)])


async def _answer(service: Service, announcement: Announcement[Job, Outcome], data: bytes) -> Answer | ServiceError:
    """Decode and resize off the event loop, then into whatever batch comes next."""

    def prepare() -> ImageQuery:
        picture = read_picture(service.context, data)
        return ImageQuery(service.context.backbone.preprocessing.resize(picture.pixels), picture.digest)

    try:
        (outcome,) = await announcement.submit([await run_in_threadpool(prepare)])
    except ServiceError as error:
        return error
    if isinstance(outcome, Description):
        raise TypeError("a query was answered with a description")
    return outcome


def _refuse(request: Request, problems: Sequence[tuple[str, ServiceError]]) -> JSONResponse:
    """All or none: one image that cannot be answered refuses the request, naming it."""
    retry_after = problems[0][1].retry_after
    headers = {"Retry-After": str(retry_after)} if retry_after is not None else None
    return respond(batch_problems(problems, request.url.path), headers)


def _problems(results: Sequence[Result | ServiceError]) -> list[tuple[str, ServiceError]]:
    """What is wrong with which image."""
    return [(f"image[{i}]", result) for i, result in enumerate(results) if isinstance(result, ServiceError)]


def _good(results: Sequence[Result | ServiceError]) -> list[Result]:
    return [result for result in results if not isinstance(result, ServiceError)]


def _prediction(answer: Answer, top_k: int) -> Prediction:
    best_label, best_score = answer.scores[0]
    return Prediction(
        label=best_label,
        score=best_score,
        scores=[LabelScore(label=label, score=score) for label, score in answer.scores[:top_k]],
        cluster=answer.cluster,
        prompt=answer.prompt,
        tier=answer.tier,
        degraded=answer.degraded,
    )
