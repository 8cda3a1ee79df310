"""Routes of samples: contributing them, and looking them up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

from fastapi import File, Form, Query, Request, Response, UploadFile, status
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from service.api.deps import (
    IN_UTF8,
    IdempotencyKey,
    PagingParameters,
    Running,
    Service,
    credential,
    idempotency_header,
    key_id,
    located,
    scope,
)
from service.api.disconnects import while_connected
from service.api.front import decode_json, front_router
from service.api.problems import BODY, problem_of, responses
from service.api.raw_body import RawImage, documented, missing
from service.api.schemas.common import LABEL, OWNER, Label, Listing, Owner, OwnerSought
from service.api.schemas.samples import (
    METADATA,
    ROLE,
    BatchItem,
    BatchMetadata,
    BatchResult,
    SaidOfRaw,
    Sample,
    sample_of,
)
from service.core import budgets
from service.core.duplicates import AlreadyRecorded
from service.core.idempotency import once, request_digest
from service.core.text import check_owner, check_text
from service.errors import Invalid, NotFound, ServiceError
from service.registry import records, samples
from service.registry.records import Role
from service.registry.roles import TRAINING, check_role
from service.serving.ingest import Recorded, Upload
from service.settings import MAX_BATCH

router = front_router(tags=["samples"], dependencies=[IN_UTF8])

_metadata = TypeAdapter(list[BatchMetadata])


@router.post(
    "/samples",
    status_code=status.HTTP_201_CREATED,
    response_model=Sample,
    dependencies=[scope("samples")],
    responses=responses(*BODY, 409, 415, 429, 503, 507),
    summary="Contribute an image",
    openapi_extra=documented("image", "label", "owner"),
)
async def create_sample(
    service: Running,
    request: Request,
    response: Response,
    raw: RawImage,
    said_of_raw: Annotated[SaidOfRaw, Query()],
    image: Annotated[UploadFile | None, File(description="JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP, TIFF or PPM.")] = None,
    label: Annotated[Label | None, Form(**LABEL)] = None,
    owner: Annotated[Owner | None, Form(**OWNER)] = None,
    role: Annotated[Role | None, Form(**ROLE)] = None,
    idempotency_key: Annotated[IdempotencyKey, idempotency_header("sample")] = None,
) -> Sample:
    """Decode, embed, route to the cluster that covers its position, and record. Training follows by itself.

    With `role=core` the adapter is trained on it as well.
    With `role=evaluation` it is kept apart: never learned from, and measured with (`GET /quality`).

    The image may be the body itself: see "An image as the body itself", at the top of this page.
    """

    def contribute() -> records.Sample:
        if raw is not None:
            upload = _upload("query", raw, said_of_raw.label, said_of_raw.owner, said_of_raw.role)
        else:
            upload = _upload("body", image.file.read() if image is not None else None, label, owner, role)
            _refuse_words_for_raw(said_of_raw)
        return _contribute(service, request, upload, idempotency_key)

    record = await service.intake_threads.run(contribute, caller=credential(request))
    response.headers["Location"] = located(request, f"/samples/{record.id}")
    return sample_of(record)


def _contribute(service: Service, request: Request, upload: Upload, idempotency_key: str | None) -> records.Sample:
    apart = [upload.role.encode()] if upload.role != TRAINING else []  # digests of earlier releases stay what they are
    digest = request_digest(upload.data, upload.label.encode(), upload.owner.encode(), *apart)
    with once(service.context, "POST /samples", idempotency_key, digest, caller=credential(request)) as ticket:
        if ticket.resource_id is not None:
            return _get(service, ticket.resource_id)
        budgets.require(service.context, key_id(request), budgets.IMAGES)
        (result,) = _take_in(service, request, [upload], ticket.key_digest)
        if isinstance(result, ServiceError):
            raise result
        return result.sample if isinstance(result, AlreadyRecorded) else result


def _refuse_words_for_raw(said_of_raw: SaidOfRaw) -> None:
    """Refuse a form whose query says of the image too: the two could differ. Raises RequestValidationError."""
    said = said_of_raw.model_dump(exclude_none=True)
    if said:
        message = "Only for an image that is the body itself; say it in the form"
        raise RequestValidationError(
            [{"type": "unknown", "loc": ("query", name), "msg": message, "input": None} for name in said]
        )


def _upload(place: str, data: bytes | None, label: str | None, owner: str | None, role: Role | None) -> Upload:
    """Raises RequestValidationError naming what is missing."""
    if data is None or label is None or owner is None:
        given = {"image": data, "label": label, "owner": owner}
        raise missing(place, *(name for name, value in given.items() if value is None))
    return Upload(data, label, owner, role=role or TRAINING)


@router.post(
    "/samples/batch",
    response_model=BatchResult,
    response_model_exclude_none=True,
    dependencies=[scope("samples")],
    responses=responses(*BODY, 429, 503, 507),
    summary="Contribute up to 256 images",
)
async def create_samples(
    service: Running,
    request: Request,
    images: Annotated[list[UploadFile], File(min_length=1, max_length=MAX_BATCH)],
    metadata: Annotated[str, Form(**METADATA)],
) -> BatchResult:
    """Each image succeeds or fails by itself; the answer keeps their order."""
    results = await service.intake_threads.run(
        lambda: _contribute_all(service, request, images, metadata), caller=credential(request)
    )
    return BatchResult(items=[_batch_item(result, request.url.path) for result in results])


def _contribute_all(service: Service, request: Request, images: Sequence[UploadFile], metadata: str) -> list[Recorded]:
    budgets.require(service.context, key_id(request), budgets.IMAGES, len(images))
    described = _parse_metadata(metadata, len(images))
    uploads: list[Upload | ServiceError] = []
    for image, item in zip(images, described, strict=True):
        try:
            label, owner = check_text("label", item.label), check_owner(item.owner)
            uploads.append(Upload(image.file.read(), label, owner, item.unless_held, check_role(item.role)))
        except ServiceError as error:
            uploads.append(error)
    return _take_in(service, request, uploads)


def _parse_metadata(text: str, count: int) -> list[BatchMetadata]:
    try:
        said = decode_json(text)  # which names a member that comes twice; what follows takes the last
        if isinstance(said, list) and len(said) != count:  # before each of a hundred thousand is looked at
            raise Invalid(f"metadata describes {len(said)} images, and {count} were sent.")
        return _metadata.validate_json(text, strict=True)
    except json.JSONDecodeError as error:
        raise Invalid(f"metadata is not a JSON list of {{label, owner}}: {error.msg}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "metadata"
        raise Invalid(f"metadata is not a JSON list of {{label, owner}}: {place}: {first['msg']}") from None


def _batch_item(result: Recorded, instance: str) -> BatchItem:
    if isinstance(result, AlreadyRecorded):
        return BatchItem(status=status.HTTP_200_OK, sample=sample_of(result.sample))
    if isinstance(result, ServiceError):
        return BatchItem(status=result.status, problem=problem_of(result, instance))
    return BatchItem(status=status.HTTP_201_CREATED, sample=sample_of(result))


def _take_in(
    service: Service,
    request: Request,
    uploads: Sequence[Upload | ServiceError],
    idempotency_key: str | None = None,
) -> list[Recorded]:
    return service.ingest.take_in(
        uploads,
        caller=credential(request),
        key_id=key_id(request),
        while_connected=lambda work: while_connected(request, work),
        idempotency_key=idempotency_key,
    )


@router.get(
    "/samples/{sample_id}",
    response_model=Sample,
    dependencies=[scope("read")],
    responses=responses(404, 503),
    summary="Look a sample up",
)
def get_sample(service: Running, sample_id: UUID) -> Sample:
    """404 once it is erased."""
    return sample_of(_get(service, str(sample_id)))


def _get(service: Service, sample_id: str) -> records.Sample:
    with service.context.registry.read() as session:
        record = samples.get(session, sample_id)
    if record is None:
        raise NotFound(f"There is no sample {sample_id}.")
    return record


@router.get(
    "/samples",
    response_model=Listing[Sample],
    dependencies=[scope("read")],
    responses=responses(503),
    summary="List samples",
)
def list_samples(
    service: Running,
    paging: PagingParameters,
    owner: Annotated[OwnerSought | None, Query(description="Samples of this owner.")] = None,
    label: Annotated[Label | None, Query()] = None,
    cluster: UUID | None = None,
    role: Annotated[Role | None, Query(description="Samples with this role.")] = None,
) -> Listing[Sample]:
    """In the order of arrival."""
    with service.context.registry.read() as session:
        page = samples.page(
            session,
            limit=paging.limit,
            cursor=paging.cursor,
            owner=owner,
            label=label,
            cluster=str(cluster) if cluster is not None else None,
            role=role,
        )
    return Listing(items=[sample_of(record) for record in page.items], next_cursor=page.next_cursor)
