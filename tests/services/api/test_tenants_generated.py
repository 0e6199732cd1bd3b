"""Every route, asked by each of two owners: the answers are those of a world in which the other has nothing.

So no route shows, changes or lets tell apart what is the other's: a job, its events, log, report and plots, a
deployment with its history and events, a pack and its champion, a model at the endpoint, series, kept prompts, the use
of an idempotency key, a form. Whether it is alive, deleted, or deleted and its name taken. Routes are taken from the
application: one without a case fails.

Numbers of pack versions and of events are counted through all owners and left out; that a name is taken is told to
whoever wants it, as names are the whole service's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from tenant_cases import CASES, Case
from tenant_worlds import SHARED, Owner, World, comparable, world

from api.app import create_app
from api.settings import Settings


def routes() -> set[tuple[str, str]]:
    app = create_app(Settings(database_url="sqlite://"))
    ui = next(route.app for route in app.routes if getattr(route, "path", "") == "/ui")  # type: ignore[attr-defined]
    found = [(route, "") for route in app.routes] + [(route, "/ui") for route in ui.routes]
    return {
        (method, prefix + route.path)
        for route, prefix in found
        if isinstance(route, APIRoute)
        for method in route.methods
    }


def test_every_route_has_a_case() -> None:
    assert routes() == set(CASES)


@dataclass(frozen=True)
class Scenario:
    """Two worlds: in one of them the other owner has made things, in the other one nothing.

    Attributes:
        viewer: Who asks.
        hidden: Whose objects must not show.
        play: Makes everything; is told whether the hidden owner takes part.
    """

    viewer: str
    hidden: str
    play: Callable[[World, bool], None]


def alive(made: World, is_whole: bool) -> None:
    """Ann has everything, Bob something of his own."""
    if is_whole:
        made.make_jobs("ann")
        made.deploy("ann", SHARED, 1000)
    made.make_jobs("bob")
    made.deploy("bob", "mine", 50)


def deleted(made: World, is_whole: bool) -> None:
    """Ann's deployment is gone, and her jobs are over; replicas still know what it did."""
    alive(made, is_whole)
    if is_whole:
        made.delete("ann", SHARED)
        made.must("ann", "POST", f"/v1/adaptations/{made.made['ann'].queued}/cancel")


def taken(made: World, is_whole: bool) -> None:
    """And Bob has made its name his."""
    deleted(made, is_whole)
    made.deploy("bob", SHARED, 3)


def lost(made: World, is_whole: bool) -> None:
    """The same, seen by Ann: what Bob has made of her old name is nothing to her."""
    made.make_jobs("ann")
    made.deploy("ann", SHARED, 1000)
    made.delete("ann", SHARED)
    made.deploy("ann", "mine", 50)
    if is_whole:
        made.make_jobs("bob")
        made.deploy("bob", SHARED, 3)


SCENARIOS = {
    "alive": Scenario("bob", "ann", alive),
    "deleted": Scenario("bob", "ann", deleted),
    "taken": Scenario("bob", "ann", taken),
    "lost": Scenario("ann", "bob", lost),
}
Key = tuple[str, str, str]  # method, path, what was asked about


def targets(path: str, made: World, scenario: Scenario) -> dict[str, dict[str, str]]:
    """What a path is asked about: the hidden owner's objects, and the viewer's own."""
    if "{job_id}" in path:
        theirs, own = made.made[scenario.hidden], made.made[scenario.viewer]
        return {
            "their queued job": {"job_id": theirs.queued},
            "their finished job": {"job_id": theirs.finished},
            "own finished job": {"job_id": own.finished},
        }
    if "{file_id}" in path:
        theirs, own = made.made[scenario.hidden], made.made[scenario.viewer]
        return {"their file": {"file_id": theirs.file}, "an own file": {"file_id": own.file}}
    if "/drafts/{name}" in path:
        theirs, own = made.made[scenario.hidden], made.made[scenario.viewer]
        return {"their draft": {"name": theirs.draft}, "an own draft": {"name": own.draft}}
    if "{name}" in path:
        return {"the shared name": {"name": SHARED}, "an own name": {"name": "mine"}}
    return {"all": {}}


def asked(made: World, scenario: Scenario) -> dict[Key, str]:
    """The viewer's answers of all routes: first those that only look, last those that delete."""
    owner, found = made.owners[scenario.viewer], {}
    order = sorted(CASES, key=lambda each: (each[0] != "GET", each[0] == "DELETE" or "/remove" in each[1], each))
    for method, path in order:
        for about, values in targets(path, made, scenario).items():
            parts = {"plot": "acceptance", "stage": "train", "tag": "jobs", "version": "latest", **values}
            url = path.format(**parts)
            found[method, path, about] = answer(made, owner, method, url, CASES[method, path])
    return found


