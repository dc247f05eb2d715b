"""The records of a relayed association name the certificate of the caller, whoever sends in the end."""

from __future__ import annotations

from collections import Counter

from securepacs.audit.parts import certificate_role
from securepacs.audit.repository import Criteria, Receipt, Repository
from securepacs.audit.syslog import to_syslog
from securepacs.policy.subject import Subject, SubjectKind
from securepacs_proxy.dicom.records import Recorder, Tally
from securepacs_proxy.events import Peer, Side
from tests.support.audit import LEE, SOURCE
from tests.support.dicom_wire import NOW

PERSON = Subject(SubjectKind.PERSON, "kim@hospital.example", "Kim", frozenset({"radiologist"}), certificate_serial="0AB12")


def recorder(subject: Subject) -> Recorder:
    made = Recorder(SOURCE, "gw1", "GATEWAY")
    made.peer_is(subject, Peer("192.0.2.7", 4711))
    made.association_is("VIEWER", "ARCHIVE", "10.0.0.2")
    return made


def test_the_certificate_stands_with_the_caller() -> None:
    (record,) = recorder(PERSON).login(NOW)
    roles = record.ActiveParticipant[0].RoleIDCode
    assert certificate_role("ab12") in roles
    assert {role.csd_code for role in roles} == {"radiologist", "assurance-software", "certificate-serial-ab12"}


def test_the_certificate_of_who_moved_stands_with_the_sub_operations() -> None:
    tally = Tally(Side.REQUESTOR, "1.2.3", "4711", mover=recorder(PERSON).mover, transferred=Counter({"1.2": 1}))
    device = Subject(SubjectKind.DEVICE, "archive", "archive", certificate_serial="ff")
    (record,) = recorder(device).transferred(NOW, tally)
    mover = record.ActiveParticipant[-1]
    assert (mover.UserID, mover.UserIsRequestor) == ("kim@hospital.example", True)
    assert certificate_role("ab12") in mover.RoleIDCode


def test_no_serial_number_is_no_role() -> None:
    for serial in ("", "0"):
        subject = Subject(SubjectKind.DEVICE, "ct1", "ct1", certificate_serial=serial)
        (alert,) = [recorder(subject).query(NOW, Side.REQUESTOR, "1.2", b"", "1.2.840.10008.1.2")]
        assert {role.csd_code for role in alert.ActiveParticipant[0].RoleIDCode} == {"110153", "assurance-software"}


def test_what_the_gateway_records_is_found_by_the_serial_number(tmp_path) -> None:  # type: ignore[no-untyped-def]
    made = recorder(PERSON).query(NOW, Side.REQUESTOR, "1.2", b"", "1.2.840.10008.1.2")
    raw = to_syslog(made, hostname="gw", app_name="securepacs-gateway", procid="1")
    with Repository(f"sqlite:///{tmp_path}/audit.db") as repository:
        repository.store([Receipt.of(raw, received=NOW, transport="test")])
        assert [each.id for each in repository.search(Criteria(serial="0a:b1:2"), reader=LEE, at=NOW)] == [1]
        assert repository.search(Criteria(serial="b12"), reader=LEE, at=NOW) == []
