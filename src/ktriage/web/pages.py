"""The pages: bugs, a bug, a crash, a bisection that may be under way, an upload, a search."""

from __future__ import annotations

import json
from typing import Annotated

from fastapi import APIRouter, Form, HTTPException, Query, Request, UploadFile
from fastapi.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse

from ktriage.case.formats import bundle
from ktriage.case.formats.markdown import markdown
from ktriage.case.page import build_view
from ktriage.case.store.loose import give, loose
from ktriage.case.store.ranking import functions
from ktriage.case.store.types import BugState, FindingKind
from ktriage.case.types import CaseFile
from ktriage.console import read_crashes
from ktriage.web import live
from ktriage.web.context import web
from ktriage.web.intake import take_in
from ktriage.web.render import crash_of, page
from ktriage.web.security import check_form, csrf_token, limited, set_csrf
from ktriage.web.shown import NAMES, bisection_case, shared, show_bug, shown_finding

router = APIRouter(include_in_schema=False)

PAGE = 100
LIST_OF_FINDINGS = 200
LONGEST_STACK = 200_000
Count = Annotated[int, Query(ge=0, le=1_000_000)]


@router.get("/")
def bugs(
    request: Request, q: str = "", state: str = "", function: str = "", sort: str = "last", offset: Count = 0
) -> Response:
    """List the bugs."""
    chosen = BugState(state) if state in list(BugState) else None
    found, total = web(request).store.bugs(
        text=q, state=chosen, function=function or None, sort=sort, limit=PAGE, offset=offset
    )
    return page(
        request, "bugs.html.j2", bugs=found, total=total, q=q, state=state, function=function, sort=sort,
        states=list(BugState), offset=offset, size_of_page=PAGE, loose=bool(loose(web(request).store, 1)),
    )  # fmt: skip


@router.get("/bugs/{number:int}")
def bug(request: Request, number: int) -> Response:
    """Show a bug: the best crash in full, what was found, all crashes."""
    token = csrf_token(request)
    shown = show_bug(web(request).store, number)
    answer = page(
        request, "bug.html.j2", shown=shown, bug=shown.bug, csrf=token, states=list(BugState),
        local=web(request).settings.local,
    )  # fmt: skip
    set_csrf(answer, token)
    return answer


@router.get("/bugs/{number:int}.md")
def as_markdown(request: Request, number: int) -> Response:
    """Give a bug as Markdown."""
    return PlainTextResponse(markdown(bundle(web(request).store, number)), media_type="text/markdown")


