from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from securepacs import signatures
from securepacs.cli.main import app
from securepacs.pki import CertificateProfile, serve
from tests.support.net import free_port
from tests.support.pki import make_pki, pem_of
from tests.support.programs import dcmtk
from tests.support.samples import flip_pixel, new_instance, sample
from tests.support.signing import forge, pki, signed_bytes, signed_sample, signer

MR = sample("MR_small.dcm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    (folder / "good.dcm").write_bytes(signed_sample("CT_small.dcm", profile="base", coverage="all"))
    (folder / "changed.dcm").write_bytes(signed_sample("CT_small.dcm").replace(b"JFK IMAGING CENTER", b"JFK IMAGING CENTRE"))
    (folder / "plain.dcm").write_bytes(MR.read_bytes())
    (folder / "bad.dcm").write_bytes((folder / "good.dcm").read_bytes()[:2000])
    (folder / "weak.dcm").write_bytes(forge(sample("CT_small.dcm").read_bytes(), algorithm="SHA1"))
    trust = folder.parent / "trust"
    trust.mkdir(exist_ok=True)
    pki().write_trust(trust)
    (trust / "issuing.crt").write_bytes(pem_of(pki().ca.issuing))
    return folder


@pytest.fixture
def trust(folder: Path) -> list[str]:
    known = folder.parent / "trust"
    return ["--trust", str(known / "root.pem"), "--intermediates", str(known / "issuing.crt")]


def run(*arguments: object, expect: int) -> str:
    done = CliRunner().invoke(app, ["verify", *map(str, arguments)])
    assert done.exit_code == expect, done.output
    return done.stdout


@pytest.mark.parametrize(
    ("names", "expect"),
    [
        (["good"], 0),
        (["changed"], 1),
        (["plain"], 1),
        (["bad"], 3),
        (["good", "changed"], 1),
        (["changed", "bad", "good"], 3),
    ],
)
def test_exit_codes(names: list[str], expect: int, folder: Path, trust: list[str]) -> None:
    run(*(folder / f"{name}.dcm" for name in names), *trust, expect=expect)


def lines(said: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in said.splitlines()]


@pytest.mark.parametrize("workers", [1, 2])
def test_json_has_one_line_per_file_in_order(workers: int, folder: Path, trust: list[str]) -> None:
    files = [folder / f"{name}.dcm" for name in ("plain", "bad", "good", "changed")] * 3
    found = lines(run(*files, *trust, "--json", "--workers", workers, expect=3))
    assert [one["file"] for one in found] == [str(file) for file in files]
    assert [one["verdict"] for one in found[:4]] == ["NO-SIGNATURE", None, "TOTAL-PASSED", "TOTAL-FAILED"]
    assert found[1]["error"]["code"] == "malformed"  # type: ignore[index]
    assert isinstance(found[1]["error"]["offset"], int)  # type: ignore[index]


def test_a_folder_is_walked(folder: Path, trust: list[str]) -> None:
    found = lines(run(folder, *trust, "--json", expect=3))
    assert [Path(str(one["file"])).name for one in found] == ["bad.dcm", "changed.dcm", "good.dcm", "plain.dcm", "weak.dcm"]


def test_the_text_says_which_signature_and_why(folder: Path, trust: list[str]) -> None:
    said = run(folder / "changed.dcm", *trust, "--details", expect=1)
    assert "HASH_FAILURE: the signed content was changed" in said
    assert "CN=Dr. Signer" in said
    assert "uncovered:PatientName" in said


def test_the_table_tells_a_radiologist(folder: Path, trust: list[str]) -> None:
    said = run(folder, *trust, expect=3)
    rows = {row.split("│")[1].strip(): row for row in said.splitlines() if ".dcm" in row}
    verdicts = {Path(name).name: row.split("│")[2].strip() for name, row in rows.items()}
    assert verdicts == {
        "bad.dcm": "DAMAGED", "changed.dcm": "NOT VALID", "good.dcm": "VALID", "plain.dcm": "NOT SIGNED", "weak.dcm": "UNDECIDED",
    }  # fmt: skip
    assert "Dr. Signer, Test Hospital" in rows[str(folder / "good.dcm")]
    assert "CHANGED after it was signed" in said
    assert "3 files: revocation of the certificate was not checked" in said
    assert "1 of 5 files valid, as of " in said


def test_the_table_of_an_archive_lists_what_is_not_valid(folder: Path, trust: list[str]) -> None:
    said = run(*[folder / "good.dcm"] * 250, folder / "plain.dcm", *trust, expect=1)
    assert said.count(".dcm") == 1
    assert "250 of 251 files valid" in said
    assert "250 valid files are not listed" in said


def test_references_are_resolved_among_the_files(tmp_path: Path, trust: list[str]) -> None:
    instances = [new_instance("CT_small.dcm", number) for number in (1, 2)]
    (tmp_path / "ko.dcm").write_bytes(signatures.manifest(instances, signer()))
    study = tmp_path / "study"
    study.mkdir()
    (study / "1.dcm").write_bytes(instances[0])
    (found,) = lines(run(tmp_path / "ko.dcm", *trust, "--json", expect=0))
    assert [one["outcome"] for one in found["references"]] == ["missing", "missing"]  # type: ignore[attr-defined]
    for workers in (1, 2):
        found, _ = lines(run(tmp_path / "ko.dcm", study, *trust, "--json", "--workers", workers, expect=1))
        assert [one["outcome"] for one in found["references"]] == ["matches", "missing"]  # type: ignore[attr-defined]
        assert found["verdict"] == "TOTAL-PASSED"
    (study / "2.dcm").write_bytes(flip_pixel(instances[1]))
    assert "images it refers to: 1 unchanged, 1 CHANGED" in run(tmp_path, *trust, expect=1)
    assert "reference 1.2.826.0.1.3680043.10.999.1.1.2 differs" in run(tmp_path, *trust, "--details", expect=1)


@pytest.fixture
def disc(tmp_path: Path) -> Path:
    """A file set as media hold it: three signed images and a DICOMDIR that names them."""
    disc = tmp_path / "disc"
    (disc / "IMAGES").mkdir(parents=True)
    for number in (1, 2, 3):
        (disc / "IMAGES" / f"IM{number}").write_bytes(signed_bytes(new_instance("CT_small.dcm", number)))
    subprocess.run(
        [dcmtk("dcmmkdir"), "+r", "+id", str(disc), "+D", str(disc / "DICOMDIR"), "+I"], check=True, timeout=60, cwd=disc
    )
    return disc


@pytest.mark.interop
@pytest.mark.parametrize("argument", ["DICOMDIR", "."])
def test_a_dicomdir_stands_for_its_files(argument: str, disc: Path, trust: list[str]) -> None:
    found = lines(run(disc / argument, *trust, "--json", expect=0))
    assert sorted(Path(str(one["file"])).name for one in found) == ["IM1", "IM2", "IM3"]
    assert {one["verdict"] for one in found} == {"TOTAL-PASSED"}


@pytest.mark.interop
def test_a_file_that_the_dicomdir_names_and_is_not_there(disc: Path, trust: list[str]) -> None:
    (disc / "IMAGES" / "IM2").unlink()
    found = lines(run(disc, *trust, "--json", expect=1))
    errors = [one["error"]["code"] for one in found if "error" in one]  # type: ignore[index]
    assert (len(found), errors) == (3, ["missing"])


@pytest.mark.interop
def test_a_dicomdir_that_leads_out_is_refused(disc: Path, trust: list[str]) -> None:
    (disc.parent / "SECRETS").write_bytes((disc / "IMAGES" / "IM1").read_bytes())
    directory = (disc / "DICOMDIR").read_bytes()
    assert b"IMAGES\\IM1" in directory
    (disc / "DICOMDIR").write_bytes(directory.replace(b"IMAGES\\IM1", b"..\\SECRETS"[:10].ljust(10)))
    found = lines(run(disc / "DICOMDIR", *trust, "--json", expect=3))
    assert [one["error"]["code"] for one in found if "error" in one] == ["malformed"]  # type: ignore[index]
    assert not any("SECRET" in str(one) for one in found)


def test_options_reach_the_verifier(folder: Path, trust: list[str]) -> None:
    run(folder / "weak.dcm", *trust, expect=1)
    run(folder / "weak.dcm", *trust, "--allow-weak-hash", expect=0)
    run(folder / "good.dcm", *trust, "--require", "creator", expect=0)
    run(folder / "good.dcm", *trust, "--require", "sr", expect=1)
    later = (datetime.now(UTC) + timedelta(days=3000)).isoformat()
    run(folder / "good.dcm", *trust, "--at", later, expect=1)


def test_a_revocation_list_is_read(tmp_path: Path) -> None:
    own = make_pki(tmp_path, name="Revoking", now=datetime.now(UTC) - timedelta(hours=2))
    from securepacs.pki import CertificateProfile

    mine = own.credential(CertificateProfile.RADIOLOGIST, "Dr. Gone")
    signed = tmp_path / "signed.dcm"
    signed.write_bytes(signed_sample("CT_small.dcm", credential=mine))
    own.ca.revoke(mine.certificate, at=own.now + timedelta(minutes=1))
    issuing, root = own.write_crls(at=own.now + timedelta(minutes=2))
    (tmp_path / "ca.pem").write_bytes(pem_of(own.ca.issuing))
    arguments = [signed, "--trust", own.write_trust(), "--intermediates", tmp_path / "ca.pem"]
    run(*arguments, expect=0)
    (found,) = lines(run(*arguments, "--crl", issuing, "--crl", root, "--json", expect=1))
    assert found["signatures"][0]["sub_indication"] == "REVOKED"  # type: ignore[index]


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_is_self_contained_and_escaped(folder: Path, trust: list[str], tmp_path: Path) -> None:
    strange = tmp_path / "<img src=x onerror=alert(1)>.dcm"
    strange.write_bytes((folder / "good.dcm").read_bytes())
    page = tmp_path / "page.html"
    run(strange, folder, *trust, "--html", page, expect=3)
    parsed = Page()
    parsed.feed(page.read_text(encoding="utf-8"))
    text = " ".join(parsed.words)
    assert parsed.tags.count("article") == 6
    assert parsed.tags.count("img") == len(parsed.links) == 5
    assert all(link.startswith("data:image/png;base64,") for link in parsed.links)
    assert not {"script", "link", "iframe"} & set(parsed.tags)
    assert "http" not in page.read_text(encoding="utf-8").replace("http-equiv", "")
    assert all(word in text for word in ("VALID", "NOT VALID", "NOT SIGNED", "DAMAGED", "onerror=alert", "patient name"))


def test_a_page_shows_no_more_pictures_than_it_can_hold(folder: Path, trust: list[str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    run(*[folder / "good.dcm"] * 203, *trust, "--html", page, expect=0)
    text = page.read_text(encoding="utf-8")
    assert (text.count("<img"), text.count("<article")) == (200, 203)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["GOOD"], id="nobody to trust"),
        pytest.param(["GOOD", "--trust", "absent.pem"], id="no such trust file"),
        pytest.param(["GOOD", "TRUST", "--at", "yesterday"], id="moment"),
        pytest.param(["GOOD", "TRUST", "--require", "gold"], id="profile"),
        pytest.param(["GOOD", "TRUST", "--workers", "0"], id="workers"),
        pytest.param(["absent.dcm", "TRUST"], id="no such file"),
    ],
)  # fmt: skip
def test_usage_errors(arguments: list[str], folder: Path, trust: list[str]) -> None:
    words = {"GOOD": [str(folder / "good.dcm")], "TRUST": trust}
    run(*(word for argument in arguments for word in words.get(argument, [argument])), expect=2)


