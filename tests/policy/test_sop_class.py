"""Names of SOP classes in reasons."""

from __future__ import annotations

import warnings

import pytest

from securepacs.policy.sop_class import sop_class_name


@pytest.mark.parametrize(
    ("uid", "name"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", "CT Image Storage"),
        ("1.2.840.10008.1.1", "Verification SOP Class"),
        ("1.3.12.2.1107.5.9.1", "1.3.12.2.1107.5.9.1"),
        ("1." + "2" * 62, "1." + "2" * 62),
    ],
)
def test_a_class_has_its_name_or_stays_a_uid(uid: str, name: str) -> None:
    assert sop_class_name(uid) == name


@pytest.mark.parametrize("text", ["Kim^Minji", "1.2.840.10008.1.1\n", "1.02", "1", "", "1.", "1." + "2" * 63, "1.٢"])
def test_text_that_is_no_uid_is_not_repeated(text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sop_class_name(text) == "an invalid SOP class"