@router.post("/bugs/{number:int}/mark")
def mark(
    request: Request,
    number: int,
    csrf: Annotated[str, Form()],
    state: Annotated[BugState, Form()],
    detail: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """Say what became of a bug."""
    check_form(request, csrf)
    _own(request)
    other = int(detail) if state is BugState.DUPLICATE and detail.isdigit() and len(detail) < 10 else None
    web(request).store.mark(number, state, fixed_by=detail or None, duplicate_of=other)
    return RedirectResponse(f"/bugs/{number}", 303)


@router.get("/crashes/{number:int}")
def crash(request: Request, number: int) -> Response:
    """Show one crash."""
    store = web(request).store
    entry = store.crash(number)
    data = store.blob(entry.report) if entry.report else None
    found = crash_of(json.loads(data)) if data else None
    case = CaseFile(title=entry.title, crash=found)
    return page(request, "crash.html.j2", entry=entry, case=case, view=build_view(case))


@router.get("/crashes/{number:int}/log")
def log(request: Request, number: int) -> Response:
    """Give a crash's console log as text, whatever is in it."""
    store = web(request).store
    entry = store.crash(number)
    data = store.blob(entry.log) if entry.log else None
    if data is None:
        raise HTTPException(404, "This log is not kept.")
    return PlainTextResponse(data.decode(errors="replace"))


@router.get("/upload")
def upload(request: Request) -> Response:
    """Show the form that takes a log."""
    token = csrf_token(request)
    answer = page(
        request, "upload.html.j2", csrf=token, crashes=None, added=None, local=web(request).settings.local
    )
    set_csrf(answer, token)
    return answer


@router.post("/upload")
def uploaded(
    request: Request,
    csrf: Annotated[str, Form()],
    text: Annotated[str, Form()] = "",
    file: UploadFile | None = None,
) -> Response:
    """Take a log and show the report."""
    check_form(request, csrf)
    _own(request)
    ours = web(request)
    limited(request, ours.uploads)
    data = file.file.read() if file is not None and file.filename else text.encode(errors="replace")
    name = file.filename if file is not None and file.filename else "pasted"
    taken = take_in(ours.store, name or "", data, keep=ours.settings.keep)
    bugs = [ours.store.bug(number) for number in taken.added.bugs]
    cases = [CaseFile(title=found.title, crash=found) for found in taken.crashes]
    return page(
        request, "upload.html.j2", csrf=csrf, local=ours.settings.local, added=taken.added, bugs=bugs,
        crashes=[(case, build_view(case)) for case in cases],
    )  # fmt: skip


@router.get("/search")
def search(request: Request, stack: str = "") -> Response:
    """Find the bugs whose stacks are like a pasted one."""
    if len(stack) > LONGEST_STACK:
        raise HTTPException(413, "The stack is too long.")
    names = names_in(stack)
    found = web(request).store.similar(names, limit=30) if names else []
    rows = [(bug, likeness, shared(names, bug)) for bug, likeness in found]
    return page(request, "search.html.j2", stack=stack, names=names, found=rows)


def names_in(text: str) -> list[str]:
    """Return the functions in a report or a stack, or the words where there is neither."""
    crashes = read_crashes(text.encode(errors="replace"))
    if crashes:
        return functions(crashes[0])
    words = [word.split("+")[0].strip("?[]<>() ") for word in text.split()]
    return list(dict.fromkeys(word for word in words if word.replace("_", "").replace(".", "").isalnum()))[
        :50
    ]


@router.get("/findings")
def findings(request: Request) -> Response:
    """List the findings of no bug."""
    found = loose(web(request).store, LIST_OF_FINDINGS)
    return page(request, "loose.html.j2", found=found, kinds=NAMES, most=LIST_OF_FINDINGS)


@router.get("/findings/{number:int}")
def finding(request: Request, number: int) -> Response:
    """Show one finding in full."""
    shown = shown_finding(web(request).store, number)
    if shown.finding.kind is FindingKind.BISECTION:
        return RedirectResponse(f"/bisections/{number}", 303)
    token = csrf_token(request)
    answer = page(
        request, "finding.html.j2", one=shown, finding=shown.finding, kind=NAMES[shown.finding.kind],
        csrf=token, local=web(request).settings.local,
    )  # fmt: skip
    set_csrf(answer, token)
    return answer


@router.post("/findings/{number:int}/bug")
def finding_bug(
    request: Request,
    number: int,
    csrf: Annotated[str, Form()],
    bug: Annotated[int, Form(ge=1, le=2**31 - 1)],
) -> Response:
    """Say which bug a finding belongs to."""
    check_form(request, csrf)
    _own(request)
    give(web(request).store, number, bug)
    return RedirectResponse(f"/bugs/{bug}", 303)


@router.get("/findings/{number:int}/text")
def finding_text(request: Request, number: int) -> Response:
    """Give a mail or a reproducer as it is."""
    shown = shown_finding(web(request).store, number)
    if shown.text is None:
        raise HTTPException(404, "This finding is no text.")
    return PlainTextResponse(shown.text)


@router.get("/bisections/{number:int}")
def bisection(request: Request, number: int) -> Response:
    """Show a bisection, and go on showing it while it runs."""
    shown = shown_finding(web(request).store, number)
    if shown.document is not None:
        case, runs = bisection_case(shown), False
        assert case is not None
        view = build_view(case)
    else:
        case, view, runs = live.bisection_of(shown.finding)
    return page(request, "bisection.html.j2", finding=shown.finding, case=case, view=view, runs=runs)


@router.get("/bisections/{number:int}/events")
async def bisection_events(request: Request, number: int) -> Response:
    """Send a bisection's part of the page whenever it changes."""
    found = web(request).store.finding(number)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(live.events(found), media_type="text/event-stream", headers=headers)


def _own(request: Request) -> None:
    """Raise HTTPException where a form could come from anyone who reaches us."""
    if not web(request).settings.local:
        raise HTTPException(403, "Forms are for this machine only; send with a token to /api/v1 instead.")
