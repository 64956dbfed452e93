"""`prefenvs label`: let people compare clips in a browser."""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from prefenvs.errors import PrefenvsError, import_extra
from prefenvs.limits import Fraction, Lease, NonNegativeInt, Pixels, Port, PositiveInt
from prefenvs.tasks import find_task

if TYPE_CHECKING:
    from fastapi import FastAPI

    from prefenvs.oracles.labelling import Clips
    from prefenvs.oracles.labelling.server import Standing
    from prefenvs.store import AssignmentPlan, Store

KEEP_ALIVE = 75
"""Seconds for which a connection stays open between two requests: a person may look at a pair for longer than 5."""


@dataclass(frozen=True)
class Label:
    """Serve the labelling page of a preference store until Ctrl-C; every answer is on the disk when it is accepted.

    `prefenvs label render` renders its clips on other machines.
    """

    store: str
    """Path of the SQLite file, made if there is none, or postgresql:// URL."""
    port: Port = 8765
    """Port to listen on; 0 takes a free one."""
    host: str = "127.0.0.1"
    """Address to listen on; any but this computer's own asks for --annotators, whose links carry tokens."""
    proxy: tuple[str, ...] = ()
    """Addresses of reverse proxies, such as 127.0.0.1, whose word on who asks is taken (X-Forwarded-For, -Proto)."""
    url: str = ""
    """Address under which people reach the page, such as https://labels.example.org; links begin with it."""
    log: Literal["text", "json"] = "text"
    """Write the log as JSON lines, one for every request too."""
    demo: bool = False
    """First fill the store with clips of a cheetah, to try the page without a training run."""
    annotators: tuple[str, ...] = ()
    """Names of the people who label; each gets a link. Without names, whoever sits at this computer labels."""
    manager: str = "manager"
    """Name of whoever manages the labelling where there are --annotators; gets a link of their own."""
    show: tuple[Literal["rate", "agreement", "model"], ...] = ()
    """Figures that annotators see: their labels an hour, agreement with themselves, how often the model is right."""
    overlap: Fraction = 0.0
    """Share of the questions that two people answer, to measure their agreement."""
    repeats: Fraction = 0.05
    """Share of each person's questions that are earlier ones with swapped sides, to measure how constant they are."""
    gold: NonNegativeInt = 0
    """Pairs whose right answer is taken from true returns, hidden among the questions to measure people by."""
    gold_by: str = ""
    """An annotator whose answers in the store are the right ones, in place of true returns."""
    gold_share: Fraction = 0.05
    """Share of each person's questions that are gold, where there is gold."""
    tutorial: NonNegativeInt = 0
    """Gold pairs that each person begins with, and is told the right answer of."""
    kind: Literal["comparison", "rating", "ranking"] = "comparison"
    """Compare clips, rate one at a time from 1 to 5, or compare what places each clip in a ranked list."""
    strength: bool = False
    """Offer "much better": a choice is then a soft label of 0.85, and of 0.97 where it is much better."""
    tags: tuple[str, ...] = ()
    """Reasons that can be given with a key, such as "falls" "too slow"."""
    task_run: str | None = None
    """Only the questions of this run."""
    lease: Lease = 300.0
    """Seconds for which a question that was handed out is kept for one person."""
    size: Pixels = 512
    """Pixels of a clip's side at most; a page that shows clips smaller gets smaller ones."""
    quality: bool = False
    """Shadows, reflections and smooth edges, ten times slower to render."""
    workers: PositiveInt | None = None
    """Processes that render clips; by default one for two CPU cores, at most 4."""
    clips: Path | None = None
    """Folder where clips are kept; beside the store by default."""

    def run(self) -> None:
        """Serve until Ctrl-C; raises PrefenvsError where a web server or the port is missing."""
        self.serve()

    def serve(self, standing: Standing | None = None) -> None:
        """Serve until Ctrl-C, with the page of a judging whose ranking is `standing`; raises as `run` does."""
        uvicorn = import_extra("uvicorn", "the labelling page")
        from prefenvs.envs.rendering.gl import gl_backend
        from prefenvs.oracles.labelling import Clips
        from prefenvs.oracles.labelling.access import check_binding
        from prefenvs.oracles.labelling.trouble import log_as_json
        from prefenvs.store import AssignmentPlan, Store

        check_binding(self.host, bool(self.annotators))
        if self.proxy and not self.annotators:
            raise PrefenvsError(
                "others reach the page through --proxy, and then need tokens: name them, --annotators NAME"
            )
        self._check_effect()
        if self.log == "json":
            log_as_json()
        known = self.gold_share if self.gold or self.gold_by else 0.0
        plan = AssignmentPlan(
            self.task_run, self.kind, self.overlap, 2, self.repeats, self.lease, gold=known, tutorial=self.tutorial
        )
        if self._draws():
            gl_backend()  # a machine that cannot render says so before anybody waits for a clip
        listening = contextlib.closing(_listen(self.host, self.port))
        with (
            listening as listener,
            Store(self.store) as store,
            self._clip_folder() as folder,
            Clips(store, folder, self.size, self.quality, self.workers) as clips,
        ):
            app = self._make_app(store, plan, clips, standing)
            self._print_problems(store)
            self._print_links(store, plan, listener.getsockname()[1])
            config = uvicorn.Config(
                app,
                log_level="warning",
                log_config=None if self.log == "json" else uvicorn.config.LOGGING_CONFIG,
                access_log=False,
                timeout_graceful_shutdown=2,
                timeout_keep_alive=KEEP_ALIVE,
                server_header=False,
                proxy_headers=bool(self.proxy),
                forwarded_allow_ips=list(self.proxy),
            )
            uvicorn.Server(config).run(sockets=[listener])

    def _check_effect(self) -> None:
        """Raise a PrefenvsError for an option that would have no effect."""
        pairs = {"gold": self.gold, "gold-by": self.gold_by, "tutorial": self.tutorial, "strength": self.strength}
        for flag, given in pairs.items():
            if given and self.kind == "rating":
                raise PrefenvsError(f"--{flag} is about clips beside each other, not --kind rating: leave it out")
        if self.gold_share != Label.gold_share and not (self.gold or self.gold_by):
            raise PrefenvsError("--gold-share is a share of gold questions: have some, --gold COUNT or --gold-by NAME")
        if self.manager != Label.manager and not self.annotators:
            raise PrefenvsError("--manager has a link beside those of --annotators: name these, or leave it out")

    def _draws(self) -> bool:
        """Whether clips are drawn: not where all that the store holds was recorded by cameras."""
        from prefenvs.store import Store
        from prefenvs.tasks.recorded import is_recorded

        if self.demo or not ("://" in self.store or Path(self.store).exists()):
            return True
        with Store(self.store) as store:
            tasks = store.tasks()
        return not tasks or not all(is_recorded(task) for task in tasks)

    def _make_app(self, store: Store, plan: AssignmentPlan, clips: Clips, standing: Standing | None) -> FastAPI:
        from prefenvs.oracles.labelling import Access, Form, create_app, fill_demo
        from prefenvs.oracles.people.gold import make_gold, take_gold

        if self.demo:
            print("making clips of the demo task to compare ...", flush=True)
            fill_demo(store)
        if self.gold_by:
            take_gold(store, self.gold_by, self.task_run)
        if self.gold or (self.tutorial and not self.gold_by):
            wanted = max(self.gold, self.tutorial)
            found = make_gold(store, wanted, self.task_run)
            if found < wanted:
                print(
                    f"prefenvs: only {found} of {wanted} gold pairs: the store holds no more",
                    file=sys.stderr,
                    flush=True,
                )
        access = Access(store, None if self.annotators else "annotator")
        form = Form(self.strength, self.tags, self.show)
        return create_app(store, access, clips, plan, form=form, standing=standing)

    def _print_problems(self, store: Store) -> None:
        """Say which of the store's tasks cannot be found, so that nobody waits for their clips."""
        for task in store.tasks():
            try:
                find_task(task)
            except PrefenvsError as error:
                print(f"prefenvs: questions cannot be shown: {error}", file=sys.stderr, flush=True)

    def _print_links(self, store: Store, plan: AssignmentPlan, port: int) -> None:
        from prefenvs.store import Assignments, issue_manager_token, issue_token

        waiting = Assignments(store, plan).count_open()
        print(f"{waiting:,} questions wait for an answer" + ("" if waiting else ": they appear when a run asks them"))
        url = f"{self.url.rstrip('/')}/" if self.url else f"http://{_named(self.host)}:{port}/"
        if not self.annotators:
            print(f"label at {url}", flush=True)
            print(f"manage at {url}manager", flush=True)
        else:
            print(f"{self.manager} manages at {url}?token={issue_manager_token(store, self.manager)}", flush=True)
        for name in self.annotators:
            print(f"{name} labels at {url}?token={issue_token(store, name)}", flush=True)
        print("Ctrl-C stops; nothing that was accepted is lost", flush=True)

    @contextlib.contextmanager
    def _clip_folder(self) -> Iterator[Path]:
        if self.clips is not None or "://" not in self.store:
            yield self.clips or Path(f"{self.store}.clips")
            return
        with tempfile.TemporaryDirectory(prefix="prefenvs-clips-") as folder:
            yield Path(folder)


