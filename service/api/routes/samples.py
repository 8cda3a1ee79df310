"""Taking samples in, and looking them up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import anyio.from_thread
from fastapi import APIRouter, File, Form, Header, Query, Request, Response, UploadFile, status
from pydantic import TypeAdapter, ValidationError

from service.api.deps import PagingParameters, Running, Service, caller, scope
from service.api.problems import problem_of, responses
from service.api.raw_body import RawImage, documented, missing
from service.api.schemas.common import Listing
from service.api.schemas.samples import BatchItem, BatchMetadata, BatchResult, SaidOfRaw, Sample, sample_of
from service.core.held import Held
from service.core.idempotency import once, request_digest
from service.core.intake import Newcomer, Upload, check_text, take_in
from service.errors import Invalid, NotFound, ServiceError, Unavailable
from service.registry import records, samples
from service.serving import jobs

router = APIRouter(tags=["samples"])

MAX_BATCH = 256
_metadata = TypeAdapter(list[BatchMetadata])


@router.post(
    "/samples",
    status_code=status.HTTP_201_CREATED,
    response_model=Sample,
    dependencies=[scope("samples")],
    responses=responses(409, 413, 415, 429, 503, 507),
    summary="Contribute an image",
    openapi_extra=documented("image", "label", "owner"),
)
def create_sample(
    service: Running,
    request: Request,
    response: Response,
    raw: RawImage,
    said_of_raw: Annotated[SaidOfRaw, Query()],
    image: Annotated[UploadFile | None, File(description="JPEG, PNG, WebP, BMP, GIF, TIFF or PPM.")] = None,
    label: Annotated[str | None, Form(min_length=1, max_length=128, description="What the image shows.")] = None,
    owner: Annotated[
        str | None, Form(min_length=1, max_length=128, description="Your reference for the person.")
    ] = None,
    idempotency_key: Annotated[str | None, Header(description="Repeat safely: one key, one sample.")] = None,
) -> Sample:
    """Decode, embed, route to the nearest cluster and record. Training follows by itself.

    The image may be the body itself, as `application/octet-stream` or `image/*`; then label and owner are in the query.
    """
    if raw is not None:
        upload = _upload("query", raw, said_of_raw.label, said_of_raw.owner)
    else:
        upload = _upload("body", image.file.read() if image is not None else None, label, owner)
    digest = request_digest(upload.data, upload.label.encode(), upload.owner.encode())
    with once(service.context, "POST /samples", idempotency_key, digest, caller=caller(request)) as ticket:
        if ticket.resource_id is not None:
            record = _get(service, ticket.resource_id)
        else:
            (result,) = _take_in(service, [upload], ticket.key_digest)
            if isinstance(result, ServiceError):
                raise result
            record = result.sample if isinstance(result, Held) else result
    response.headers["Location"] = f"/samples/{record.id}"
    return sample_of(record)


def _upload(place: str, data: bytes | None, label: str | None, owner: str | None) -> Upload:
    """Raises RequestValidationError naming what is missing, or Invalid."""
    if data is None or label is None or owner is None:
        given = {"image": data, "label": label, "owner": owner}
        raise missing(place, *(name for name, value in given.items() if value is None))
    return Upload(data, check_text("label", label), check_text("owner", owner))


@router.post(
    "/samples/batch",
    response_model=BatchResult,
    response_model_exclude_none=True,
    dependencies=[scope("samples")],
    responses=responses(413, 429, 503, 507),
    summary="Contribute up to 256 images",
)
def create_samples(
    service: Running,
    request: Request,
    images: Annotated[list[UploadFile], File(min_length=1, max_length=MAX_BATCH)],
    metadata: Annotated[
        str, Form(description="JSON list of {label, owner}, in the order of the images; `unless_held` may be added.")
    ],
) -> BatchResult:
    """Each image succeeds or fails by itself; the answer keeps their order."""
    described = _parse_metadata(metadata, len(images))
    uploads: list[Upload | ServiceError] = []
    for image, item in zip(images, described, strict=True):
        try:
            label, owner = check_text("label", item.label), check_text("owner", item.owner)
            uploads.append(Upload(image.file.read(), label, owner, item.unless_held))
        except ServiceError as error:
            uploads.append(error)
    results = _take_in(service, uploads)
    return BatchResult(items=[_batch_item(result, request.url.path) for result in results])


def _parse_metadata(text: str, count: int) -> list[BatchMetadata]:
    try:
        described = _metadata.validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "metadata"
        raise Invalid(f"metadata is not a JSON list of {{label, owner}}: {place}: {first['msg']}") from None
    if len(described) != count:
        raise Invalid(f"metadata describes {len(described)} images, and {count} were sent.")
    return described


def _batch_item(result: records.Sample | Held | ServiceError, instance: str) -> BatchItem:
    if isinstance(result, Held):
        return BatchItem(status=status.HTTP_200_OK, sample=sample_of(result.sample))
    if isinstance(result, ServiceError):
        return BatchItem(status=result.status, problem=problem_of(result, instance))
    return BatchItem(status=status.HTTP_201_CREATED, sample=sample_of(result))


def _take_in(
    service: Service, uploads: list[Upload | ServiceError] | list[Upload], key_digest: str | None = None
) -> list[records.Sample | Held | ServiceError]:
    """Decode, embed together with whoever else is waiting, store and record; one result an upload, in order."""
    sent = [upload for upload in uploads if isinstance(upload, Upload)]
    described = iter(_describe(service, sent))
    ready = [upload if isinstance(upload, ServiceError) else next(described) for upload in uploads]
    newcomers = [one for one in ready if isinstance(one, Newcomer)]
    if not newcomers:
        return [one for one in ready if isinstance(one, ServiceError)]
    taken = iter(take_in(service.context, newcomers, idempotency_key=key_digest))
    service.reconciler.wake()
    return [next(taken) if isinstance(one, Newcomer) else one for one in ready]


def _describe(service: Service, uploads: Sequence[Upload]) -> list[Newcomer | ServiceError]:
    """Each ready to be recorded, or why not. Raises what kept the backbone from all: nothing is recorded then."""
    files = [upload.data for upload in uploads]
    found = anyio.from_thread.run(service.preparer.outcomes, files, lambda ready: jobs.Newcomer(ready.image))
    newcomers: list[Newcomer | ServiceError] = []
    for upload, one in zip(uploads, found, strict=True):
        if isinstance(one, Unavailable):
            raise one
        if isinstance(one, ServiceError):
            newcomers.append(one)
            continue
        prepared, outcome = one
        if isinstance(outcome, jobs.Description):  # a newcomer is answered with nothing else
            said = (outcome.embedding, outcome.descriptor, upload.label, upload.owner)
            newcomers.append(Newcomer(prepared.picture, *said, unless_held=upload.unless_held))
    return newcomers


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
    summary="List what is held",
)
def list_samples(
    service: Running,
    paging: PagingParameters,
    owner: Annotated[str | None, Query(max_length=128, description="Everything held for one owner.")] = None,
    label: Annotated[str | None, Query(max_length=128)] = None,
    cluster: UUID | None = None,
) -> Listing[Sample]:
    """In the order of arrival."""
    with service.context.registry.read() as session:
        page = samples.page(
            session,
            limit=paging.limit,
            cursor=paging.cursor,
            owner=check_text("owner", owner) if owner is not None else None,  # as at intake
            label=check_text("label", label) if label is not None else None,
            cluster=str(cluster) if cluster is not None else None,
        )
    return Listing(items=[sample_of(record) for record in page.items], next_cursor=page.next_cursor)