def answer(made: World, owner: Owner, method: str, url: str, case: Case) -> str:
    """Status, place to go to and text of an answer; of a stream, what comes before its first pause."""
    is_page = url.startswith("/ui")
    headers = {**(owner.browser if is_page else owner.bearer), **case.headers}
    body: dict[str, Any] = {} if case.json is None else {"json": case.json}
    if is_page and not case.streams:
        headers["accept"] = "text/html"
    if is_page and case.form is not None:
        body = {"data": {**case.form, "token": owner.form_token}}
    if case.files is not None:
        token = {"token": owner.form_token} if is_page else {}
        body = {"data": {**token, **(case.form or case.fields or {})}, "files": case.files}
    if is_page and case.json is not None:
        headers["x-form-token"] = owner.form_token
    with httpx.stream(method, f"{made.api.url}{url}", headers=headers, timeout=60, trust_env=False, **body) as response:
        text = b""
        for piece in response.iter_raw():
            text += piece
            if case.streams and (text.startswith(b":") or b"\n\n:" in text):
                break
    shown = f"{response.status_code} {response.headers.get('location', '')}\n{text.decode(errors='replace')}"
    shown = shown.replace(made.api.url, "http://service")  # its port is another one in each world
    for pattern, word in case.leave_out:
        shown = re.sub(pattern, word, shown)
    return shown.partition("\n\n:")[0]


@dataclass
class Seen:
    """What a scenario's viewer was told in both worlds, and what the hidden owner has before and after."""

    whole: dict[Key, str]
    without: dict[Key, str]
    before: str
    after: str
    secrets: list[str]


@pytest.fixture(scope="module")
def quick_pages() -> Iterator[None]:
    """Live pages look more often, as a test waits for their first pause."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("api.ui.routes.deployments._INTERVAL_S", 0.3)
        patch.setattr("api.ui.routes.home._INTERVAL_S", 0.3)
        yield


@pytest.fixture(scope="module", params=list(SCENARIOS))
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Seen]]:
    scenario = SCENARIOS[request.param]
    request.getfixturevalue("quick_pages")
    with world(tmp_path_factory.mktemp("without")) as made:
        scenario.play(made, False)
        without = asked(made, scenario)
    with world(tmp_path_factory.mktemp("whole")) as made:
        scenario.play(made, True)
        before = made.belongings(scenario.hidden)
        whole = asked(made, scenario)
        hidden = made.made[scenario.hidden]
        secrets = [f"of {scenario.hidden}", f'"{scenario.hidden}"', hidden.queued, hidden.finished]
        yield request.param, Seen(whole, without, before, made.belongings(scenario.hidden), secrets)


def test_each_answer_is_that_of_a_world_without_the_other(seen: tuple[str, Seen]) -> None:
    name, found = seen
    assert len(found.whole) > 80
    different = [
        f"{' '.join(key)}\n{_difference(comparable(found.without[key]), comparable(text))}"
        for key, text in found.whole.items()
        if comparable(text) != comparable(found.without[key])
    ]
    assert different == [], f"{name}: " + "\n".join(different)


def _difference(one: str, other: str) -> str:
    """Where two texts part."""
    place = next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), 0)
    return f"  {one[max(0, place - 80) : place + 120]!r}\n  {other[max(0, place - 80) : place + 120]!r}"


def test_nothing_of_the_others_is_said(seen: tuple[str, Seen]) -> None:
    """In whatever words: labels, reasons, events, prompts and ids of theirs are in no answer."""
    name, found = seen
    told = [
        (key, secret)
        for key, text in found.whole.items()
        for secret in found.secrets
        if secret in text and not ("their" in key[2] and secret.startswith("adapt_"))  # what was asked for is repeated
    ]
    assert told == [], name


def test_what_is_the_others_stays_as_it_was(seen: tuple[str, Seen]) -> None:
    name, found = seen
    assert found.after == found.before, name


def test_the_cases_reach_what_they_are_about(seen: tuple[str, Seen]) -> None:
    """The viewer's own objects are found, so that equal answers are not equal refusals."""
    name, found = seen
    own = {
        "GET /v1/adaptations/{job_id}/report",
        "GET /v1/adaptations/{job_id}/report/{plot}.png",
        "GET /ui/jobs/{job_id}",
    }
    for key, text in found.whole.items():
        if f"{key[0]} {key[1]}" in own and key[2] == "own finished job":
            assert text.startswith("200"), (key, text)
        if "their" in key[2] or (key[2] == "the shared name" and name == "lost" and "/pack" not in key[1]):
            assert text.startswith(("404", "303")), (key, text)
    served = found.whole["POST", "/v1/chat/completions", "all"]
    assert served.startswith("200" if name == "taken" else "404"), served


def test_a_name_that_is_taken_is_all_that_is_told_about_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    with world(tmp_path_factory.mktemp("named")) as made:
        alive(made, True)
        body = {"name": SHARED, "model": "org/model", "base_draft": "small@1"}
        refused = made.ask("bob", "POST", "/v1/deployments", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "name_taken")
        assert "ann" not in refused.text
        made.delete("ann", SHARED)
        assert made.must("bob", "POST", "/v1/deployments", json=body)["owner"] == "bob"


def test_a_form_of_anothers_session_is_no_form(tmp_path_factory: pytest.TempPathFactory) -> None:
    with world(tmp_path_factory.mktemp("forms")) as made:
        ann, bob = made.owners["ann"], made.owners["bob"]
        for path in [
            path for method, path in CASES if method == "POST" and path.startswith("/ui") and "answer" not in path
        ]:
            url = made.api.url + path.format(job_id="adapt_x", name=SHARED, file_id="file-x")
            body: dict[str, Any] = {
                "data": {"token": ann.form_token, "name": SHARED},
                "files": CASES["POST", path].files,
            }
            answered = httpx.post(url, **body, headers=bob.browser, timeout=60, trust_env=False)
            assert (answered.status_code, answered.json()["error"]["code"]) == (400, "form_token_invalid"), path
