"""Addresses that people try first, and the pages that they lead to."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import RedirectResponse

router = APIRouter(include_in_schema=False)


@router.get("/")
def front() -> RedirectResponse:
    """The pages."""
    return RedirectResponse("/ui/", status_code=307)


@router.get("/docs")
def docs() -> RedirectResponse:
    """The pages about the API."""
    return RedirectResponse("/ui/docs", status_code=307)
