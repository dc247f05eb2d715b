"""OPEN.HTM in a real browser: what a recipient with a password sees, and that the page notices what was changed."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from securepacs import media
from securepacs.cms import digested, enveloped
from securepacs.errors import UsageError
from securepacs.media import passphrase
from securepacs.media.file_set import PAGE, Sealing
from securepacs.media.page import CIPHERS, page
from securepacs.pki import CertificateProfile
from securepacs.publishing import publish
from securepacs.tokens.credential import Credential
from tests.support.chromium import Tab, browser_tab
from tests.support.discs import change, study_folder
from tests.support.pki import make_pki
from tests.support.samples import sample

PASSWORD = "7Q2M-XK4D-9HTR-B3WN-E6PV"
ENTER = """(async (password) => {{
  const field = document.getElementById("password");
  field.value = password;
  field.dispatchEvent(new Event("change"));
}})({password})"""
# the verdict, once there is one that is not about work in progress
OUTCOME = """new Promise(done => {
  const look = () => {
    if (!document.body.dataset.verdict) return false;
    const rows = [...document.querySelectorAll("#rows tr")];
    done({
      verdict: document.body.dataset.verdict,
      text: document.getElementById("verdict").textContent,
      rows: rows.map(row => [row.dataset.verdict, ...[...row.cells].map(cell => cell.textContent)]),
      signers: document.getElementById("signers").textContent,
    });
    return true;
  };
  if (!look()) new MutationObserver(function () { if (look()) this.disconnect(); })
    .observe(document.body, { subtree: true, childList: true, attributes: true });
})"""

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def disc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("disc")
    signer = make_pki(folder).credential(CertificateProfile.RADIOLOGIST, "Dr. Kim")
    return make_disc(folder, signer=signer)


def make_disc(folder: Path, *, signer: Credential | None = None, cipher: str = "aes256-cbc") -> Path:
    study = study_folder(folder / "study")
    change(study / "kimchulsoo_1.dcm", SpecificCharacterSet="ISO_IR 192", PatientName="Kim^Chulsoo=金^哲洙=김^철수")
    sealing = Sealing(password=passphrase.shared(PASSWORD), signer=signer, cipher=cipher)
    publish([study], folder / "disc", sealing)
    return folder / "disc"


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    with browser_tab(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


def outcome(tab: Tab, disc: Path, *, password: str = PASSWORD, files: list[Path] | None = None) -> dict[str, Any]:
    """Do as a recipient does: open the page on the disc, type the password, choose the files."""
    tab.requests.clear()
    tab.console.clear()
    tab.open(disc / PAGE)
    tab.evaluate(ENTER.format(password=json.dumps(password)))
    tab.choose("#files", [path for path in sorted(disc.rglob("*")) if path.is_file()] if files is None else files)
    result: dict[str, Any] = tab.evaluate(OUTCOME)
    return result


def test_a_recipient_sees_images_and_verdict(tab: Tab, disc: Path) -> None:
    seen = outcome(tab, disc)
    assert seen["verdict"] == "complete"
    assert "Unchanged and complete: 4 files, signed by Dr. Kim" in seen["text"]
    rows = {row[1]: row for row in seen["rows"]}
    assert sorted(rows) == ["DICOMDIR", "F0000000", "F0000001", "F0000002", "F0000003"]
    assert {row[0] for row in seen["rows"]} == {"good"}
    assert rows["F0000000"][2:9] == ["Kim Chulsoo", "PATIENT-4711", "", "2004-01-19", "CT", "e+1", "1"]
    assert rows["F0000001"][2] == "Kim Chulsoo / 金 哲洙 / 김 철수"
    assert rows["F0000003"][6] == "KO"
    assert re.search("Fingerprint .*: (?:[0-9a-f]{4} ?){16}", seen["signers"])


@pytest.mark.parametrize("names", [["."], ["DICOMDIR", "DICOM"], ["DICOM/D0000000", "DICOMDIR", "OPEN.HTM"]], ids=str)
def test_the_disc_its_folders_or_files_are_dropped(tab: Tab, disc: Path, names: list[str]) -> None:
    tab.open(disc / PAGE)
    tab.evaluate(ENTER.format(password=json.dumps(PASSWORD)))
    tab.drop("#drop", [disc / name for name in names])
    assert tab.evaluate(OUTCOME)["verdict"] == "complete"


def test_the_whole_disc_is_chosen_before_the_password_is_typed(tab: Tab, disc: Path) -> None:
    tab.open(disc / PAGE)
    tab.choose("#folder", [disc])
    tab.evaluate(ENTER.format(password=json.dumps(PASSWORD)))
    assert tab.evaluate(OUTCOME)["verdict"] == "complete"


def test_the_page_asks_nobody_and_throws_nothing(tab: Tab, disc: Path) -> None:
    outcome(tab, disc)
    assert {url for url in tab.requests if not url.startswith("file:")} == set()
    assert tab.console == []


def test_what_is_saved_is_the_file(tab: Tab, disc: Path) -> None:
    outcome(tab, disc)
    number = tab.evaluate("""(async () => {
      const row = [...document.querySelectorAll("#rows tr")].find(row => row.cells[0].textContent === "F0000000");
      const saved = new Promise(done => {
        HTMLAnchorElement.prototype.click = async function () {
          const bytes = new Uint8Array(await (await given.get("F0000000").arrayBuffer(), new Response(blob)).arrayBuffer());
          done([this.download, hex(await digest("SHA-256", bytes))]);
        };
      });
      let blob;
      const make = URL.createObjectURL;
      URL.createObjectURL = (what) => { blob = what; return make(what); };
      row.querySelector("button").click();
      return saved;
    })()""")
    plain = media.open(disc / "DICOM" / "D0000000" / "F0000000", password=PASSWORD).content
    assert number == ["F0000000.dcm", hashlib.sha256(plain).hexdigest()]


def test_a_wrong_password_opens_nothing(tab: Tab, disc: Path) -> None:
    seen = outcome(tab, disc, password=media.generate_passphrase())
    assert (seen["verdict"], seen["rows"]) == ("password", [])
    assert outcome(tab, disc, password="비밀번호")["verdict"] == "password"


def test_missing_files_and_a_missing_directory_show(tab: Tab, disc: Path) -> None:
    files = sorted((disc / "DICOM").rglob("F*"))
    assert outcome(tab, disc, files=files)["verdict"] == "no-directory"
    seen = outcome(tab, disc, files=[disc / "DICOMDIR", *files[1:]])
    assert seen["verdict"] == "incomplete"
    assert "1 of 4 files of the disc are missing" in seen["text"]


@pytest.mark.parametrize("place", [0.02, 0.5, 0.999])
def test_a_flipped_bit_shows(tab: Tab, disc: Path, tmp_path: Path, place: float) -> None:
    copy = shutil.copytree(disc, tmp_path / "copy")
    path = copy / "DICOM" / "D0000000" / "F0000001"
    raw = bytearray(path.read_bytes())
    raw[int(place * (len(raw) - 1))] ^= 1
    path.write_bytes(raw)
    seen = outcome(tab, copy)
    assert seen["verdict"] == "failed"
    assert [row[1] for row in seen["rows"] if row[0] != "good"] == ["F0000001"]


@pytest.mark.parametrize("cipher", ["aes256-cbc", "aes256-gcm"])
def test_no_changed_byte_gives_other_content(tab: Tab, disc: Path, tmp_path: Path, cipher: str) -> None:
    """One bit of every byte of a small file, and every cut: an error, or what was encrypted."""
    signer = make_pki(tmp_path).credential(CertificateProfile.RADIOLOGIST, "Dr. Kim")
    path = tmp_path / "F0000000"
    plain = bytes(128) + b"DICM" + b"\x02\x00\x10\x00UI\x12\x001.2.840.10008.1.2\x00"
    media.protect(plain, password=PASSWORD, signer=signer, cipher=cipher, output=path)
    tab.open(disc / PAGE)
    tab.choose("#files", [path])
    seen = tab.evaluate(f"""(async (password, expected) => {{
      const whole = new Uint8Array(await document.getElementById("files").files[0].arrayBuffer());
      const accepted = async (bytes) => {{
        try {{ return hex((await open(bytes, password)).content); }} catch (error) {{ return ""; }}
      }};
      const wrong = [];
      if (await accepted(whole) !== expected) wrong.push("whole");
      for (let at = 0; at < whole.length; at++) {{
        const flipped = whole.slice();
        flipped[at] ^= 1;
        if (!["", expected].includes(await accepted(flipped))) wrong.push("flipped " + at);
        if (await accepted(whole.slice(0, at))) wrong.push("cut " + at);
      }}
      return [whole.length, wrong];
    }})({json.dumps(PASSWORD)}, "{plain.hex()}")""")
    assert seen == [path.stat().st_size, []]


def test_bombs_are_refused_at_once(tab: Tab, disc: Path) -> None:
    tab.open(disc / PAGE)
    deep, endless = (
        "new Uint8Array(20000).fill(0x30).map((octet, at) => at % 2 ? 0x80 : octet)",
        "Uint8Array.of(0x30, 0x86, 255, 255, 255, 255, 255, 255)",
    )
    for bomb in (deep, endless, "new Uint8Array(0)"):
        kind = tab.evaluate(f"open({bomb}, 'x').then(() => 'opened', error => error.kind)")
        assert kind == "malformed"


def test_exchanged_and_added_files_show(tab: Tab, disc: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(disc, tmp_path / "copy")
    folder = copy / "DICOM" / "D0000000"
    (folder / "F0000000").rename(folder / "F")
    (folder / "F0000001").rename(folder / "F0000000")
    (folder / "F").rename(folder / "F0000001")
    shutil.copy(folder / "F0000002", folder / "F0000009")
    seen = outcome(tab, copy)
    assert seen["verdict"] == "failed"
    assert {row[1]: row[0] for row in seen["rows"] if row[0] != "good"} == {
        "F0000000": "failed", "F0000001": "failed", "F0000009": "extra"
    }  # fmt: skip


def test_a_file_by_somebody_else_shows(tab: Tab, disc: Path, tmp_path: Path) -> None:
    """Whoever knows the password can encrypt as well; only the signer of the disc can sign."""
    copy = shutil.copytree(disc, tmp_path / "copy")
    path = copy / "DICOM" / "D0000000" / "F0000001"
    stranger = make_pki(tmp_path).credential(CertificateProfile.RADIOLOGIST, "Dr. No")
    for signer in (None, stranger):
        media.protect(media.open(path, password=PASSWORD).content, password=PASSWORD, signer=signer, output=path)
        seen = outcome(tab, copy)
        assert seen["verdict"] == "failed"
        assert [row[9] for row in seen["rows"] if row[0] != "good"] == ["not signed by the signer of the directory"]


def test_a_plain_file_shows(tab: Tab, disc: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(disc, tmp_path / "copy")
    shutil.copy(sample("CT_small.dcm"), copy / "DICOM" / "D0000000" / "F0000002")
    seen = outcome(tab, copy)
    assert [row[9] for row in seen["rows"] if row[0] != "good"] == ["not encrypted, not protected"]


@pytest.mark.parametrize("cipher", sorted(CIPHERS))
def test_unsigned_discs_and_other_ciphers_open(tab: Tab, tmp_path: Path, cipher: str) -> None:
    seen = outcome(tab, make_disc(tmp_path, cipher=cipher))
    assert seen["verdict"] == "complete"
    assert "not signed" in seen["text"]


@pytest.mark.parametrize("cipher", ["aes192-cbc", "des-ede3-cbc"])
def test_a_cipher_that_browsers_lack_is_named(tab: Tab, disc: Path, tmp_path: Path, cipher: str) -> None:
    path = tmp_path / "F0000000"
    media.protect(sample("CT_small.dcm"), password=PASSWORD, cipher=cipher, output=path)
    assert outcome(tab, disc, files=[path])["rows"][0][:2] == ["cipher", "F0000000"]
    with pytest.raises(UsageError, match="page"):
        make_disc(tmp_path, cipher=cipher)


def test_streamed_messages_with_indefinite_lengths_open(tab: Tab, disc: Path, tmp_path: Path) -> None:
    from securepacs.cms.encapsulated import joined
    from securepacs.cms.stream import Stream

    plain = sample("CT_small.dcm").read_bytes()
    inner = digested.seal_stream(Stream(None, [plain[:1000], plain[1000:]]), bare=True)
    path = tmp_path / "F0000000"
    path.write_bytes(joined(enveloped.encrypt_stream(inner, [], passwords=[PASSWORD.encode()]).chunks))
    assert path.read_bytes()[1] == 0x80
    seen = outcome(tab, disc, files=[path])
    assert (seen["verdict"], seen["rows"][0][0], seen["rows"][0][6]) == ("no-directory", "good", "CT")


@pytest.mark.parametrize(
    ("charset", "name", "shown"),
    [
        ("ISO_IR 100", "Müller^Jürgen", "Müller Jürgen"),
        ("ISO_IR 144", "Люкceмбypг", "Люкceмбypг"),
        ("GB18030", "Wang^XiaoDong=王^小东", "Wang XiaoDong / 王 小东"),
        (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동", "Hong Gildong / 洪 吉洞 / 홍 길동"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada Tarou / 山田 太郎 / やまだ たろう"),
    ],
)
def test_names_are_shown_in_their_script(
    tab: Tab, disc: Path, tmp_path: Path, charset: str | list[str], name: str, shown: str
) -> None:
    plain, path = tmp_path / "plain.dcm", tmp_path / "F0000000"
    shutil.copy(sample("CT_small.dcm"), plain)
    change(plain, SpecificCharacterSet=charset, PatientName=name)
    media.protect(plain, password=PASSWORD, output=path)
    assert outcome(tab, disc, files=[path])["rows"][0][2] == shown


@pytest.mark.parametrize("name", ["MR_small_implicit.dcm", "SC_rgb_jpeg_dcmtk.dcm", "rtplan.dcm", "reportsi.dcm", "JPEG2000.dcm"])
def test_files_of_all_kinds_are_identified(tab: Tab, disc: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / "F0000000"
    media.protect(sample(name), password=PASSWORD, output=path)
    dataset = dcmread(sample(name))
    (row,) = outcome(tab, disc, files=[path])["rows"]
    same_uid = dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID
    assert row[0] == ("good" if same_uid else "failed")
    assert row[6] == (dataset.Modality if same_uid else "")


def test_text_of_files_stays_text(tab: Tab, tmp_path: Path) -> None:
    study = study_folder(tmp_path / "study", count=1)
    name = "<img src=x onerror=document.title='caught'>"
    change(study / "kimchulsoo_0.dcm", StudyDescription=name)
    publish([study], tmp_path / "disc", Sealing(password=passphrase.shared(PASSWORD)))
    seen = outcome(tab, tmp_path / "disc")
    assert [row[7] for row in seen["rows"] if row[1] == "F0000000"] == [name]
    assert tab.evaluate("document.querySelectorAll('#rows img').length") == 0
    assert tab.evaluate("document.title") == "Encrypted medical images"


def test_the_policy_of_the_page_names_its_script_and_nothing_else() -> None:
    text = page().decode()
    (script,) = re.findall("<script>(.*?)</script>", text, flags=re.DOTALL)
    expected = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{expected}'" in text
    assert not re.search(r"innerHTML|outerHTML|document\.write|insertAdjacentHTML|eval\(|https?://", text)
