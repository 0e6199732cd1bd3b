"""Permissions of an API key."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """One permission; `admin` includes all others and sees every owner's objects."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    INFER = "infer"
    ADMIN = "admin"
