"""The route that classifies images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeVar

from fastapi import File, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from service.api.deps import Running, Service, credential, scope
from service.api.disconnects import while_connected
from service.api.front import front_router
from service.api.problems import BODY, batch_problems, headers_of, respond, responses
from service.api.raw_body import RawImage, documented, missing
from service.api.schemas.model import LabelScore, Prediction, Predictions
from service.errors import NothingContributed, ServiceError, Unavailable
from service.registry import samples
from service.serving.jobs import Answer, Description
from service.serving.jobs import Query as ImageQuery

router = front_router(tags=["predictions"])

MAX_IMAGES = 64
Result = TypeVar("Result")


@router.post(
    "/predict",
    response_model=Predictions,
    dependencies=[scope("predict")],
    responses=responses(*BODY, 409, 415, 429, 503),
    summary="Classify up to 64 images",
    openapi_extra=documented("image"),
)
async def predict(
    service: Running,
    request: Request,
    raw: RawImage,
    images: Annotated[
        list[UploadFile] | None,
        File(alias="image", min_length=1, max_length=MAX_IMAGES, description="The images."),
    ] = None,
    top_k: Annotated[int, Query(ge=1, le=1000, description="Labels listed for each image.")] = 5,
) -> Predictions | JSONResponse:
    """Each image is answered by its cluster's prompt, all in one forward pass, and by the closed form of all samples.

    A prompt that has seen at most 1 % of all samples is not asked beside the closed form: it would improve nothing.
    Nothing of the images is kept. A single image may be the body itself, as `application/octet-stream` or `image/*`.
    409 while nothing has been contributed.
    """
    answers = await _answers(service, request, await _files(raw, images))
    if problems := _problems(answers):
        if any(isinstance(error, Unavailable) for _, error in problems):
            await run_in_threadpool(_refuse_if_nothing_is_recorded, service)
        return _refuse(request, problems)
    return Predictions(predictions=[_prediction(answer, top_k) for answer in _good(answers)])


def _refuse_if_nothing_is_recorded(service: Service) -> None:
    """Waiting would not help. Raises NothingContributed."""
    with service.context.registry.read() as session:
        if not samples.any_recorded(session):
            raise NothingContributed(
                "Nothing has been contributed, so nothing can be predicted. Contribute images first."
            )


def _refuse(request: Request, problems: Sequence[tuple[str, ServiceError]]) -> JSONResponse:
    """All or none: one image that cannot be answered refuses the request, naming it."""
    return respond(batch_problems(problems, request.url.path), headers_of(problems[0][1]))


async def _files(raw: bytes | None, images: Sequence[UploadFile] | None) -> list[bytes]:
    if raw is not None:
        return [raw]
    if not images:
        raise missing("body", "image")
    return [await image.read() for image in images]


async def _answers(service: Service, request: Request, files: Sequence[bytes]) -> list[Answer | ServiceError]:
    work = service.preprocessor.outcomes(files, ImageQuery.of, caller=credential(request))
    found = await while_connected(request, work)
    outcomes = [one if isinstance(one, ServiceError) else one[1] for one in found]
    return [outcome for outcome in outcomes if not isinstance(outcome, Description)]  # no query is answered with one


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
        head=answer.head,
    )
