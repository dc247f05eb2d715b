"""NIST PKITS, sections 4.1 to 4.16, through our trust policy; every disagreement stands in docs/reference/pkits.md.

The data come with PyPI's cryptography-vectors (works of the US government, public domain). All CA certificates and all CRLs of the
suite are given at once, so that the path has to be found among them. `pkits.txt` holds the expected results.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import cryptography_vectors
import pytest
from cryptography import x509

from securepacs.trust import Indication, PathResult, Purpose, TrustPolicy, validate
from securepacs.trust.policy import ANY_POLICY, CertificatePolicies

pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number which wasn't positive")

DATA = Path(cryptography_vectors.__file__).parent / "x509" / "PKITS_data"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "pkits.md"
AT = datetime(2026, 6, 1, tzinfo=UTC)
TEST_POLICY = "2.16.840.1.101.3.2.1.48."


@dataclass(frozen=True)
class Case:
    test: str
    certificate: str
    valid: bool
    settings: tuple[str, ...]

    @property
    def policies(self) -> CertificatePolicies:
        wanted = next((word[9:] for word in self.settings if word.startswith("policies=")), "")
        return CertificatePolicies(
            acceptable=frozenset(TEST_POLICY + number for number in wanted.split(",") if number) or frozenset({ANY_POLICY}),
            explicit="explicit" in self.settings,
            inhibit_mapping="inhibit-mapping" in self.settings,
            inhibit_any="inhibit-any" in self.settings,
        )


def cases() -> Iterator[Case]:
    for line in Path(__file__).with_name("pkits.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            test, certificate, expected, *settings = line.split()
            yield Case(test, certificate, expected == "valid", tuple(settings))


def disagreements() -> dict[str, str]:
    """The rows of the page: test number to explanation."""
    rows = re.findall(r"^\| (4\.[\d.]+) \|[^|]*\|[^|]*\|[^|]*\| ([^|]+) \|$", PAGE.read_text(), re.MULTILINE)
    return dict(rows)


def load(path: Path) -> x509.Certificate | None:
    try:
        certificate = x509.load_der_x509_certificate(path.read_bytes())
        certificate.public_key()
    except ValueError:  # DSA parameters left out, see the page
        return None
    return certificate


@functools.cache
def policy() -> TrustPolicy:
    paths = [path for path in sorted((DATA / "certs").glob("*.crt")) if not path.stem.endswith("EE")]
    certificates = {path.stem: load(path) for path in paths}
    anchor = certificates.pop("TrustAnchorRootCertificate")
    assert anchor is not None
    return TrustPolicy(
        anchors=(anchor,),
        intermediates=tuple(certificate for certificate in certificates.values() if certificate is not None),
        crls=tuple(x509.load_der_x509_crl(path.read_bytes()) for path in sorted((DATA / "crls").glob("*.crl"))),
        require_revocation=True,
    )


def judged(case: Case) -> PathResult:
    certificate = load(DATA / "certs" / f"{case.certificate}.crt")
    if certificate is None:
        return PathResult(Indication.INDETERMINATE, "NO_CERTIFICATE_CHAIN_FOUND", "the certificate cannot be read")
    return validate(certificate, policy=replace(policy(), certificate_policies=case.policies), at=AT, purpose=Purpose.ANY)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.test) for case in cases()])
def test_pkits(case: Case) -> None:
    result = judged(case)
    told = f"{case.certificate}: {result.indication} {result.sub_indication} {result.detail}"
    if case.test in disagreements():
        assert result.passed is not case.valid, f"{told}; the page lists a disagreement that is none"
    else:
        assert result.passed is case.valid, told
