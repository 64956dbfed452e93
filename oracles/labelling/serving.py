"""The labelling page from Python: a server in a thread of this process."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from prefenvs.errors import PrefenvsError
from prefenvs.oracles.labelling.access import Access
from prefenvs.oracles.labelling.clips import Clips
from prefenvs.oracles.labelling.server import create_app
from prefenvs.store import AssignmentPlan, Store


@contextmanager
def serve(
    store: Store,
    clips: str | Path,
    *,
    port: int = 0,
    annotator: str | None = "annotator",
    plan: AssignmentPlan | None = None,
    size: int = 256,
) -> Iterator[str]:
    """Serve the labelling page of a store to browsers on this machine, and yield its address.

    clips: folder for the clips that people see, `size` pixels wide. port: 0 for any free one. annotator: the name under
    which everybody labels; None asks for tokens (`prefenvs.store.issue_token`). plan: which questions, and who gets
    them. Raises PrefenvsError for a port that cannot be had.
    """
    import uvicorn

    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = error.strerror if isinstance(error, OSError) else "none is above 65535"
        raise PrefenvsError(f"port {port} of 127.0.0.1 cannot be had ({reason}): choose 0 for any") from None
    with listener, Clips(store, Path(clips), size) as made:
        app = create_app(store, Access(store, annotator), made, plan or AssignmentPlan())
        config: Any = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, server_header=False)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            while not server.started and thread.is_alive():
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            with suppress(KeyboardInterrupt):
                thread.join()
