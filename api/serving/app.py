"""The endpoint's application under the name that manifests of versions before hold: `api.serving.app:build_app`."""

from __future__ import annotations

from api.endpoint.app import build_app

__all__ = ["build_app"]
