"""The page behind nginx or Caddy that speak TLS, configured as the docs say, in headless Chromium."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

LEFT = "\ue012"
DOCS = Path(__file__).resolve().parents[3] / "docs/how-to/labelling_team.md"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until_heard(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def configure_nginx(folder: Path, block: str, changes: dict[str, str]) -> list[str]:
    """Write what nginx needs beside the block of the docs, and return the command."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None or shutil.which("openssl") is None:
        pytest.skip("nginx and openssl are not installed (apt-get install nginx-light openssl)")
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    request += ["-subj", "/CN=localhost", "-keyout", str(folder / "key"), "-out", str(folder / "pem")]
    subprocess.run(request, check=True, capture_output=True)
    changes |= {"/etc/ssl/labels.pem": str(folder / "pem"), "/etc/ssl/labels.key": str(folder / "key")}
    folders = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    block = change(block, changes | {"443": f"127.0.0.1:{changes['443']}"})
    config.write_text(f"daemon off; pid {folder}/pid; events {{}} http {{ access_log off; {folders} {block} }}")
    errors = str(folder / "errors")
    return [nginx, "-p", str(folder), "-c", str(config), "-e", errors, "-g", "error_log stderr;"]


def configure_caddy(folder: Path, block: str, changes: dict[str, str]) -> list[str]:
    """The same for Caddy, with certificates of its own instead of those that it fetches for a name of the Internet."""
    caddy = shutil.which("caddy")
    if caddy is None:
        pytest.skip("caddy is not installed (apt-get install caddy)")
    local = f"localhost:{changes['443']} {{\n    bind 127.0.0.1\n    tls internal"
    block = change(block, {"labels.example.org {": local, "8765": changes["8765"]})
    options = f"admin off\nauto_https disable_redirects\nskip_install_trust\nstorage file_system {folder}/caddy"
    config = folder / "Caddyfile"
    config.write_text(f"{{\n{options}\n}}\n{block}")
    return [caddy, "run", "--config", str(config), "--adapter", "caddyfile"]


def change(block: str, changes: dict[str, str]) -> str:
    for before, after in changes.items():
        assert before in block
        block = block.replace(before, after)
    return block


@pytest.fixture(params=[configure_nginx, configure_caddy], ids=["nginx", "caddy"])
def proxied(request: pytest.FixtureRequest, tmp_path: Path, clip_folder: Path) -> Iterator[str]:
    """A server for ann behind a proxy; returns ann's link."""
    secure, plain = free_port(), free_port()
    name = request.param.__name__.removeprefix("configure_")
    (block,) = re.findall(rf"```{name}\n(.*?)```", DOCS.read_text(), re.DOTALL)
    changes = {"443": str(secure), "labels.example.org": "localhost", "8765": str(plain)}
    command = request.param(tmp_path, block, changes)
    label = [sys.executable, "-m", "prefenvs", "label", "--store", str(tmp_path / "labels.sqlite"), "--size", "64"]
    label += ["--port", str(plain), "--annotators", "ann", "--proxy", "127.0.0.1", "--clips", str(clip_folder)]
    label += ["--url", f"https://localhost:{secure}", "--repeats", "0"]
    server = subprocess.Popen(label, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    proxy = subprocess.Popen(command, env=os.environ | {"HOME": str(tmp_path)})
    try:
        assert server.stdout is not None
        links = (re.search(r"ann labels at (\S+)", line) for line in server.stdout)
        link = next(found[1] for found in links if found)
        wait_until_heard(secure)
        yield link
    finally:
        for process in (proxy, server):
            process.terminate()
            process.wait()


def test_people_label_through_a_proxy_that_speaks_tls(store, proxied, visit, make_queries, wait_for_events):
    store.add_queries(make_queries(1))
    page = visit("about:blank")
    page.driver.execute_cdp_cmd("Security.setIgnoreCertificateErrors", {"ignore": True})
    try:
        assert proxied.startswith("https://localhost:")
        page.driver.get(proxied)
        page.clips()
        assert page.run("return location.protocol + isSecureContext") == "https:true"
        (cookie,) = page.driver.get_cookies()
        assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Strict")
        page.press(LEFT)
        (event,) = wait_for_events(1)
        assert (event.kind, event.annotator) == ("comparison", "ann")
        wrong = proxied.split("=")[0] + "=" + "x" * 40
        page.driver.get(wrong)
        assert page.run("return document.getElementById('message').hidden") is False
    finally:
        page.driver.execute_cdp_cmd("Security.setIgnoreCertificateErrors", {"ignore": False})
