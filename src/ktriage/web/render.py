"""Templates of the web part: those of the case's page, and more."""

from __future__ import annotations

import time
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import jinja2
from fastapi.responses import HTMLResponse
from markupsafe import Markup
from pydantic import TypeAdapter, ValidationError

from ktriage.case.page import environment as case_environment
from ktriage.console.types import Crash

if TYPE_CHECKING:
    from fastapi import Request

    from ktriage.case.store.types import Bug


@cache
def environment() -> jinja2.Environment:
    """Return the case's environment with the web's templates beside its own."""
    ours = case_environment().overlay(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader("ktriage.web"), jinja2.PackageLoader("ktriage.case")]
        ),
        auto_reload=False,
    )
    ours.globals = {**ours.globals, "ago": ago, "day": day, "moment": moment, "bug_row": bug_row}
    return ours


def warm() -> None:
    """Make ready what the first page of each kind would wait half a second for."""
    import ktriage.symbols.code  # noqa: F401 (loads capstone)

    for name in environment().list_templates(["j2"]):
        environment().get_template(name)
    _adapter()


def page(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:  # noqa: ANN401 (a template's)
    """Return a page, rendered."""
    text = environment().get_template(template).render(path=request.url.path, **context)
    return HTMLResponse(text, status)


def fragment(template: str, **context: Any) -> str:  # noqa: ANN401 (a template's)
    """Return a piece of a page, rendered."""
    return environment().get_template(template).render(**context)


def bug_row(bug: Bug) -> Markup:
    """Return a bug's row in a list of bugs: rendered once as long as nothing in it changes."""
    return _bug_row(bug, ago(bug.last_seen))


@lru_cache(4096)
def _bug_row(bug: Bug, seen: str) -> Markup:
    return Markup(fragment("row.html.j2", bug=bug, seen=seen))  # noqa: S704 (a template's, escaped there)


def moment(when: float) -> Markup:
    """Return a time as an element that says it to programs, too."""
    said = day(when)
    return Markup(f'<time datetime="{said.replace(" ", "T")}Z">{said}</time>')  # noqa: S704 (digits only)


@cache
def _adapter() -> TypeAdapter[Crash]:
    return TypeAdapter(Crash)


def crash_of(report: dict[str, Any]) -> Crash | None:
    """Return a kept report as a crash again; None where it was kept by a ktriage that knew other fields."""
    try:
        return _adapter().validate_python({k: v for k, v in report.items() if k != "kind"})
    except ValidationError:
        return None


def day(when: float) -> str:
    """Return a time as ISO 8601 has it, to the minute, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(when))


def ago(when: float) -> str:
    """Say how long ago a time was."""
    seconds = max(0, int(time.time() - when))
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = seconds // size
            return f"{count:,} {name}{'s' if count != 1 else ''} ago"
    return "just now"
