"""The token of our own Ray cluster: one per home, made by us, readable by the owner only.

Ray 2.60 turns token authentication on by itself as soon as `~/.ray/auth_token` exists, which any `ray.init()` of the
same user creates. A head without an explicit mode would therefore answer or refuse depending on other programs of the
user. Ours sets the mode and the path, and never reads or writes the user's own token.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

_MODE, _PATH, _VALUE = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_TOKEN"


def token_path(home: Path) -> Path:
    """Return the path of the token of this home's cluster."""
    return home / "ray" / "auth_token"


def ensure_token(home: Path) -> Path:
    """Make the token unless this home has one; return its path."""
    path = token_path(home)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(secrets.token_hex(32))
    return path


def with_token(env: dict[str, str], home: Path) -> dict[str, str]:
    """Return an environment whose Ray processes and clients use only this home's token."""
    kept = {name: value for name, value in env.items() if name != _VALUE}
    return {**kept, _MODE: "token", _PATH: str(token_path(home))}


def auth_headers(path: Path | None) -> dict[str, str]:
    """Make HTTP headers for the dashboard; empty for a cluster without a token."""
    if path is None or not path.is_file():
        return {}
    return {"Authorization": f"Bearer {path.read_text(encoding='utf-8').strip()}"}
