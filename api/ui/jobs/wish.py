"""The form of the page "New adaptation": its fields as values, and the request that is made of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from pydantic import ValidationError

from api.errors import config_error
from api.jobs.schemas import AdaptationRequest
from api.ui.forms import whole
from eda_service.config.overrides import parse_assignments
from eda_service.errors import InputError

_ON = "on"
_PROMPTS = {
    "upload": "a file from this computer",
    "pasted": "pasted prompts",
    "file": "an uploaded file",
    "kept": "prompts that a deployment kept",
    "source": "a data set by its name",
}


@dataclass(frozen=True)
class Wish:
    """The filled-in form; a field that was left out is empty.

    Attributes:
        model: Name or path of the target.
        adapter: LoRA adapter of the target.
        draft: Draft as name@version.
        preset: Name of the preset.
        file: Id of an uploaded file.
        kept: A deployment whose kept prompts are used.
        pasted: Prompts, one a line, or JSON lines.
        source: A data set's id, a task, a path on the service's machine, or `self`.
        num_prompts: Number of prompts, as typed.
        name: Name of the deployment, at /v1/models.
        priority: Priority, as typed.
        settings: Settings as `key.path=value`, one a line.
        deploy: Either `on` or empty.
        force: Either `on` or empty.
    """

    model: str = ""
    adapter: str = ""
    draft: str = ""
    preset: str = ""
    file: str = ""
    kept: str = ""
    pasted: str = ""
    source: str = ""
    num_prompts: str = ""
    name: str = ""
    priority: str = "50"
    settings: str = ""
    deploy: str = _ON
    force: str = ""

    @classmethod
    def of(cls, given: Mapping[str, str], *, is_sent: bool) -> Wish:
        """Read the form's fields, or the query of an address.

        Args:
            given: The given fields; unknown ones are ignored.
            is_sent: Whether a form was sent, which leaves out unmarked check boxes.
        """
        known = {each.name for each in fields(cls)}
        texts = {name: value.strip() for name, value in given.items() if name in known}
        boxes = {"deploy": "", "force": ""} if is_sent else {}
        return cls(**{**boxes, **texts})

    @property
    def hidden(self) -> dict[str, str]:
        """Return the fields that the second step needs: those that are not empty."""
        return {name: value for name, value in asdict(self).items() if value}

    @property
    def address(self) -> dict[str, str]:
        """Return the fields as the query of the first step, in which an unmarked check box is written too."""
        return {**self.hidden, "deploy": self.deploy}

    def with_file(self, file_id: str) -> Wish:
        """Return the form with the prompts of an uploaded file."""
        return replace(self, file=file_id, kept="", pasted="", source="")

    def require_one_source(self, *, has_upload: bool) -> None:
        """Check that at most one source of prompts is given.

        Raises:
            InputError: Prompts are given in two ways.
        """
        given = {"upload": has_upload, **{name: bool(getattr(self, name)) for name in _PROMPTS if name != "upload"}}
        found = [_PROMPTS[name] for name, is_given in given.items() if is_given]
        if len(found) > 1:
            raise InputError(f"prompts are given as {' and as '.join(found)}; leave one of them", param="prompts")

    def pasted_rows(self) -> Iterator[str]:
        """Yield the pasted text as rows of a prompt file: JSON unchanged, and each line of other text as a prompt."""
        rows = [line for line in self.pasted.splitlines() if line.strip()]
        is_json = bool(rows) and rows[0].lstrip()[:1] in {"{", "["}
        yield from rows if is_json else (json.dumps({"prompt": line.strip()}) for line in rows)

    def request(self) -> AdaptationRequest:
        """Build the request to the service.

        Raises:
            InputError: A field is out of its bounds.
        """
        dataset: dict[str, Any] = {"source": self.file or self.source} if self.file or self.source else {}
        if self.num_prompts:
            dataset["num_prompts"] = whole("num_prompts", self.num_prompts)
        given: dict[str, Any] = {
            "model": self.model,
            "adapter": self.adapter,
            "base_draft": self.draft,
            "preset": self.preset,
            "served_name": self.name,
            "dataset": dataset,
            "priority": whole("priority", self.priority or "50"),
            "config": parse_assignments([line.strip() for line in self.settings.splitlines() if line.strip()]),
        }
        chosen = {name: value for name, value in given.items() if value not in ("", {})}
        deploy = {} if self.deploy else {"deploy": False}
        try:
            return AdaptationRequest.model_validate({**chosen, **deploy, "force": bool(self.force)})
        except ValidationError as error:
            raise config_error(error, AdaptationRequest) from error
