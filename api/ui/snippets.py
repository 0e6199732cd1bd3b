"""Commands and code to copy, with the service's address as the browser sees it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from api.deployments.schemas import PackVersionBody

_KEY = "EDA_API_KEY"
_QUESTION = "What is 48 and half of 48 together?"


@dataclass(frozen=True)
class Snippet:
    """A command or code to copy.

    Attributes:
        title: Heading above it.
        label: Description for screen readers, which read it without the context.
    """

    title: str
    label: str
    text: str


def asking(url: str, name: str, *, needs_key: bool) -> tuple[Snippet, ...]:
    """Return a request to a deployment, with curl and with OpenAI's client.

    Args:
        url: URL of the service.
        name: Name of the deployment.
        needs_key: Whether the service has keys; the commands then read one from `EDA_API_KEY`.
    """
    body = {"model": name, "messages": [{"role": "user", "content": _QUESTION}]}
    key = f'os.environ["{_KEY}"]' if needs_key else '"unused"'
    code = [
        *(["import os", ""] if needs_key else []),
        "from openai import OpenAI",
        "",
        f'client = OpenAI(base_url="{url}/v1", api_key={key})',
        "answer = client.chat.completions.create(",
        f"    model={json.dumps(name)},",
        f'    messages=[{{"role": "user", "content": {json.dumps(_QUESTION)}}}],',
        ")",
        "print(answer.choices[0].message.content)",
    ]
    return (
        Snippet("curl", f"command that asks {name}", _posted(f"{url}/v1/chat/completions", body, needs_key)),
        Snippet("Python", f"Python that asks {name}", "\n".join(code)),
    )


def serving(url: str, pack: PackVersionBody, *, needs_key: bool) -> tuple[Snippet, ...]:
    """Return the commands that deploy a version of a pack that is not served yet."""
    name = pack.id.partition("@")[0]
    target = pack.target or {}
    named = {key: target[key] for key in ("model", "adapter", "revision") if target.get(key)}
    body = {"name": name, **named, "pack": pack.id}
    return (Snippet("curl", f"command that serves {pack.id}", _posted(f"{url}/v1/deployments", body, needs_key)),)


def _posted(url: str, body: Mapping[str, object], needs_key: bool) -> str:
    lines = [f"curl {url}"]
    if needs_key:
        lines.append(f'-H "Authorization: Bearer ${_KEY}"')
    lines += ["-H 'Content-Type: application/json'", f"-d {shlex.quote(json.dumps(body))}"]
    return " \\\n  ".join(lines)
