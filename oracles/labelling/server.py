"""The web server of the labelling page: a FastAPI application over a store."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import dataclasses
import io
import logging
import re
import tempfile
import threading
import time as clock
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from fastapi import Depends, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from prefenvs.agreement import measure_agreement
from prefenvs.errors import PrefenvsError
from prefenvs.limits import check_list
from prefenvs.oracles.labelling.access import Access, Denied, Guard, Visitor
from prefenvs.oracles.labelling.answers import MOST_TAGS, TAG_LENGTH, Pace, store_answers
from prefenvs.oracles.labelling.clips import Clips, note_size
from prefenvs.oracles.labelling.manager import ON, Controls, act, describe, read_controls
from prefenvs.oracles.labelling.pages import show_page, show_report
from prefenvs.oracles.labelling.status import Status
from prefenvs.oracles.labelling.trouble import add_errors
from prefenvs.oracles.people.gold import list_gold, score_gold
from prefenvs.oracles.people.ranking import ask_next, newest
from prefenvs.store import TUTORIAL, Assignment, AssignmentPlan, Assignments, Store, StoreUnavailable, export_store
from prefenvs.tasks import Task, find_task

STATIC = Path(__file__).parent / "static"
PAGE_VERSION = "3"
MOST_QUESTIONS = 20
UPCOMING, MOST_UPCOMING, LOOK_EVERY = 10, 200, 1.0
"""Questions for each person whose clips are made before anybody asks for them, at most so many, and seconds between two
looks for such."""
RANKING_COLUMNS = (
    *("place", "name", "win_rate", "low", "high", "strength", "probability_best"),
    *("wins", "ties", "answers", "true_return"),
)
_log = logging.getLogger("prefenvs.labelling")
_HASH = re.compile(r"[0-9a-f]{64}\.mp4")
_COOKIE_SECONDS = 90 * 24 * 3600


Figure = Literal["rate", "agreement", "model"]
Standing = Callable[[], dict[str, Any]]
"""Returns the ranking of a judging as it stands, with `clips`, a segment's hash for each agent, by name."""


@dataclass(frozen=True)
class Form:
    """What the page offers beside the choice.

    strength: "much better", see `people.strength`. tags: reasons to choose from. show: which figures annotators see of
    their own: rate (labels an hour), agreement (with themselves), model (how often the reward model is right).
    """

    strength: bool = False
    tags: tuple[str, ...] = ()
    show: tuple[Figure, ...] = ()

    def __post_init__(self) -> None:
        check_list("tags", self.tags)
        check_list("show", self.show)
        for figure in self.show:
            if figure not in get_args(Figure):
                raise PrefenvsError(f"show={figure!r} is no figure: choose {', '.join(get_args(Figure))}")
        if len(self.tags) > MOST_TAGS or any(not 0 < len(tag) <= TAG_LENGTH for tag in self.tags):
            raise PrefenvsError(f"--tags takes at most {MOST_TAGS} reasons of at most {TAG_LENGTH} characters each")