def test_results_on_stdout_and_nothing_else_there(folder: Path, trust: list[str]) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from securepacs.cli.main import main; main()",
            "verify",
            str(folder / "good.dcm"),
            *trust,
            "--json",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert len(lines(done.stdout)) == 1
    assert done.stderr == ""


def test_online_answers_are_kept_between_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The responder is asked once; the second run, a process of its own in life, finds the answers in the cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = make_pki(tmp_path, base_url=f"http://127.0.0.1:{free_port()}")
    doctor = own.credential(CertificateProfile.RADIOLOGIST, "Dr. Online")
    file = tmp_path / "a.dcm"
    file.write_bytes(signed_bytes(MR.read_bytes(), doctor))
    (tmp_path / "issuing.pem").write_bytes(pem_of(own.ca.issuing))
    trust = ("--trust", own.write_trust(), "--intermediates", tmp_path / "issuing.pem")
    with serve(own.ca, port=int(own.ca.base_url.rpartition(":")[2])):
        assert "not a public host" in run(file, *trust, "--details", expect=1)
        run(file, *trust, "--allow-host", "127.0.0.1", expect=0)
    run(file, *trust, "--allow-host", "127.0.0.1", expect=0)
    assert (tmp_path / "cache/securepacs/revocation").stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")  # a folder that cannot be made costs the memory, not the verdict
    run(file, *trust, "--allow-host", "127.0.0.1", expect=1)
