"""Time stamp authorities of several eras, each under a root of its own that ends before the image does."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securepacs.pki import CertificateProfile
from securepacs.pki.tsa import TimestampAuthority
from securepacs.tokens.credential import Credential
from securepacs.trust.timestamp import build_request, read_response
from tests.support.pki import TestPki, make_pki

YEAR = timedelta(days=365)


def moment(year: int, month: int = 6) -> datetime:
    return datetime(year, month, 1, 12, tzinfo=UTC)


@dataclass
class Era:
    """A PKI with an authority whose certificate lives eight years (the root twenty, the issuing CA ten)."""

    pki: TestPki
    tsa: Credential = field(init=False)

    def __post_init__(self) -> None:
        self.tsa = self.pki.credential(CertificateProfile.TIMESTAMP_AUTHORITY, "TSA", key_kind="p256")

    def stamp(self, at: datetime, data: bytes, digest: str) -> bytes:
        request = build_request(data, digest=digest)
        return read_response(TimestampAuthority(self.tsa).respond(request, at=at), request)

    def stamper(self, at: datetime) -> functools.partial[bytes]:
        return functools.partial(self.stamp, at)

    def crls(self, at: datetime) -> tuple[object, ...]:
        return (self.pki.ca.crl(at=at), self.pki.ca.root_crl(at=at))


@functools.cache
def era(year: int) -> Era:
    """The era that began at the start of `year`."""
    return Era(make_pki(Path("unused"), name=f"Hospital of {year}", now=moment(year, 1)))
