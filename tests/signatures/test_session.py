"""One PIN for a whole study: what is shown is what is signed, once, and nothing else."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread

from securepacs.errors import IntegrityFailure, MalformedError, TokenNotPresent, UsageError
from securepacs.signatures import SigningSession, evaluate
from securepacs.signatures.session import Study
from securepacs.signatures.sign import Signed, make_options
from tests.support.samples import flip_pixel, new_instance
from tests.support.signing import policy, signer

STUDY = "1.2.826.0.1.3680043.10.999.1"


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.dcm" for number in (1, 2, 3)]
    for number, path in enumerate(paths, 1):
        path.write_bytes(new_instance("CT_small.dcm", number))
    return paths


def prepared(files: list[Path], **options: object) -> SigningSession:
    session = SigningSession(make_options(**options))  # type: ignore[arg-type]
    for path in files:
        session.add(path)
    return session


def signed_files(session: SigningSession) -> dict[Path, bytes]:
    return {
        path: b"".join(bytes(piece) for piece in signed.pieces)
        for path, signed in session.sign(signer())
        if isinstance(signed, Signed)
    }


def test_a_study_is_shown_and_signed(files: list[Path]) -> None:
    session = prepared(files, identity=True)
    ((study, count),) = session.studies().items()
    assert (study.patient_name, study.patient_id, study.study_date) == ("CompressedSamples^CT1", "1CT1", "20040119")
    assert (study.study_instance_uid, count, len(session)) == (STUDY, 3, 3)
    results = signed_files(session)
    assert list(results) == files
    for raw in results.values():
        report = evaluate(raw, policy(), require=["creator"])
        assert (report.verdict, len(report.signatures)) == ("TOTAL-PASSED", 2)


def test_the_digests_signed_are_those_of_the_display(files: list[Path]) -> None:
    session = prepared(files)
    uids = [draft.uid for one in session._prepared for draft in one.drafts]
    assert [evaluate(raw, policy()).signatures[0].uid for raw in signed_files(session).values()] == uids


def test_a_file_that_changed_is_refused_and_the_others_are_signed(files: list[Path]) -> None:
    session = prepared(files)
    files[1].write_bytes(flip_pixel(files[1].read_bytes()))
    files[2].unlink()
    results = dict(session.sign(signer()))
    assert isinstance(results[files[0]], Signed)
    assert isinstance(results[files[1]], IntegrityFailure)
    assert isinstance(results[files[2]], UsageError)


def test_a_session_signs_once(files: list[Path]) -> None:
    session = prepared(files)
    assert len(signed_files(session)) == 3
    assert (len(session), session.studies(), signed_files(session)) == (0, {}, {})


def test_another_patient_in_the_study_does_not_hide(files: list[Path]) -> None:
    dataset = dcmread(files[1])
    dataset.PatientName = "Other^Patient"
    dataset.save_as(files[1])
    assert [(study.patient_name, count) for study, count in prepared(files).studies().items()] == [
        ("CompressedSamples^CT1", 2),
        ("Other^Patient", 1),
    ]


def test_names_in_other_alphabets_are_shown(tmp_path: Path) -> None:
    dataset = dcmread(BytesIO(new_instance("CT_small.dcm", 1)))
    dataset.SpecificCharacterSet = ["", "ISO 2022 IR 149"]
    dataset.PatientName = "Hong^Gildong=洪^吉洞=홍^길동"
    path = tmp_path / "korean.dcm"
    dataset.save_as(path)
    ((study, _),) = prepared([path]).studies().items()
    assert study.patient_name == "Hong^Gildong=洪^吉洞=홍^길동"


def test_patient_data_are_in_no_representation(files: list[Path]) -> None:
    session = prepared(files)
    text = repr(session.studies()) + repr(session._prepared)
    assert "CompressedSamples" not in text
    assert "1CT1" not in text
    assert "CompressedSamples" not in str(Study("CompressedSamples", "1CT1", "", "", ""))


def test_what_cannot_be_signed_shows_before_the_pin(tmp_path: Path) -> None:
    session = SigningSession(make_options())
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(b"no dicom")
    with pytest.raises(MalformedError):
        session.add(bad)
    assert len(session) == 0


def test_a_card_that_goes_away_ends_everything(files: list[Path]) -> None:
    def gone(_: bytes) -> bytes:
        raise TokenNotPresent("the token was removed")

    session = prepared(files, timestamp=gone)
    with pytest.raises(TokenNotPresent):
        list(session.sign(signer()))


def test_a_key_that_the_profile_does_not_take_signs_nothing(files: list[Path]) -> None:
    with pytest.raises(UsageError, match="RSA keys only"):
        list(prepared(files).sign(signer("Dr. Curve", "p256")))
