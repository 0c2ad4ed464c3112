"""Errors as HTTP answers: problem documents (RFC 9457) with an id that the log carries, too.

What went wrong inside is never told to a client; it stands in the log under the id.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Route

from graticule.errors import (
    BadInput,
    GraticuleError,
    ImageTooLarge,
    MissingPart,
    NotFound,
    Trouble,
)

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
RETRY_SOON = 5
"""Seconds after which something that is away may be back."""


SENTENCE_AS_ERROR = "/oip/"
"""Below this path `error` holds the sentence, too: clients of the Open Inference Protocol show nothing else."""


class ProblemDocument(BaseModel):
    """The body of every answer that is an error."""

    type: str = Field(default="about:blank", description="Always about:blank: the status says the kind.")
    title: str = Field(description="The status in words.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What was expected, what was found, what to do.")
    error: str = Field(default="", description="Class of the error, where there is one; below /oip the sentence.")
    id: str = Field(description="Stands in the gateway's log beside the reason.")


class Problem(HTTPException):
    """An error whose sentence is meant for the client."""

    def __init__(
        self, status: int, detail: str, *, error: str = "", retry_after: float | None = None, close: bool = False
    ) -> None:
        """`close`: the connection ends after the answer, because the rest of the request will not be read."""
        headers = {}
        if retry_after is not None:
            headers["Retry-After"] = str(max(1, round(retry_after)))
        if status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"
        if close:
            headers["Connection"] = "close"
        super().__init__(status, detail, headers)
        self.error = error


class LoginNeeded(Exception):
    """A page was asked for by somebody who is not logged in."""


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may answer with these errors."""
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    return {status: {"description": HTTPStatus(status).phrase, "content": content} for status in statuses}


def problem_of(error: GraticuleError) -> Problem:
    """The answer to one of graticule's own errors."""
    if isinstance(error, NotFound):
        return Problem(404, "There is no such object.", error=error.kind)
    if isinstance(error, ImageTooLarge):
        return Problem(413, str(error), error=error.kind)
    if isinstance(error, BadInput):
        return Problem(422, str(error), error=error.kind)
    if isinstance(error, Trouble):
        text = "The cluster's storage or queue does not answer at the moment. Try again soon."
        return Problem(503, text, error=error.kind, retry_after=RETRY_SOON)
    if isinstance(error, MissingPart):
        return Problem(501, "The gateway lacks a part that this needs; its log names it.", error=error.kind)
    return Problem(500, "Something went wrong in the gateway.", error=error.kind)


def install(app: FastAPI, routes: Sequence[BaseRoute]) -> None:
    """Answer every error with a problem document. `routes`: those of the application's interfaces."""

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            # The router names the methods of the first route of that path only.
            error.headers = {"Allow": ", ".join(sorted(_methods(routes, request.url.path)))}
        return _answer(request, error, cause=error.__cause__)

    @app.exception_handler(RequestValidationError)
    async def invalid_request(request: Request, error: RequestValidationError) -> Response:
        return _answer(request, Problem(422, _mistakes(list(error.errors()))))

    @app.exception_handler(ValidationError)
    async def invalid_value(request: Request, error: ValidationError) -> Response:
        return _answer(request, Problem(500, "Something went wrong in the gateway."), cause=error)

    @app.exception_handler(GraticuleError)
    async def known_error(request: Request, error: GraticuleError) -> Response:
        return _answer(request, problem_of(error), cause=error)


def unexpected(request_id: str, error: BaseException, path: str) -> JSONResponse:
    """The answer when nobody foresaw the error."""
    log.error("error %s: unexpected %s", request_id, type(error).__name__, exc_info=error)
    return _document(request_id, Problem(500, "Something went wrong in the gateway."), path)


def refusal(request_id: str, problem: Problem, path: str) -> JSONResponse:
    """The answer to a request that reaches no route."""
    log.info("error %s: %d: %s", request_id, problem.status_code, problem.detail)
    return _document(request_id, problem, path)


def mistakes_of(error: ValidationError) -> str:
    """What is wrong with values that a client sent."""
    return _mistakes([dict(mistake) for mistake in error.errors(include_url=False, include_context=False)])


def _methods(routes: Sequence[BaseRoute], path: str) -> set[str]:
    """Methods that a path takes."""
    fitting = (route for route in routes if isinstance(route, Route) and route.path_regex.match(path))
    return {method for route in fitting for method in route.methods or ()}


def _answer(request: Request, problem: HTTPException, cause: BaseException | None = None) -> Response:
    request_id = request.scope["state"]["request_id"]
    level = logging.ERROR if problem.status_code == 500 else logging.INFO
    trace = cause if problem.status_code == 500 else None
    log.log(
        level,
        "error %s: %d for %s %s: %s%s",
        request_id,
        problem.status_code,
        request.method,
        request.url.path,
        problem.detail,
        f" (cause: {cause})" if cause else "",
        exc_info=trace,
    )
    show = getattr(request.app.state, "error_page", None)
    if show and "text/html" in request.headers.get("accept", ""):
        return show(request, _problem_document(request_id, problem, ""), dict(problem.headers or {}))
    return _document(request_id, problem, request.url.path)


def _document(request_id: str, problem: HTTPException, path: str) -> JSONResponse:
    body = _problem_document(request_id, problem, path)
    return JSONResponse(body.model_dump(), problem.status_code, dict(problem.headers or {}), media_type=MEDIA_TYPE)


def _problem_document(request_id: str, problem: HTTPException, path: str) -> ProblemDocument:
    error = problem.error if isinstance(problem, Problem) else ""
    return ProblemDocument(
        title=HTTPStatus(problem.status_code).phrase,
        status=problem.status_code,
        detail=str(problem.detail),
        error=str(problem.detail) if path.startswith(SENTENCE_AS_ERROR) else error,
        id=request_id,
    )


def _mistakes(errors: list[dict[str, Any]]) -> str:
    told = (f"{'.'.join(str(part) for part in mistake['loc'])}: {mistake['msg']}" for mistake in errors)
    return f"The request does not fit: {'; '.join(told)}."
