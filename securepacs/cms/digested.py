"""CMS DigestedData (RFC 5652 7): integrity without an author. It means something only inside an encryption or a signature."""

from __future__ import annotations

import hmac

from asn1crypto import core

from securepacs.cms import ber
from securepacs.cms.algorithms import SIGNING_HASHES
from securepacs.cms.algorithms import digest as compute
from securepacs.cms.structures import DigestedDataStructure, econtent, load, wrap
from securepacs.codes import ID_DATA, ID_DIGESTED_DATA
from securepacs.errors import IntegrityFailure, MalformedError, UsageError


def seal(content: bytes, *, digest: str = "sha256", content_type: str = ID_DATA, bare: bool = False) -> bytes:
    """Return `content` with its digest as a DER ContentInfo, or with `bare` the DigestedData alone (RFC 5652 7)."""
    if digest not in SIGNING_HASHES:
        raise UsageError(f"the digest {digest} is not one of {', '.join(SIGNING_HASHES)}", standard="RFC 5754")
    structure = DigestedDataStructure(
        {
            "version": "v0" if content_type == ID_DATA else "v2",
            "digest_algorithm": {"algorithm": digest, "parameters": core.Null()},
            "encap_content_info": {"content_type": content_type, "content": content},
            "digest": compute(digest, content),
        }
    )
    return bytes(structure.dump()) if bare else wrap(ID_DIGESTED_DATA, structure)


def check(der: bytes) -> tuple[str, bytes]:
    """Return content type and content of a DigestedData, bare or in a ContentInfo; IntegrityFailure when the digest differs."""
    ber.check(der)
    with ber.asn1_errors("DigestedData"):
        structure = load(der, ID_DIGESTED_DATA, DigestedDataStructure)
        content_type = str(structure["encap_content_info"]["content_type"].dotted)
        content = econtent(structure)
        hash_name = structure["digest_algorithm"]["algorithm"].native
        expected = bytes(structure["digest"])
    if content is None:
        raise MalformedError("the DigestedData carries no content", standard="RFC 5652 7")
    if not hmac.compare_digest(compute(hash_name, content), expected):
        raise IntegrityFailure("the content does not have the digest that came with it", standard="RFC 5652 7")
    return content_type, content
