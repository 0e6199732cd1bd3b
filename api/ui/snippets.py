"""Commands and code to copy, with the address under which the browser knows this service."""

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
    """Something to copy.

    Attributes:
        title: Above it.
        label: What it is, for whoever does not see what it belongs to.
    """

    title: str
    label: str
    text: str


def asking(url: str, name: str, *, needs_key: bool) -> tuple[Snippet, ...]:
    """A question to a deployment, with curl and with OpenAI's client.

    Args:
        url: Of the service.
        name: Of the deployment.
        needs_key: Whether there are keys; the commands read theirs from `EDA_API_KEY`.
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
    """How a version of a pack is served where nothing serves it yet."""
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
