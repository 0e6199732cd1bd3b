"""Sessions of the web pages: a signed cookie that names an API key and never holds one.

The signature is made with a secret of this home, so several API processes over one home accept each other's sessions. A
revoked or expired key ends its sessions at once, because the key is looked up for each request. Tokens of forms are
made from the session's own nonce, so another site, which cannot read the cookie, cannot make one (signed double submit,
OWASP).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from eda_service.errors import InputError
from eda_service.storage.files import claim_file

COOKIE = "eda_session"
LIFETIME_S = 12 * 3600
_SEALED = re.compile(r"([0-9a-f]{16}|-)\.([0-9a-f]{32})\.([0-9]{1,12})\.([0-9a-f]{64})")


class FormTokenError(InputError):
    """A form was sent without the token of its session: by another site, or long after it was shown."""

    code = "form_token_invalid"


@dataclass(frozen=True)
class Session:
    """The session of one browser.

    Attributes:
        key_id: Id of the key that the browser logged in with; None: it has not logged in.
        nonce: Random number of the session.
        expires_at: End of the session, in seconds since the epoch.
    """

    key_id: str | None
    nonce: str
    expires_at: int


class Sessions:
    """Makes and checks cookies and form tokens.

    Args:
        home: State root; the secret is in `<home>/ui/secret`, readable by the service's user only.
        clock: Clock in seconds since the epoch.
    """

    def __init__(self, home: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._home, self._clock = home, clock

    def new(self, key_id: str | None) -> Session:
        """Make a session that begins now."""
        return Session(key_id, secrets.token_hex(16), int(self._clock()) + LIFETIME_S)

    def seal(self, session: Session) -> str:
        """Return the cookie of a session."""
        content = f"{session.key_id or '-'}.{session.nonce}.{session.expires_at}"
        return f"{content}.{self._sign('session', content)}"

    def open(self, cookie: str | None) -> Session | None:
        """Return the session of a cookie; None if the cookie is not signed by this service, or has expired."""
        found = _SEALED.fullmatch(cookie or "")
        if found is None:
            return None
        key_id, nonce, expires_at, signature = found.groups()
        if not hmac.compare_digest(signature, self._sign("session", f"{key_id}.{nonce}.{expires_at}")):
            return None
        if int(expires_at) <= self._clock():
            return None
        return Session(None if key_id == "-" else key_id, nonce, int(expires_at))

    def form_token(self, session: Session) -> str:
        """Return the token that every form of a session carries."""
        return self._sign("form", session.nonce)

    def require_form_token(self, session: Session | None, token: str) -> None:
        """Check the token of a form.

        Raises:
            FormTokenError: The token does not belong to the session.
        """
        if session is None or not hmac.compare_digest(token.encode(), self.form_token(session).encode()):
            raise FormTokenError(
                "this form is too old, or came from another site; load the page again and send it anew"
            )

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self._secret, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()

    @cached_property
    def _secret(self) -> bytes:
        path = self._home / "ui" / "secret"
        if not path.exists():  # of several API processes each may be given the same one, read only
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            claim_file(path, secrets.token_hex(32))
            path.chmod(0o600)
        return bytes.fromhex(path.read_text(encoding="utf-8").strip())
