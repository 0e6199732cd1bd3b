"""Access to the pages: the API key behind a session. A service without keys belongs to one person and has no login."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from api.auth import LOCAL, Caller, InvalidKeyError, caller_of, require_scope
from api.errors import DATABASE_ERRORS
from api.services import services_of
from api.ui.sessions import COOKIE, Session
from eda_service.errors import InputError
from eda_service.jobstore.keys import KeyStore
from eda_service.scopes import Scope

_MAX_FIELDS = 32
_FORM_TYPE = "application/x-www-form-urlencoded"


class LoginNeededError(InvalidKeyError):
    """The service has keys, and this browser has not logged in with a valid one."""

    code = "login_needed"


@dataclass(frozen=True)
class Visitor:
    """The visitor of a page.

    Attributes:
        caller: Caller as the API knows the visitor.
        session: Session of the browser.
        form_token: Token for the forms of the session.
        cookie: Value that the browser's cookie must have.
        is_open: Whether the service has no keys, so that no login is needed.
    """

    caller: Caller
    session: Session
    form_token: str
    cookie: str
    is_open: bool

    def may(self, *scopes: str) -> bool:
        """Whether the visitor's key has one of these scopes."""
        return bool(self.caller.scopes & {*map(Scope, scopes), Scope.ADMIN})


def visitor_of(request: Request) -> Visitor:
    """Return the visitor who sent a request, by its cookie.

    Raises:
        LoginNeededError: The service has keys, and the cookie names no valid one.
    """
    keys = services_of(request).store.keys
    session = session_of(request)
    is_open = not keys.exist()
    return _visitor(request, LOCAL if is_open else _caller(keys, session), session, is_open)


def known_visitor(request: Request) -> Visitor | None:
    """Return the visitor if one is logged in; None if not, or if the database does not answer."""
    try:
        return visitor_of(request)
    except (LoginNeededError, *DATABASE_ERRORS):
        return None


def session_of(request: Request) -> Session:
    """Return the session of a request's cookie, or a new one without a key."""
    sessions = services_of(request).sessions
    return sessions.open(request.cookies.get(COOKIE)) or sessions.new(None)


def _visitor(request: Request, caller: Caller, session: Session, is_open: bool) -> Visitor:
    sessions = services_of(request).sessions
    return Visitor(caller, session, sessions.form_token(session), sessions.seal(session), is_open)


def _caller(keys: KeyStore, session: Session) -> Caller:
    key = None if session.key_id is None else keys.valid(session.key_id)
    if key is None:
        raise LoginNeededError("log in with an API key; `eda keys create` makes one")
    return caller_of(key)


def visit(*scopes: Scope) -> Callable[[Request], Visitor]:
    """Make a dependency that returns the visitor, whose key must have one of these scopes or be an admin's."""

    def visitor(request: Request) -> Visitor:
        found = visitor_of(request)
        require_scope(found.caller, *scopes)
        return found

    return visitor


async def form_of(request: Request) -> dict[str, str]:
    """Return the fields of a form that was sent with its session's token.

    Raises:
        FormTokenError: The token is missing or wrong.
        InputError: The body is not a form.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM_TYPE:
        raise InputError(f"a form is sent as {_FORM_TYPE}")
    try:
        text = (await request.body()).decode("ascii")
        fields = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError as error:
        raise InputError(
            f"the form does not parse, or has more than {_MAX_FIELDS} fields; load its page again"
        ) from error
    sessions = services_of(request).sessions
    sessions.require_form_token(sessions.open(request.cookies.get(COOKIE)), fields.get("token", ""))
    return fields


FormDep = Annotated[dict[str, str], Depends(form_of)]
VisitorDep = Annotated[Visitor, Depends(visitor_of)]
ReaderDep = Annotated[Visitor, Depends(visit(Scope.JOBS_READ))]
LookerDep = Annotated[Visitor, Depends(visit(Scope.JOBS_READ, Scope.INFER))]
WriterDep = Annotated[Visitor, Depends(visit(Scope.JOBS_WRITE))]
AskerDep = Annotated[Visitor, Depends(visit(Scope.INFER))]
