"""What a defect leaves behind: a log line and a record that say where, never with which data; and a gateway that goes on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from securepacs.codes import SECURITY_ALERT
from securepacs_proxy.faults import fault, place
from tests.support.gateway import ROOT, Gateway, running_gateway
from tests.support.net import free_port, wait_until
from tests.support.pki import make_pki

PATIENT = "HONG^GILDONG"
# A gateway with a defect put in, which has a patient in the text of its exception, as a careless line of code would.
DEFECTIVE = """
from securepacs_proxy.{module} import {name}
genuine = {name}.{method}
def defective(self, *arguments, **named):
    if {when}:
        raise KeyError("HONG^GILDONG")
    return genuine(self, *arguments, **named)
{name}.{method} = defective
from securepacs_proxy.cli import main
main()
"""


def defective(module: str, name: str, method: str, when: str) -> tuple[str, ...]:
    return sys.executable, "-c", DEFECTIVE.format(module=module, name=name, method=method, when=when)


def said(gateway: Gateway, *words: str) -> bool:
    return any(all(word in text for word in words) for text in gateway.texts(event=SECURITY_ALERT.csd_code))


def everything(gateway: Gateway) -> bytes:
    """Return all that the gateway wrote anywhere."""
    return gateway.log.encode() + b"".join(path.read_bytes() for path in gateway.spool.rglob("*") if path.is_file())


def test_a_fault_is_type_and_place() -> None:
    try:
        raise ValueError(PATIENT)
    except ValueError as error:
        said = fault(error)
    assert said.startswith("ValueError at test_faults.py:")
    assert PATIENT not in said
    assert place(None) == "?"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_worker_that_fails_is_on_record_without_data_and_is_replaced(tmp_path: Path, log_format: str) -> None:
    program = defective("workers.worker", "Worker", "_order", 'arguments[0]["type"] == "end"')
    options = ("--drain", "2", "--log-format", log_format)
    with running_gateway(tmp_path, {"ARCHIVE": ("127.0.0.1", free_port())}, program=program, options=options) as gateway:
        before = set(gateway.children())
        live = gateway.associate("ct1", calling="CT1")
        done = gateway.run("end", "0123456789abcdef")
        assert done.returncode == 1, done.stderr  # answered as soon as the last worker was gone
        wait_until(lambda: said(gateway, "worker-0", "KeyError at <string>:6") and said(gateway, "worker-1"), what="the records")
        wait_until(lambda: len(set(gateway.children()) - before) == 2, what="two new workers")
        wait_until(lambda: gateway.run("status").returncode == 0, what="their answer")
        assert not live.is_established or not live.send_c_echo()
        assert "worker-0 failed: KeyError at <string>:6" in gateway.log
        assert PATIENT.encode() not in everything(gateway)
        assert "Traceback" not in gateway.log


def test_a_relay_that_fails_is_on_record_without_data(tmp_path: Path) -> None:
    program = defective("dicom.relay", "DicomRelay", "handle", 'type(arguments[0]).__name__ == "DataReceived"')
    with running_gateway(tmp_path, {"ARCHIVE": ("127.0.0.1", free_port())}, program=program) as gateway:
        before = gateway.children()
        assert not gateway.associate("ct1", calling="CT1").is_established
        wait_until(lambda: said(gateway, "its relay failed: KeyError at <string>:6"), what="the record")
        assert gateway.children() == before  # the connection was ended, not its worker
        assert PATIENT.encode() not in everything(gateway)


def test_a_step_of_the_loop_that_fails_is_on_record_without_data(tmp_path: Path) -> None:
    program = defective("connection.ends", "TlsEnd", "buffer_updated", "True")
    with running_gateway(tmp_path, {"ARCHIVE": ("127.0.0.1", free_port())}, program=program) as gateway:
        assert not gateway.associate("ct1", calling="CT1").is_established
        wait_until(lambda: said(gateway, "a step of the event loop of worker-", "KeyError at <string>:6"), what="the record")
        assert PATIENT.encode() not in everything(gateway)
        assert "Traceback" not in gateway.log


def test_a_supervisor_that_fails_says_where_and_leaves_nobody_behind(tmp_path: Path) -> None:
    program = defective("workers.supervisor", "Supervisor", "_on_signal", "arguments[0] == 1")
    gateway = Gateway(tmp_path, make_pki(tmp_path), {"ARCHIVE": ("127.0.0.1", free_port())}, program=program)
    gateway.write()
    try:
        gateway.start()
        children = gateway.children()
        gateway.signal(1)
        assert gateway.process is not None
        assert gateway.process.wait(20) == 1
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in children), what="the end of the children")
        assert "failed: KeyError at <string>:6" in gateway.log
        assert PATIENT not in gateway.log
        assert "Traceback" not in gateway.log
    finally:
        gateway.kill()


HOOKS = """
import threading
from securepacs_proxy.cli.logs import LogFormat, configure
configure(LogFormat.TEXT, verbose=False)
def fail():
    raise ValueError("HONG^GILDONG")
class Dying:
    def __del__(self):
        fail()
Dying()
thread = threading.Thread(target=fail)
thread.start()
thread.join()
fail()
"""


def test_what_nobody_catches_is_logged_without_its_text() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "proxy"), str(ROOT)])}

    done = subprocess.run([sys.executable, "-c", HOOKS], capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.count("ValueError at <string>:6") == 3
    assert PATIENT not in done.stderr
    assert "Traceback" not in done.stderr
