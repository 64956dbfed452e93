"""The page behind nginx that speaks TLS, configured as the docs say, in headless Chromium."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

LEFT = "\ue012"
DOCS = Path(__file__).resolve().parents[3] / "docs/how-to/labelling.md"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def proxied(tmp_path: Path, clip_folder: Path) -> Iterator[str]:
    """A server for ann behind a proxy; returns ann's link."""
    nginx = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if nginx is None or shutil.which("openssl") is None:
        pytest.skip("nginx and openssl are not installed (apt-get install nginx-light openssl)")
    secure, plain = free_port(), free_port()
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    request += ["-subj", "/CN=localhost", "-keyout", str(tmp_path / "key"), "-out", str(tmp_path / "pem")]
    subprocess.run(request, check=True, capture_output=True)
    (block,) = re.findall(r"```nginx\n(.*?)```", DOCS.read_text(), re.DOTALL)
    for before, after in {
        "443": f"127.0.0.1:{secure}",
        "labels.example.org": "localhost",
        "/etc/ssl/labels.pem": str(tmp_path / "pem"),
        "/etc/ssl/labels.key": str(tmp_path / "key"),
        "8765": str(plain),
    }.items():
        assert before in block
        block = block.replace(before, after)
    folders = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = tmp_path / "nginx.conf"
    config.write_text(f"daemon off; pid {tmp_path}/pid; events {{}} http {{ access_log off; {folders} {block} }}")
    label = [sys.executable, "-m", "prefenvs", "label", "--store", str(tmp_path / "labels.sqlite"), "--size", "64"]
    label += ["--port", str(plain), "--annotators", "ann", "--proxy", "127.0.0.1", "--clips", str(clip_folder)]
    label += ["--url", f"https://localhost:{secure}", "--repeats", "0"]
    errors = str(tmp_path / "errors")
    server = subprocess.Popen(label, stdout=subprocess.PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    proxy = subprocess.Popen([nginx, "-p", str(tmp_path), "-c", str(config), "-e", errors, "-g", "error_log stderr;"])
    try:
        assert server.stdout is not None
        links = (re.search(r"ann labels at (\S+)", line) for line in server.stdout)
        yield next(found[1] for found in links if found)
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