@dataclass(frozen=True)
class LabelRender:
    """Render clips for the labelling servers of a store, here on another machine, until Ctrl-C; any number may run."""

    store: str
    """The store, which all machines reach: a postgresql:// URL."""
    workers: PositiveInt = 1
    """Processes that render."""
    ahead: PositiveInt = 100
    """Questions whose clips are made before anybody asks for them."""
    kind: Literal["comparison", "rating", "ranking"] = "comparison"
    """What the servers ask."""
    task_run: str | None = None
    """Only the questions of this run."""
    size: Pixels = 512
    """Pixels of a clip's side as long as no page has said how large it shows them."""
    quality: bool = False
    """Shadows, reflections and smooth edges, as `prefenvs label --quality` shows them."""
    once: bool = False
    """Stop when nothing is missing."""

    def run(self) -> None:
        """Render until Ctrl-C; raises PrefenvsError where there is no store, or nothing can be rendered."""
        from prefenvs.envs.rendering.gl import gl_backend
        from prefenvs.oracles.labelling.clips import render_ahead
        from prefenvs.store import AssignmentPlan, Store

        gl_backend()
        plan = AssignmentPlan(self.task_run, self.kind)
        with Store(self.store, create=False) as store, tempfile.TemporaryDirectory(prefix="prefenvs-clips-") as folder:
            while True:
                made = render_ahead(store, Path(folder), plan, self.ahead, self.size, self.quality, self.workers)
                if made:
                    print(f"{made:,} clips rendered", flush=True)
                elif self.once:
                    return
                else:
                    time.sleep(1.0)


def _listen(host: str, port: int) -> socket.socket:
    """Take the port now; raises PrefenvsError, before anything is done, for one that cannot be had."""
    if not 0 <= port <= 65535:
        raise PrefenvsError(f"--port {port} is not between 0 and 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol named, asyncio sends small pieces at once; otherwise each reply waits 40 ms for the last one.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PrefenvsError(f"port {port} of {host} is in use: choose another with --port, or --port 0") from None
        raise PrefenvsError(f"cannot listen on {host}:{port}: {error.strerror or error}") from None
    return listener


def _named(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
