"""REST: what the pages show, as JSON; logs and changes by token."""

from __future__ import annotations

import json
from functools import partial
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, HTTPException, Path, Query, Request
from fastapi.responses import PlainTextResponse, Response
from pydantic import BaseModel, Field

from ktriage.case.findings import DOCUMENTS
from ktriage.case.formats import bundle
from ktriage.case.formats.kcidb import kcidb
from ktriage.case.formats.markdown import markdown
from ktriage.case.formats.syzbot import syzbot
from ktriage.case.store.types import BugState, FindingKind
from ktriage.web.context import web
from ktriage.web.intake import take_in
from ktriage.web.security import bearer, limited

Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
Words = Annotated[str, Query(max_length=500)]
MOST = 500


class Problem(BaseModel):
    """Why something was not done."""

    detail: Any


class BugOut(BaseModel):
    """A bug; times are seconds since the epoch."""

    id: int
    title: str
    type: str | None
    state: BugState
    crashes: int
    kept: int
    first_seen: float
    last_seen: float
    frame: str | None
    guilty_file: str | None
    stack: list[str]
    culprit: str | None
    fixed_by: str | None
    duplicate_of: int | None


class BugList(BaseModel):
    """A page of bugs, and how many match in all."""

    total: int
    bugs: list[BugOut]


class FindingOut(BaseModel):
    """What else was found about a bug."""

    id: int
    bug: int | None
    kind: FindingKind
    when: float
    summary: str
    data: dict[str, Any]


class FindingFull(FindingOut):
    """A finding with all that is kept of it: ``document`` where that is JSON, else ``text``."""

    document: Any = None
    text: str | None = None


class BugFull(BugOut):
    """A bug with its titles (each with its crashes) and findings."""

    titles: dict[str, int]
    findings: list[FindingOut]


class CrashOut(BaseModel):
    """A crash; ``report`` is what `ktriage report --json` prints of it, null where it is not kept."""

    id: int
    bug: int
    title: str
    when: float
    line: int
    start: int
    kernel: str | None
    corrupted: str | None
    source: str | None
    report: dict[str, Any] | None = None


class Uploaded(BaseModel):
    """What a log brought: its bugs, those of them that are new, and whether it was known."""

    bugs: list[int]
    new: list[int]
    known: bool
    titles: list[str]


class Change(BaseModel):
    """What became of a bug."""

    state: BugState
    fixed_by: Annotated[str, Field(max_length=200)] | None = None
    duplicate_of: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None


class Stack(BaseModel):
    """Functions, innermost first."""

    stack: Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=100)]


class Alike(BaseModel):
    """A bug and how alike its stack is, from 0 to 1."""

    likeness: float
    bug: BugOut


_ERRORS: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in (400, 404, 422, 503)}
_WRITES = _ERRORS | {code: {"model": Problem} for code in (401, 413, 429)}
router = APIRouter(prefix="/api/v1", responses=_ERRORS)


def _plain(value: Any) -> dict[str, Any]:  # noqa: ANN401 (any of the store's)
    return {name: part for name, part in value.to_json().items() if name != "kind"}


@router.get("/bugs")
def list_bugs(
    request: Request,
    q: Words = "",
    state: BugState | None = None,
    function: Annotated[str | None, Query(max_length=200)] = None,
    sort: Literal["last", "first", "crashes", "title"] = "last",
    limit: Annotated[int, Query(ge=1, le=MOST)] = 100,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
) -> BugList:
    """List the bugs that have all words of ``q`` in their titles, functions and files."""
    found, total = web(request).store.bugs(
        text=q, state=state, function=function, sort=sort, limit=limit, offset=offset
    )
    return BugList(total=total, bugs=[BugOut(**_plain(bug)) for bug in found])


@router.get("/bugs/{number}")
def get_bug(request: Request, number: Number) -> BugFull:
    """Give a bug with its titles and findings."""
    store = web(request).store
    with store.snapshot():
        findings = [FindingOut(**(f.to_json())) for f in store.findings(number)]
        return BugFull(**_plain(store.bug(number)), titles=dict(store.titles(number)), findings=findings)