class Desk:
    """What the routes share: questions out, answers in."""

    def __init__(
        self, store: Store, access: Access, clips: Clips, plan: AssignmentPlan, form: Form, seed: int | None
    ) -> None:
        self.store, self.access, self.clips = store, access, clips
        self.assignments, self.form = Assignments(store, plan, seed), form
        self.started, self.controls = plan, Controls()
        # By annotator, when their page last asked, in seconds since 1970.
        self.seen: dict[str, float] = {}
        # Of the first question that was open; each question names its own.
        self.task: Task | None = None
        self.status = Status(self.assignments)
        self.pace = Pace()
        self._unknown: dict[str, str] = {}
        self._ranking, self._ranked = threading.Lock(), (-1, -1)
        self.standing: Standing | None = None
        # How clips look on the page that asked last; those made ahead look so too.
        self.look = clips.look()

    def with_cookie(self, response: Response, secret: str, request: Request) -> Response:
        """Let the browser show this secret from now on; one that came over TLS, over nothing else."""
        cookie, secure = self.access.cookie, request.url.scheme == "https"
        response.set_cookie(
            cookie, secret, max_age=_COOKIE_SECONDS, httponly=True, samesite="strict", path="/", secure=secure
        )
        return response

    def session(self, visitor: Visitor) -> dict[str, Any]:
        """Return /api/session."""
        if self.task is None:
            waiting = self.store.pending_queries(self.assignments.plan.run, limit=1)
            if waiting and not self._problem(waiting[0].segments[0].task):
                self.task = find_task(waiting[0].segments[0].task)
        return {
            "annotator": visitor.annotator,
            "task": self.task.id if self.task else "",
            "sentence": self.task.sentence if self.task else "",
            "budget": self.status.read(visitor.annotator)["budget"],
            "page_version": PAGE_VERSION,
            "csrf": visitor.csrf,
            "store": self.store.identity,
            "manager": visitor.manager,
            **dataclasses.asdict(self.form),
        }

    def read_status(self, visitor: Visitor) -> dict[str, Any]:
        """Return /api/status, without the figures that the lab keeps to itself."""
        self.seen[visitor.annotator] = clock.time()
        found, shown = self.status.read(visitor.annotator), self.form.show
        if visitor.manager:
            return found
        if "rate" not in shown:
            found["labels_per_hour"] = 0.0
        if "agreement" not in shown:
            found["mine"]["repeat_consistency"] = None
        if "model" not in shown:
            found["learner"] = None
        return found

    def apply_controls(self) -> None:
        """Do as a manager has set, here or at another server of this store."""
        self.controls = read_controls(self.store)
        overlap = self.started.overlap if self.controls.overlap is None else self.controls.overlap
        if overlap != self.assignments.plan.overlap:
            self.assignments.plan = dataclasses.replace(self.assignments.plan, overlap=overlap)

    def manage(self, manager: str, body: Any) -> dict[str, Any]:
        """Do what a manager wants, and return what came of it."""
        done = act(self.store, manager, body)
        self.access.forget()
        self.apply_controls()
        return done

    def judging(self) -> dict[str, Any]:
        """Return what the page of a judging shows: the ranking as it stands, and how far its judges agree."""
        agreement = measure_agreement(self.store, self.assignments.plan.run)
        judges = [dataclasses.asdict(person) for person in agreement.annotators]
        found: dict[str, Any] = {"alpha": agreement.alpha, "shared": agreement.shared, "percent": agreement.percent}
        ranking = self.standing() if self.standing else None
        clips = ranking.pop("clips") if ranking else {}
        described = self.clips.describe(clips.values(), self.look)
        urls = {name: described[key]["url"] for name, key in clips.items()}
        return {"ranking": ranking, "clips": urls, "judges": judges, "agreement": found}

    def gold_scores(self) -> dict[str, Any]:
        """Return how often each annotator was right where the right answer is known."""
        return {
            name: {
                "right": score.all.value,
                "asked": score.all.count,
                "low": score.all.interval[0],
                "high": score.all.interval[1],
                "recent": score.recent.value,
                "weight": score.weight,
            }
            for name, score in score_gold(self.store).items()
        }

    def next(self, annotator: str, count: int, holding: Sequence[str], pixels: int | None = None) -> dict[str, Any]:
        """Return /api/next, and have the clips made as large as the page shows them."""
        look = self.clips.look(pixels)
        if look != self.look:
            self.look = look
            note_size(self.store, self.clips.sizes[self.clips.looks.index(look)])
        self.seen[annotator] = clock.time()
        if self.controls.paused:
            return {"questions": [], "waiting": True, "closed": [], "problem": "", "paused": True}
        leased = self.assignments.lease(annotator, count, holding)
        questions, problem = self._describe(leased, look)
        self.clips.prefetch((clip["hash"] for question in questions for clip in question["clips"]), look)
        more = not questions and not holding
        waiting = more and (self.assignments.count_leased(annotator) > 0 or self.status.more_may_come())
        closed = self.assignments.closed(annotator, holding) if holding else []
        return {"questions": questions, "waiting": waiting, "closed": closed, "problem": problem}

    def look_ahead(self) -> None:
        """Have the clips made of the questions that will be handed out next, so that nobody waits for them."""
        self.apply_controls()
        self._rank_on()
        people = sum(clock.time() - seen < ON for seen in [*self.seen.values()])
        count = min(UPCOMING * max(people, 1), MOST_UPCOMING)
        self.clips.prefetch(self.assignments.upcoming(count), self.look)

    async def find_clip(self, name: str, look: str) -> Path:
        """Return a clip's file as soon as it is complete; where it cannot be made, the log says why."""
        if not _HASH.fullmatch(name):
            raise Denied(404, "there is no such clip")
        try:
            return await asyncio.wrap_future(await run_in_threadpool(self.clips.path, name.removesuffix(".mp4"), look))
        except StoreUnavailable:
            raise
        except (PrefenvsError, OSError) as error:
            _log.warning("clip %s: %s", name, error)
            reason = "this clip cannot be shown; whoever runs the server finds the reason in its log"
            raise Denied(404, reason) from error
        except asyncio.CancelledError:
            raise Denied(503, "the server is being stopped") from None

    def take(self, annotator: str, body: Any) -> dict[str, Any]:
        """Store a posted body's answers and return which are on the disk."""
        with self.pace.measuring(annotator):
            accepted, rejected = store_answers(self.assignments, annotator, body, PAGE_VERSION, self.pace)
        self._rank_on()
        return {"accepted": accepted, "rejected": rejected}

    def _rank_on(self) -> None:
        """Ask what ranked lists need next."""
        plan = self.assignments.plan
        if plan.kind == "ranking":
            with self._ranking:
                found = newest(self.store)
                if found == self._ranked:
                    return
                self._ranked = found
                ask_next(self.store, self.store.runs() if plan.run is None else [plan.run])

    def _problem(self, task_id: str) -> str:
        """Say why clips of a task cannot be shown, once in the log as well; empty where they can."""
        try:
            find_task(task_id)
        except PrefenvsError as error:
            if task_id not in self._unknown:
                _log.warning("questions cannot be shown: %s", error)
            self._unknown[task_id] = str(error)
            return self._unknown[task_id]
        return ""

    def _describe(self, leased: Sequence[Assignment], look: str) -> tuple[list[dict[str, Any]], str]:
        """Return questions as the page wants them, clips in the order shown, and why some are left out, if any are."""
        queries = self.store.find_queries(item.query for item in leased if item.query)
        questions, problem = [], ""
        gold = list_gold(self.store) if any(item.run == TUTORIAL for item in leased) else {}
        for item in leased:
            if item.query is not None:
                hashes = [queries[item.query].segments[index].hash for index in item.shown]
                kind, task_id = "comparison" if len(hashes) == 2 else "best", queries[item.query].segments[0].task
            else:
                hashes, kind = [str(item.segment)], "rating"
                task_id = self.store.find_segments(hashes)[hashes[0]].task
            found = self._problem(task_id)
            if found:
                problem = found
                continue
            described = self.clips.describe(hashes, look)
            questions.append(
                {
                    "id": item.id,
                    "query": item.query or "",
                    "kind": kind,
                    "sentence": find_task(task_id).sentence,
                    "task": task_id,
                    "clips": [described[key] for key in hashes],
                    "lease_seconds": max(0, round(item.expires - clock.time())),
                    # The place of the better clip as it is shown.
                    "tutorial": item.shown.index(int(np.argmax(gold[str(item.query)])))
                    if item.run == TUTORIAL
                    else None,
                }
            )
        return questions, problem


