"""The pages."""

from __future__ import annotations

from pathlib import Path as FilePath
from typing import Annotated, Any
from urllib.parse import parse_qs, quote, urlencode

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from graticule import __version__, formats
from graticule.errors import UnknownModel
from graticule.job_index import Filter, Status, Summary
from graticule.jobs import JOB_ID_PATTERN, MODEL_PATTERN, VERSION_PATTERN
from graticule.tokens import Scope
from graticule_producers.gateway.access import COOKIE, Caller, require_login
from graticule_producers.gateway.api.dead_letters import letters
from graticule_producers.gateway.api.models import summary_of
from graticule_producers.gateway.api.system import cluster_status
from graticule_producers.gateway.core import Core
from graticule_producers.gateway.problems import LoginNeeded, Problem, ProblemDocument
from graticule_producers.gateway.views import JobView

router = APIRouter(include_in_schema=False)

Reader = Annotated[Caller, Depends(require_login(Scope.READ))]

_HERE = FilePath(__file__).parent
_PAGE_OF_JOBS = 50
_LONGEST_LOGIN = 4096
_templates = Jinja2Templates(_HERE / "templates")
_templates.env.globals["version"] = __version__


def install(app: FastAPI) -> None:
    """Add the pages to an application."""
    app.include_router(router)
    app.mount("/static", StaticFiles(directory=_HERE / "static"))
    app.state.error_page = _error_page

    @app.exception_handler(LoginNeeded)
    async def log_in_first(request: Request, _: LoginNeeded) -> Response:
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"/login?next={quote(wanted, safe='')}", 303)


@router.get("/")
def measure(request: Request, core: Core, caller: Reader) -> Response:
    """Drop a picture, get its measurements."""
    models = [summary_of(manifest) for manifest in core.models.in_production()]
    values = {"models": models, "suffixes": ",".join(sorted(formats.SUFFIXES)), "may_submit": caller.may(Scope.SUBMIT)}
    return _page(request, caller, "measure.html", values)


@router.get("/streams")
def streams(
    request: Request, core: Core, caller: Reader, stream: Annotated[str, Query(max_length=500)] = ""
) -> Response:
    """Watch a stream live."""
    known = core.index.streams()
    chosen = stream or (known[0].name if known else "")
    return _page(request, caller, "streams.html", {"streams": known, "chosen": chosen})


@router.get("/jobs")
def jobs(
    request: Request,
    core: Core,
    caller: Reader,
    model: Annotated[str, Query(max_length=100)] = "",
    stream: Annotated[str, Query(max_length=500)] = "",
    status: str = "",
    text: Annotated[str, Query(max_length=255)] = "",
    cursor: Annotated[str, Query(max_length=100, pattern=r"^[0-9TZ.a-f~]*$")] = "",
) -> Response:
    """Browse and filter jobs."""
    chosen = _status(status)
    wanted = Filter(model_name=model, stream=stream, status=chosen, text=text)
    if chosen == "waiting":
        waiting = (Summary.of_job(job) for job in core.jobs.waiting(_PAGE_OF_JOBS))
        found, following = [summary for summary in waiting if wanted.takes(summary)], ""
    else:
        found, following = core.index.page(wanted, cursor=cursor, limit=_PAGE_OF_JOBS)
    fields = {"model": model, "stream": stream, "status": status, "text": text}
    values = {
        "jobs": found,
        "wanted": fields,
        "is_filtered": any(fields.values()),
        "models": [manifest.name for manifest in core.models.in_production()],
        "next": urlencode({**fields, "cursor": following}) if following else "",
        "may_submit": caller.may(Scope.SUBMIT),
    }
    return _page(request, caller, "jobs.html", values)


@router.get("/jobs/{job_id}")
def job(request: Request, core: Core, caller: Reader, job_id: Annotated[str, Path(pattern=JOB_ID_PATTERN)]) -> Response:
    """One job: picture, mask, numbers, or why it failed."""
    view = JobView.of(core.jobs.find(job_id))
    return _page(request, caller, "job.html", {"job": view, "may_submit": caller.may(Scope.SUBMIT)})


@router.get("/dead-letters")
def dead_letters(request: Request, core: Core, caller: Reader) -> Response:
    """Jobs that were given up, with the reason."""
    values = {"letters": letters(core), "may_submit": caller.may(Scope.SUBMIT)}
    return _page(request, caller, "dead_letters.html", values)


@router.get("/models")
def models(request: Request, core: Core, caller: Reader) -> Response:
    """The models in production."""
    return _page(request, caller, "models.html", {"manifests": core.models.in_production()})


@router.get("/models/{reference}")
def model(
    request: Request,
    core: Core,
    caller: Reader,
    reference: Annotated[str, Path(pattern=rf"^{MODEL_PATTERN}(@{VERSION_PATTERN})?$")],
) -> Response:
    """The card of a model."""
    try:
        manifest = core.models.resolve(reference)
    except UnknownModel as error:
        raise Problem(404, str(error), error=error.kind) from error
    return _page(request, caller, "model.html", {"manifest": manifest, "versions": core.models.versions(reference)})


@router.get("/cluster")
def cluster(request: Request, core: Core, caller: Reader) -> Response:
    """Workers, queues, throughput."""
    return _page(request, caller, "cluster.html", {"cluster": cluster_status(core)})


@router.get("/login")
async def login_form(request: Request, core: Core, next: str = "/") -> Response:
    """Where a browser shows its token."""
    if not core.access.required:
        return RedirectResponse("/", 303)
    return _page(request, None, "login.html", {"next": _inner(next), "wrong": False})


@router.post("/login")
async def log_in(request: Request, core: Core) -> Response:
    """Begin a session."""
    fields = await _small_form(request)
    following = _inner(fields.get("next", "/"))
    cookie = await core.access.log_in(request, fields.get("token", "").strip())
    if cookie is None:
        return _page(request, None, "login.html", {"next": following, "wrong": True}, status=401)
    answer = RedirectResponse(following, 303)
    answer.set_cookie(
        COOKIE,
        cookie,
        max_age=core.access.sessions.seconds,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.post("/logout")
async def log_out(request: Request, core: Core, _: Reader) -> Response:
    """End a session."""
    await core.access.log_out(request.cookies.get(COOKIE, ""))
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


def _page(
    request: Request, caller: Caller | None, template: str, values: dict[str, Any], *, status: int = 200
) -> Response:
    common = {"caller": caller, "path": request.url.path}
    return _templates.TemplateResponse(request, template, {**common, **values}, status)


def _error_page(request: Request, problem: ProblemDocument, headers: dict[str, str]) -> Response:
    values = {"problem": problem, "caller": None, "path": request.url.path}
    return _templates.TemplateResponse(request, "error.html", values, problem.status, headers)


def _status(text: str) -> Status | None:
    return text if text in ("waiting", "succeeded", "failed") else None  # pyright: ignore[reportReturnType]


def _inner(address: str) -> str:
    """An address on this site; anything that leads elsewhere becomes the first page."""
    is_inner = address.startswith("/") and not address.startswith(("//", "/\\")) and address.isprintable()
    return address if is_inner else "/"


async def _small_form(request: Request) -> dict[str, str]:
    """The fields of a form that holds only a few words. Raises Problem (413)."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LONGEST_LOGIN:
            raise Problem(413, f"This form has at most {_LONGEST_LOGIN} bytes.", close=True)
    try:
        parsed = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
    except ValueError:
        raise Problem(400, "The form cannot be read.") from None
    return {name: values[0] for name, values in parsed.items()}