@router.patch("/bugs/{number}", responses=_WRITES)
def change_bug(request: Request, number: Number, change: Change) -> BugOut:
    """Say what became of a bug. Needs a token."""
    store = web(request).store
    bearer(request, store)
    store.mark(number, change.state, fixed_by=change.fixed_by, duplicate_of=change.duplicate_of)
    return BugOut(**_plain(store.bug(number)))


@router.get("/bugs/{number}/crashes")
def list_crashes(
    request: Request,
    number: Number,
    limit: Annotated[int, Query(ge=1, le=MOST)] = 100,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
) -> list[CrashOut]:
    """List a bug's crashes, those whose logs are kept first."""
    store = web(request).store
    store.bug(number)
    entries = store.crashes(number, limit=limit, offset=offset)
    return [CrashOut(**{**_plain(entry), "report": None}) for entry in entries]


@router.get("/bugs/{number}/export", responses={200: {"content": {"text/markdown": {}}}})
def export_bug(
    request: Request,
    number: Number,
    form: Literal["kcidb", "syzbot", "markdown"] = "syzbot",
    origin: Annotated[str, Query(pattern="^[a-z0-9_]{1,50}$")] = "ktriage",
) -> Response:
    """Give a bug in a form that others read."""
    one = bundle(web(request).store, number)
    if form == "markdown":
        return PlainTextResponse(markdown(one), media_type="text/markdown")
    data = kcidb([one], origin) if form == "kcidb" else syzbot(one)
    return Response(json.dumps(data), media_type="application/json")


@router.get("/findings/{number}")
def get_finding(request: Request, number: Number) -> FindingFull:
    """Give a finding with all that is kept of it."""
    store = web(request).store
    finding = store.finding(number)
    data = store.blob(finding.blob) if finding.blob else None
    text = data.decode(errors="replace") if data is not None else None
    if text is None or finding.kind not in DOCUMENTS:
        return FindingFull(**finding.to_json(), text=text)
    try:
        # What is no number in JSON, as NaN, becomes null.
        document = json.loads(text, parse_constant=lambda _: None)
        json.dumps(document, ensure_ascii=False).encode()
    except ValueError:
        return FindingFull(**finding.to_json(), text=text)
    return FindingFull(**finding.to_json(), document=document)


@router.get("/crashes/{number}")
def get_crash(request: Request, number: Number) -> CrashOut:
    """Give a crash with its report."""
    store = web(request).store
    entry = store.crash(number)
    data = store.blob(entry.report) if entry.report else None
    return CrashOut(**{**_plain(entry), "report": json.loads(data) if data else None})


@router.get(
    "/crashes/{number}/log", response_class=Response, responses={200: {"content": {"text/plain": {}}}}
)
def get_log(request: Request, number: Number) -> Response:
    """Give a crash's console log."""
    store = web(request).store
    entry = store.crash(number)
    data = store.blob(entry.log) if entry.log else None
    if data is None:
        raise HTTPException(404, "this log is not kept")
    return PlainTextResponse(data.decode(errors="replace"))


@router.post(
    "/logs",
    status_code=201,
    responses=_WRITES,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def upload_log(request: Request, name: Annotated[str, Query(max_length=200)] = "") -> Uploaded:
    """Take a console log, plain or compressed by gzip, xz, bzip2 or zstd. Needs a token."""
    ours = web(request)
    who = await to_thread.run_sync(bearer, request, ours.store)
    await to_thread.run_sync(limited, request, ours.uploads, who)
    data = await request.body()
    # What waits for another writer leaves the threads to those who read.
    take = partial(take_in, ours.store, f"{who} {name}", data, keep=ours.settings.keep)
    taken = await to_thread.run_sync(take, limiter=ours.takers)
    return Uploaded(
        bugs=list(taken.added.bugs),
        new=list(taken.added.new),
        known=taken.added.known,
        titles=[crash.title for crash in taken.crashes],
    )


@router.post("/similar")
def similar(request: Request, stack: Stack) -> list[Alike]:
    """Find the bugs whose stacks are most like this one."""
    found = web(request).store.similar(stack.stack, limit=20)
    return [Alike(likeness=likeness, bug=BugOut(**_plain(bug))) for bug, likeness in found]