def _identify(request: Request) -> Visitor:
    desk: Desk = request.app.state.desk
    # Another store may be served now where the page was loaded: neither its questions nor its answers are this one's.
    if request.headers.get("x-store", desk.store.identity) != desk.store.identity:
        raise Denied(409, "this page belongs to another store than the one served here now: load it anew")
    return desk.access.identify(request)


Who = Annotated[Visitor, Depends(_identify)]


def _manage(who: Who) -> Visitor:
    if not who.manager:
        raise Denied(403, "this is for whoever manages the labelling")
    return who


Manager = Annotated[Visitor, Depends(_manage)]


def create_app(
    store: Store,
    access: Access,
    clips: Clips,
    plan: AssignmentPlan | None = None,
    seed: int | None = None,
    form: Form | None = None,
    standing: Standing | None = None,
) -> FastAPI:
    """Return the application.

    access: who may label; clips: where clips come from, closed with the application; plan: how questions are spread
    over annotators; seed: of sides and repetitions; form: what the page offers beside the choice; standing: the ranking
    that managers see where whole policies are judged.
    """
    desk = Desk(store, access, clips, plan or AssignmentPlan(), form or Form(), seed)
    desk.standing = standing

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        looking = asyncio.create_task(_keep_looking(desk))
        yield
        looking.cancel()
        await run_in_threadpool(clips.close)

    app = FastAPI(title="prefenvs labelling", openapi_url=None, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.desk = desk
    app.add_middleware(Guard)
    add_errors(app)
    _add_pages(app, desk)
    _add_questions(app, desk)
    _add_management(app, desk)
    return app


async def _keep_looking(desk: Desk) -> None:
    """Look ahead until cancelled; a store that is busy now is looked at again."""
    while True:
        with contextlib.suppress(PrefenvsError, OSError):
            await run_in_threadpool(desk.look_ahead)
        await asyncio.sleep(LOOK_EVERY)


def _add_pages(app: FastAPI, desk: Desk) -> None:
    """Add what people look at: the page, the report and the clips."""

    @app.get("/")
    def page(request: Request, token: str | None = None) -> Response:
        try:
            visitor = desk.access.enter(token, request)
            inside = "/manager" if visitor.manager and desk.access.open_to is None else "/"
            shown: Response = RedirectResponse(inside, status_code=303)
            if token is None:
                shown = show_page(request, "label")
            return desk.with_cookie(shown, visitor.secret, request)
        except Denied as error:
            if error.status != 401 or "text/html" not in request.headers.get("accept", ""):
                raise
            # The page itself is no secret, and tells a person what is wrong; all data answers 401.
            return show_page(request, "label", 401)

    @app.get("/health")
    def health() -> dict[str, str]:
        # Whether answers can be stored now: a store that cannot be read raises, and answers 503.
        desk.controls = read_controls(desk.store)
        return {"status": "ok"}

    @app.get("/clips/{look}/{name}")
    async def clip(look: str, name: str, who: Who) -> Response:
        if look not in desk.clips.looks and _HASH.fullmatch(name):
            # A page from before a restart with another --size; what it gets must not be kept under the old address.
            present = desk.clips.url(name.removesuffix(".mp4"), desk.look)
            return RedirectResponse(present, 307, {"Cache-Control": "no-store"})
        path = await desk.find_clip(name, look)
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return FileResponse(path, media_type="video/mp4", headers=headers)

    @app.get("/static/{name:path}")
    def static(name: str) -> Response:
        files = {file.relative_to(STATIC).as_posix(): file for file in STATIC.rglob("*.*")}
        if name not in files:
            raise Denied(404, "there is no such file")
        return FileResponse(files[name], headers={"Cache-Control": "no-cache"})


def _add_questions(app: FastAPI, desk: Desk) -> None:
    """Add what the page's script talks to."""

    @app.get("/api/session")
    def session(request: Request, who: Who) -> Response:
        return desk.with_cookie(JSONResponse(desk.session(who)), who.secret, request)

    @app.get("/api/next")
    def next_questions(who: Who, count: int = 5, holding: str = "", pixels: int | None = None) -> dict[str, Any]:
        if not 0 <= count <= MOST_QUESTIONS:
            raise PrefenvsError(f"count={count} questions cannot be had at once: ask for 0 to {MOST_QUESTIONS}")
        held = [key for key in holding.split(",") if key]
        if len(held) > 2 * MOST_QUESTIONS:
            raise PrefenvsError(f"{len(held)} questions cannot be held at once: the most is {2 * MOST_QUESTIONS}")
        return desk.next(who.annotator, count, held, pixels)

    @app.post("/api/answers")
    async def answers(request: Request, who: Who) -> dict[str, Any]:
        desk.access.check_post(request, who)
        return await run_in_threadpool(desk.take, who.annotator, await _read_json(request))

    @app.get("/api/status")
    def status(who: Who) -> dict[str, Any]:
        return desk.read_status(who)


def _add_management(app: FastAPI, desk: Desk) -> None:
    """Add what only a manager sees."""

    @app.get("/manager")
    def page(request: Request, who: Manager) -> Response:
        return show_page(request, "manager", judging=desk.standing is not None)

    @app.get("/judging")
    def judging_page(request: Request, who: Manager) -> Response:
        return show_page(request, "judging")

    @app.get("/api/judging")
    def judging(who: Manager) -> dict[str, Any]:
        return desk.judging()

    @app.get("/api/judging.csv")
    def table(who: Manager) -> Response:
        headers = {"Content-Disposition": 'attachment; filename="ranking.csv"'}
        return Response(write_table(desk.judging()["ranking"]), media_type="text/csv", headers=headers)

    @app.get("/report")
    def report_page(request: Request, who: Manager) -> Response:
        agreement = measure_agreement(desk.store, desk.assignments.plan.run)
        return show_report(request, agreement, desk.session(who)["task"])

    @app.get("/api/report")
    def report(who: Manager) -> dict[str, Any]:
        return dataclasses.asdict(measure_agreement(desk.store, desk.assignments.plan.run))

    @app.get("/api/manager")
    def overview(who: Manager) -> dict[str, Any]:
        return describe(desk)

    @app.post("/api/manager")
    async def manage(request: Request, who: Manager) -> dict[str, Any]:
        desk.access.check_post(request, who)
        body = await _read_json(request)
        return await run_in_threadpool(desk.manage, who.annotator, body)

    @app.get("/api/export")
    def export(who: Manager) -> Response:
        folder = tempfile.TemporaryDirectory(prefix="prefenvs-export-")
        path = Path(folder.name) / "labels.zip"
        export_store(desk.store, path)
        return FileResponse(path, filename="labels.zip", background=BackgroundTask(folder.cleanup))


def write_table(ranking: dict[str, Any] | None) -> str:
    """Return a ranking as CSV, one agent a line; PrefenvsError where none is made."""
    if ranking is None:
        raise PrefenvsError("no ranking is made in this labelling: prefenvs judge --label makes one")
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(RANKING_COLUMNS)
    for agent in ranking["agents"]:
        low, high = agent["win_rate_interval"]
        writer.writerow([{**agent, "low": low, "high": high}[name] for name in RANKING_COLUMNS])
    return text.getvalue()


async def _read_json(request: Request) -> Any:
    try:
        return await request.json()
    except (ValueError, RecursionError):
        raise PrefenvsError("the body is not JSON") from None
    except ClientDisconnect:
        raise Denied(413, "the body is too long") from None
