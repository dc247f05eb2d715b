"""Creation, copies that leave, instances that arrive."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from securepacs.errors import IllegalTransition, IntegrityFailure, MalformedError, UsageError
from securepacs.originals import copy_of, create, facts_of, incoming, read_stamp, stamp, stamped
from securepacs.originals.registry import Evidence
from securepacs.originals.sql_registry import SqlRegistry
from securepacs.originals.states import SOPInstanceStatus
from securepacs.store import open_store
from tests.support.samples import flip_pixel, new_instance, sample

NS, OR, AO, AC = SOPInstanceStatus.NS, SOPInstanceStatus.OR, SOPInstanceStatus.AO, SOPInstanceStatus.AC
AT = datetime(2027, 1, 2, 3, 4, 5, tzinfo=UTC)
LATER = AT + timedelta(hours=1)


@pytest.fixture
def registry(tmp_path: Path) -> SqlRegistry:
    return SqlRegistry(open_store(f"sqlite:///{tmp_path / 'store.db'}"))


def authorized(registry: SqlRegistry) -> bytes:
    (original,) = create([new_instance("CT_small.dcm", 1)], registry, holder="CT1", at=AT, equipment="CERT 7")
    facts = facts_of(original)
    evidence = Evidence("1.2.99", "1.2.100")
    registry.authorize({facts.sop_instance_uid: facts.content_sha256}, at=LATER, actor="dr", evidence=evidence, equipment="WS 9")
    return original


def test_created_instances_are_held_and_stamped(registry: SqlRegistry, tmp_path: Path) -> None:
    first, second = new_instance("CT_small.dcm", 1), tmp_path / "b.dcm"
    second.write_bytes(new_instance("MR_small.dcm", 2))
    files = list(create([first, second], registry, holder="CT1", at=AT, equipment="CERT 7"))
    assert files == [stamp(data, OR, at=AT, equipment="CERT 7") for data in (first, second.read_bytes())]
    assert registry.history(facts_of(first).sop_instance_uid)[0].actor == "CT1"
    assert len(registry.originals_of_study(facts_of(first).study_instance_uid)) == 2


def test_registration_does_not_wait_for_the_files_to_be_taken(registry: SqlRegistry) -> None:
    create([new_instance("CT_small.dcm", 1)], registry, holder="CT1", at=AT)
    assert registry.original("1.2.826.0.1.3680043.10.999.1.1.1") is not None


def test_one_bad_file_and_nothing_is_registered(registry: SqlRegistry) -> None:
    with pytest.raises(MalformedError):
        create([new_instance("CT_small.dcm", 1), b"not DICOM" * 40], registry, holder="CT1", at=AT)
    assert registry.originals_of_study("1.2.826.0.1.3680043.10.999.1") == ()


def test_an_equipment_number_that_cannot_be_stamped_registers_nothing(registry: SqlRegistry) -> None:
    with pytest.raises(UsageError):
        create([new_instance("CT_small.dcm", 1)], registry, holder="CT1", at=AT, equipment="x" * 65)
    assert registry.originals_of_study("1.2.826.0.1.3680043.10.999.1") == ()


def test_an_interrupted_creation_is_completed_by_repeating_it(registry: SqlRegistry) -> None:
    raw = new_instance("CT_small.dcm", 1)
    create([raw], registry, holder="CT1", at=AT)  # registered; the process ended before it wrote the file
    assert next(create([raw], registry, holder="CT1", at=LATER)) == stamp(raw, OR, at=AT)


def test_a_stamp_behind_the_registry_is_repaired(registry: SqlRegistry) -> None:
    original = authorized(registry)
    assert read_stamp(original).status is OR
    assert stamped(original, registry) == stamp(original, AO, at=LATER, equipment="WS 9")
    assert stamped(stamped(original, registry), registry) == stamped(original, registry)


def test_only_originals_are_stamped(registry: SqlRegistry) -> None:
    with pytest.raises(IllegalTransition, match="not held"):
        stamped(new_instance("CT_small.dcm", 1), registry)


def test_a_changed_file_is_never_stamped_or_copied(registry: SqlRegistry) -> None:
    original = authorized(registry)
    with pytest.raises(IntegrityFailure, match="I3"):
        stamped(flip_pixel(original), registry)
    with pytest.raises(IntegrityFailure, match="I3"):
        copy_of(flip_pixel(original), registry, to_profile_peer=True)


def test_an_authorized_original_leaves_as_authorized_copy(registry: SqlRegistry) -> None:
    original = authorized(registry)
    before = registry.original(facts_of(original).sop_instance_uid)
    assert copy_of(original, registry, to_profile_peer=True) == stamp(original, AC, at=LATER, equipment="WS 9")
    assert registry.original(facts_of(original).sop_instance_uid) == before


def test_the_sender_may_choose_ns(registry: SqlRegistry) -> None:
    original = authorized(registry)
    assert copy_of(original, registry, to_profile_peer=True, status=NS) == stamp(original, NS)


@pytest.mark.parametrize("status", [AC, AO, OR])
def test_outside_the_profile_everything_leaves_as_ns(registry: SqlRegistry, status: SOPInstanceStatus) -> None:
    original = authorized(registry)
    assert copy_of(original, registry, to_profile_peer=False) == stamp(original, NS)
    with pytest.raises(IllegalTransition, match="T6"):
        copy_of(original, registry, to_profile_peer=False, status=status)


@pytest.mark.parametrize("status", [OR, AO])
def test_a_copy_is_never_an_original(registry: SqlRegistry, status: SOPInstanceStatus) -> None:
    with pytest.raises(IllegalTransition, match="T5"):
        copy_of(authorized(registry), registry, to_profile_peer=True, status=status)


def test_an_unauthorized_original_leaves_as_ns_only(registry: SqlRegistry) -> None:
    (original,) = create([new_instance("CT_small.dcm", 1)], registry, holder="CT1", at=AT)
    assert copy_of(original, registry, to_profile_peer=True) == stamp(original, NS)
    with pytest.raises(IllegalTransition, match="OR to AC"):
        copy_of(original, registry, to_profile_peer=True, status=AC)


def test_a_stamp_without_registration_counts_for_nothing(registry: SqlRegistry) -> None:
    forged = stamp(new_instance("CT_small.dcm", 1), AO, at=AT)
    assert copy_of(forged, registry, to_profile_peer=True) == stamp(forged, NS)


@pytest.mark.parametrize("status", [None, NS, OR, AO, AC])
def test_from_outside_the_profile_everything_is_stored_as_ns(registry: SqlRegistry, status: SOPInstanceStatus | None) -> None:
    raw = sample("CT_small.dcm").read_bytes()
    received = raw if status is None else stamp(raw, status, at=AT)
    stored = incoming(received, registry, from_profile_peer=False)
    assert stored == stamp(raw, NS)
    assert dcmread(BytesIO(stored))[0x01000410].value == "NS"


@pytest.mark.parametrize("status", [NS, AC])
def test_a_copy_from_the_profile_is_stored_as_it_is(registry: SqlRegistry, status: SOPInstanceStatus) -> None:
    received = stamp(sample("CT_small.dcm").read_bytes(), status, at=AT)
    assert incoming(received, registry, from_profile_peer=True) == received


@pytest.mark.parametrize("status", [OR, AO])
def test_an_original_is_accepted_by_transfer_only(registry: SqlRegistry, status: SOPInstanceStatus) -> None:
    received = stamp(sample("CT_small.dcm").read_bytes(), status, at=AT)
    with pytest.raises(IllegalTransition, match="T3"):
        incoming(received, registry, from_profile_peer=True)


@pytest.mark.parametrize("from_profile_peer", [True, False])
def test_nothing_that_arrives_replaces_an_original(registry: SqlRegistry, from_profile_peer: bool) -> None:
    original = authorized(registry)
    with pytest.raises(IllegalTransition, match="I1"):
        incoming(stamp(flip_pixel(original), NS), registry, from_profile_peer=from_profile_peer)


def test_the_room_needs_no_extra_until_the_registry_is_opened() -> None:
    program = (
        "import sys\n"
        "extras = ('sqlalchemy', 'alembic', 'pynetdicom', 'pydantic', 'lxml', 'OpenSSL', 'pkcs11', 'cedarpy')\n"
        "sys.modules.update(dict.fromkeys(extras))\n"
        "from securepacs import originals\n"
        "from securepacs.originals import authorize, build_key_object, copy_of, stamp\n"
        "try: originals.SqlRegistry\n"
        "except ModuleNotFoundError: print('needs the extra')\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == "needs the extra\n"
