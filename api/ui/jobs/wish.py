"""What the page "New adaptation" asks for: its fields as values, and the request that they make."""

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
    """The form, as it was filled in; a field that was left alone is empty.

    Attributes:
        model: The target.
        adapter: Of the target.
        draft: name@version.
        preset: Its name.
        file: Id of an uploaded file.
        kept: A deployment whose kept prompts are used.
        pasted: Prompts, one a line, or JSON lines.
        source: A data set's id, a task, a path of the service's machine, or `self`.
        num_prompts: As it was typed.
        name: At /v1/models.
        priority: As it was typed.
        settings: `key.path=value`, one a line.
        deploy: `on`, or empty.
        force: Likewise.
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
        """From a form's fields, or from the query of an address.

        Args:
            given: Its fields; others are passed over.
            is_sent: A form was sent, in which a box without a mark is not there.
        """
        known = {each.name for each in fields(cls)}
        texts = {name: value.strip() for name, value in given.items() if name in known}
        boxes = {"deploy": "", "force": ""} if is_sent else {}
        return cls(**{**boxes, **texts})

    @property
    def hidden(self) -> dict[str, str]:
        """The fields that go on to the second step: those that say something."""
        return {name: value for name, value in asdict(self).items() if value}

    @property
    def address(self) -> dict[str, str]:
        """The fields as the query of the first step, where a box without a mark is said."""
        return {**self.hidden, "deploy": self.deploy}

    def with_file(self, file_id: str) -> Wish:
        """The same on prompts of a file that is at the service."""
        return replace(self, file=file_id, kept="", pasted="", source="")

    def require_one_source(self, *, has_upload: bool) -> None:
        """Check that prompts are given once at most.

        Raises:
            InputError: They are given in two ways.
        """
        given = {"upload": has_upload, **{name: bool(getattr(self, name)) for name in _PROMPTS if name != "upload"}}
        found = [_PROMPTS[name] for name, is_given in given.items() if is_given]
        if len(found) > 1:
            raise InputError(f"prompts are given as {' and as '.join(found)}; leave one of them", param="prompts")

    def pasted_rows(self) -> Iterator[str]:
        """What was pasted as the rows of a prompt file: JSON as it is, and of other text each line as a prompt."""
        rows = [line for line in self.pasted.splitlines() if line.strip()]
        is_json = bool(rows) and rows[0].lstrip()[:1] in {"{", "["}
        yield from rows if is_json else (json.dumps({"prompt": line.strip()}) for line in rows)

    def request(self) -> AdaptationRequest:
        """The request to the service.

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
