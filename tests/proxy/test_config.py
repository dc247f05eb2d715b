"""gateway.toml: what loads, and that every mistake is named by its key."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from pydantic import ValidationError

from securepacs.errors import ConfigError
from securepacs.pki import CertificateProfile
from securepacs_proxy.config import GatewayConfig, HostPort, dotted, examine, load, settings_markdown
from securepacs_proxy.config.check import Finding, State, check_gateway
from tests.support.gateway_files import CONFIG, GatewayFiles, gateway_files
from tests.support.net import free_port
from tests.support.pki import make_pki, pem_of

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def files(tmp_path: Path) -> GatewayFiles:
    return gateway_files(tmp_path)


def test_a_minimal_configuration_loads_with_defaults(files: GatewayFiles) -> None:
    config = load(files.path)
    assert config.gateway.name == "gw1"
    assert config.gateway.workers == 2
    listener = config.listeners[0]
    assert (listener.host, listener.port, listener.tls_profile) == ("127.0.0.1", 2762, "B.12")
    assert listener.certificate == files.folder / "gateway.pem"
    assert listener.crls == (files.folder / "issuing.crl", files.folder / "root.crl")
    assert config.routes[0].destinations == (HostPort("127.0.0.1", 11112),)
    assert config.devices[0].ae_titles == ("CT1",)
    assert config.persons == ()
    assert config.policy.folder is None
    assert (config.audit.spool, config.audit.quota_mb) == (files.folder / "spool", 1024)
    assert config.audit.destinations[0].port == 6514
    assert (config.limits.handshake_seconds, config.limits.max_pdu_length) == (10.0, 131072)


def test_the_example_loads(files: GatewayFiles) -> None:
    shutil.copy(REPOSITORY / "proxy" / "gateway.example.toml", files.path)
    config = load(files.path)
    assert config.routes[0].destinations == (HostPort("127.0.0.1", 11112), HostPort("127.0.0.1", 11113))
    assert config.persons[0].email == "m.kim@practice.example"
    assert config.devices[1].certificate_sha256.startswith("6f1b2c00")
    assert [finding for finding in check_gateway(files.path, at=files.pki.now) if finding.state is not State.OK] == []


def test_the_example_shows_every_section(files: GatewayFiles) -> None:
    text = (REPOSITORY / "proxy" / "gateway.example.toml").read_text(encoding="utf-8")
    headers = [line[4:-1] for line in settings_markdown(GatewayConfig).splitlines() if line.startswith("## `")]
    assert [header for header in headers if f"\n{header}\n" not in text] == []


def test_the_reference_page_is_current() -> None:
    page = (REPOSITORY / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_markdown(GatewayConfig), "securepacs-proxy gateway check --print-settings > docs/reference/settings.md"


def test_every_setting_is_described() -> None:
    rows = [line for line in settings_markdown(GatewayConfig).splitlines() if line.startswith("| `")]
    assert len(rows) > 35
    assert [row for row in rows if "None" in row or "| |" in row] == []
    assert "| `trust` | list of path | required |" in settings_markdown(GatewayConfig)
    assert "| `destinations` | list of host:port | required |" in settings_markdown(GatewayConfig)
    assert "| `folder` | path | none |" in settings_markdown(GatewayConfig)


def test_a_configuration_is_immutable(files: GatewayFiles) -> None:
    config = load(files.path)
    with pytest.raises(ValidationError):
        config.gateway.workers = 3  # type: ignore[misc]


def test_paths_are_relative_to_the_file(files: GatewayFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files.folder.parent)
    config = load(Path(files.folder.name) / "gateway.toml")
    assert config.listeners[0].key == files.folder / "gateway.key"


def test_ipv6_addresses_are_written_in_brackets(files: GatewayFiles) -> None:
    config = load(files.write("127.0.0.1:11112", "[::1]:104"))
    assert config.routes[0].destinations == (HostPort("::1", 104),)
    assert str(config.routes[0].destinations[0]) == "[::1]:104"
    assert str(HostPort("pacs", 104)) == "pacs:104"


CASES = [
    # what is replaced, by what, the key, a part of the message, a part of the hint
    ("certificate = ", "certifcate = ", "listener[0].certifcate", "no such setting", 'did you mean "certificate"?'),
    ("[[route]]", "[[rout]]", "rout", "no such setting", 'did you mean "route"?'),
    ("spool = ", "quota_mbs = 5\nspool = ", "audit.quota_mbs", "no such setting", 'did you mean "quota_mb"?'),
    (
        'host = "localhost"',
        'host = "localhost"\ncolour = 1',
        "audit.destination[0].colour",
        "no such setting",
        "known here: host, port",
    ),
    ('name = "gw1"', "", "gateway.name", "missing", "AuditSourceID"),
    ('name = "gw1"', "name = 5", "gateway.name", "must be text in quotes", "AuditSourceID"),
    ('name = "gw1"', 'name = ""', "gateway.name", "at least 1 character", "AuditSourceID"),
    ('name = "gw1"', 'name = "gw1"\nworkers = "2"', "gateway.workers", "must be a whole number", "worker processes"),
    ('name = "gw1"', 'name = "gw1"\nworkers = 2.0', "gateway.workers", "must be a whole number", "worker processes"),
    ('name = "gw1"', 'name = "gw1"\nworkers = true', "gateway.workers", "must be a whole number", "worker processes"),
    ('name = "gw1"', 'name = "gw1"\nworkers = 0', "gateway.workers", "out of range", "worker processes"),
    ('"SECUREPACS"', '"SECUREPACS-OF-GW1"', "gateway.ae_title", "1 to 16 characters, not 17", "PS3.5"),
    ('"SECUREPACS"', '"PACS\\\\1"', "gateway.ae_title", "printable ASCII", "PS3.5"),
    ('"SECUREPACS"', '" "', "gateway.ae_title", "printable ASCII", "PS3.5"),
    ('"SECUREPACS"', '"병원"', "gateway.ae_title", "printable ASCII", "PS3.5"),
    ('"SECUREPACS"', "7", "gateway.ae_title", "must be text in quotes", "AE title"),
    ("port = 2762", "port = 65536", "listener[0].port", "out of range", "2762"),
    ("port = 2762", 'tls_profile = "B.99"', "listener[0].tls_profile", "no TLS profile", "B.12"),
    ('host = "127.0.0.1"', 'host = "not a host"', "listener[0].host", "neither a host name nor an IP address", "10.0.0.7"),
    ('certificate = "gateway.pem"', "certificate = 1", "listener[0].certificate", "must be text in quotes", "PEM file"),
    ('certificate = "gateway.pem"', 'certificate = ""', "listener[0].certificate", "empty path", "relative to"),
    ('certificate = "gateway.pem"', 'certificate = "no.pem"', "listener[0].certificate", "No such file", "relative to"),
    ('certificate = "gateway.pem"', 'certificate = "gateway.key"', "listener[0].certificate", "private key", "relative to"),
    ('certificate = "gateway.pem"', 'certificate = "gateway.der"', "listener[0].certificate", "is not PEM", "openssl x509"),
    ('key = "gateway.key"', 'key = "no.key"', "listener[0].key", "No such file", "relative to"),
    ('key = "gateway.key"', 'key = "spare.pem"', "listener[0].key", "holds no PEM private key", "BEGIN PRIVATE KEY"),
    ('key = "gateway.key"', 'key = "other.key"', "listener[0].key", "is not the key of", "comes first"),
    ('key = "gateway.key"', 'key = "open.key"', "listener[0].key", "others than the owner", "chmod 600"),
    ('key = "gateway.key"', 'key = "group.key"', "listener[0].key", "others than the owner", "chmod 600"),
    ('key = "gateway.key"', 'key = "locked.key"', "listener[0].key", "is encrypted", "mode 0600"),
    ('trust = ["root.pem"]', "trust = []", "listener[0].trust", "empty", "trust = ["),
    ('trust = ["root.pem"]', 'trust = "root.pem"', "listener[0].trust", "a list in brackets", "CA certificates"),
    ('trust = ["root.pem"]', 'trust = ["root.pem", 5]', "listener[0].trust[1]", "text in quotes", "CA certificates"),
    ('trust = ["root.pem"]', 'trust = ["root.pem", "no.pem"]', "listener[0].trust[1]", "No such file", "relative to"),
    ('trust = ["root.pem"]', 'trust = ["gateway.toml"]', "listener[0].trust[0]", "something else", "relative to"),
    ('"root.crl"]', '"both.crl"]', "listener[0].crls[1]", "holds 2 revocation lists", "a file of its own"),
    ('trust = ["root.pem"]', 'trust = ["."]', "listener[0].trust[0]", "Is a directory", "relative to"),
    ('"root.crl"]', '"root.pem"]', "listener[0].crls[1]", "certificate", "relative to"),
    ('["127.0.0.1:11112"]', "[]", "route[0].destinations", "leads nowhere", "destinations = ["),
    ("127.0.0.1:11112", "127.0.0.1", "route[0].destinations[0]", "is not host:port", "127.0.0.1:11112"),
    ("127.0.0.1:11112", "127.0.0.1:0", "route[0].destinations[0]", "is not host:port", "127.0.0.1:11112"),
    ("127.0.0.1:11112", "pa cs:104", "route[0].destinations[0]", "is not host:port", "127.0.0.1:11112"),
    ('["127.0.0.1:11112"]', "[104]", "route[0].destinations[0]", "text in quotes", "host:port"),
    ('["127.0.0.1:11112"]', "[{host = 1}]", "route[0].destinations[0]", "text in quotes", "host:port"),
    ('ae_titles = ["CT1"]', "ae_titles = []", "device[0].ae_titles", "no AE title", "ae_titles = ["),
    ('ae_titles = ["CT1"]', 'ae_titles = "CT1"', "device[0].ae_titles", "a list in brackets", "calling AE titles"),
    ('ae_titles = ["CT1"]', 'ae_titles = ["CT1", "CT1"]', "device[0].ae_titles[1]", "belongs to device[0] already", "one device"),
    ('roles = ["modality"]', "roles = []", "device[0].roles", "no role", "roles = ["),
    ('"ct1.hospital.example"', '""', "device[0].certificate_common_name", "no certificate is named", "give one of"),
    (
        'certificate_common_name = "ct1.hospital.example"',
        'certificate_sha256 = "abc"',
        "device[0].certificate_sha256",
        "64 hex",
        "openssl",
    ),
    ("[audit]\n", "[audit]\nquota_mb = 1\n", "audit.quota_mb", "out of range", "MiB"),
    ('spool = "spool"', 'spool = "root.pem"', "audit.spool", "is not a folder", "created when absent"),
    ("[audit]", '[policy]\nfolder = "root.pem"\n[audit]', "policy.folder", "is not a folder", "shipped policies"),
    ("[audit]", "[policy]\nfolder = 1\n[audit]", "policy.folder", "text in quotes", "replaces"),
    ("[audit]", "[limits]\nidle_seconds = 0\n[audit]", "limits.idle_seconds", "out of range", "idle association"),
    ("[audit]", "[limits]\nidle_seconds = nan\n[audit]", "limits.idle_seconds", "out of range", "idle association"),
    ("[audit]", '[limits]\nidle_seconds = "600"\n[audit]', "limits.idle_seconds", "must be a number", "idle association"),
    ("[audit]", "[limits]\nmax_pdu_length = 16\n[audit]", "limits.max_pdu_length", "out of range", "P-DATA-TF"),
    ("[audit]", "limits = 3\n[audit]", "device[0].limits", "no such setting", "known here"),
    ('["CT1"]', '["CT1"]\nroutes = 1', "device[0].routes", "no such setting", 'did you mean "roles"?'),
]


@pytest.mark.parametrize(("old", "new", "key", "message", "hint"), CASES, ids=[f"{case[2]} {case[3][:20]}" for case in CASES])
def test_a_mistake_is_named_by_its_key(files: GatewayFiles, old: str, new: str, key: str, message: str, hint: str) -> None:
    _spare_files(files)
    assert load(files.path)  # the mistake is the only cause
    with pytest.raises(ConfigError) as caught:
        load(files.write(old, new))
    assert caught.value.key == key
    assert message in str(caught.value)
    assert hint in caught.value.hint


def _spare_files(files: GatewayFiles) -> None:
    own = (files.folder / "gateway.key").read_bytes()
    secret = serialization.load_pem_private_key(own, password=None)
    other = files.pki.credential(CertificateProfile.GATEWAY_SERVER, "other", key_kind="p256").private_key
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    locked = secret.private_bytes(pem, pkcs8, serialization.BestAvailableEncryption(b"pass"))
    der = files.pki.credential(CertificateProfile.GATEWAY_SERVER, "gateway", key_kind="p256").certificate
    both = b"".join((files.folder / name).read_bytes() for name in ("issuing.crl", "root.crl"))
    contents = {
        "both.crl": (both, 0o644),
        "gateway.der": (der.public_bytes(serialization.Encoding.DER), 0o644),
        "other.key": (other.private_bytes(pem, pkcs8, serialization.NoEncryption()), 0o600),
        "open.key": (own, 0o604),
        "group.key": (own, 0o640),
        "locked.key": (locked, 0o600),
        "spare.pem": ((files.folder / "root.pem").read_bytes(), 0o600),
    }
    for name, (content, mode) in contents.items():
        (files.folder / name).write_bytes(content)
        (files.folder / name).chmod(mode)


SECOND_LISTENER = """
[[listener]]
host = "{host}"
port = {port}
certificate = "gateway.pem"
key = "gateway.key"
trust = ["root.pem"]
"""


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_two_listeners_cannot_share_a_port(files: GatewayFiles, host: str) -> None:
    with pytest.raises(ConfigError, match="already taken") as caught:
        load(files.write(text=CONFIG + SECOND_LISTENER.format(host=host, port=2762)))
    assert caught.value.key == "listener[1].port"


@pytest.mark.parametrize(("host", "port"), [("127.0.0.2", 2762), ("127.0.0.1", 2763)])
def test_listeners_on_other_addresses_or_ports_are_fine(files: GatewayFiles, host: str, port: int) -> None:
    assert len(load(files.write(text=CONFIG + SECOND_LISTENER.format(host=host, port=port))).listeners) == 2


def test_ports_chosen_by_the_system_do_not_collide(files: GatewayFiles) -> None:
    text = CONFIG.replace("port = 2762", "port = 0") + SECOND_LISTENER.format(host="127.0.0.1", port=0)
    assert len(load(files.write(text=text)).listeners) == 2


def test_a_called_ae_title_has_one_route(files: GatewayFiles) -> None:
    with pytest.raises(ConfigError, match="AE title ARCHIVE has a route already") as caught:
        load(files.write(text=CONFIG + '\n[[route]]\ncalled_ae_title = "ARCHIVE"\ndestinations = ["pacs:104"]\n'))
    assert caught.value.key == "route[1].called_ae_title"


def device(identity: str, ae_title: str) -> str:
    return f'\n[[device]]\n{identity}\nae_titles = ["{ae_title}"]\nroles = ["modality"]\n'


def test_an_ae_title_belongs_to_one_device(files: GatewayFiles) -> None:
    with pytest.raises(ConfigError, match=r"AE title CT1 belongs to device\[0\] already") as caught:
        load(files.write(text=CONFIG + device('certificate_common_name = "ct2"', "CT1")))
    assert caught.value.key == "device[1].ae_titles[0]"


def test_a_certificate_is_enrolled_once(files: GatewayFiles) -> None:
    with pytest.raises(ConfigError, match=r"enrolled already in device\[0\]\.certificate_common_name") as caught:
        load(files.write(text=CONFIG + device('certificate_common_name = "CT1.hospital.example"', "CT2")))
    assert caught.value.key == "device[1].certificate_common_name"


def test_a_certificate_is_named_in_one_way(files: GatewayFiles) -> None:
    both = f'certificate_common_name = "ct2"\ncertificate_sha256 = "{"ab" * 32}"'
    with pytest.raises(ConfigError, match="name the certificate twice") as caught:
        load(files.write(text=CONFIG + device(both, "CT2")))
    assert caught.value.key == "device[1].certificate_sha256"


def test_a_person_needs_a_certificate_and_a_role(files: GatewayFiles) -> None:
    _, problems = examine(files.write(text=CONFIG + "\n[[person]]\nroles = []\n"))
    assert [problem.key for problem in problems] == ["person[0].certificate_common_name", "person[0].roles"]


@pytest.mark.parametrize(("line", "missing"), [('certificate = "gateway.pem"\n', "certificate"), ('key = "gateway.key"\n', "key")])
def test_the_certificate_for_a_repository_needs_its_key(files: GatewayFiles, line: str, missing: str) -> None:
    head, _, tail = CONFIG.rpartition(line)
    with pytest.raises(ConfigError, match="belong together") as caught:
        load(files.write(text=head + tail))
    assert caught.value.key == f"audit.destination[0].{missing}"


def test_a_repository_needs_trust(files: GatewayFiles) -> None:
    head, _, tail = CONFIG.rpartition('trust = ["root.pem"]')
    with pytest.raises(ConfigError, match="no audit repository would be accepted") as caught:
        load(files.write(text=f"{head}trust = []{tail}"))
    assert caught.value.key == "audit.destination[0].trust"


def _unprotected(transport: str, *, certificates: bool = False) -> str:
    head, section, tail = CONFIG.rpartition("[[audit.destination]]")
    rest = tail if certificates else "".join(line + "\n" for line in tail.splitlines() if line.startswith(("host", "port")))
    return f'{head}{section}\ntransport = "{transport}"\n{rest}'


@pytest.mark.parametrize("transport", ["unsafe-tcp", "unsafe-udp"])
def test_a_repository_without_protection_is_asked_for_by_name(files: GatewayFiles, transport: str) -> None:
    config = load(files.write(text=_unprotected(transport)))
    assert config.audit.destinations[0].transport == transport
    warnings = dict(states(check_gateway(files.path, at=files.pki.now), State.WARNING))
    assert "anybody on the way reads and alters records" in warnings["audit.destination[0]"]


def test_certificates_and_no_protection_contradict_each_other(files: GatewayFiles) -> None:
    _, problems = examine(files.write(text=_unprotected("unsafe-tcp", certificates=True)))
    assert [problem.key for problem in problems][:1] == ["audit.destination[0].trust"]
    assert "unsafe-tcp has no use for it" in problems[0].message


@pytest.mark.parametrize("transport", ["tcp", "udp", ""])
def test_no_protection_has_no_innocent_name(files: GatewayFiles, transport: str) -> None:
    _, problems = examine(files.write(text=_unprotected(transport)))
    assert [problem.key for problem in problems] == ["audit.destination[0].transport"]


@pytest.mark.parametrize(("section", "key"), [("listener", "listener"), ("route", "route")])
def test_a_gateway_without_listener_or_route_is_refused(files: GatewayFiles, section: str, key: str) -> None:
    before, _, rest = CONFIG.partition(f"[[{section}]]")
    after = rest[rest.index("\n[") :]
    with pytest.raises(ConfigError, match=f"there is no {section}") as caught:
        load(files.write(text=f"{section} = []\n{before}{after}"))
    assert caught.value.key == key


@pytest.mark.parametrize("section", ["gateway", "audit"])
def test_a_missing_section_is_named(files: GatewayFiles, section: str) -> None:
    before, _, rest = CONFIG.partition(f"[{section}]\n")
    text = before + rest[rest.index("\n[") :] if section == "gateway" else before
    with pytest.raises(ConfigError, match="missing") as caught:
        load(files.write(text=text))
    assert caught.value.key == section


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file") as caught:
        load(tmp_path / "absent.toml")
    assert "-c gateway.toml" in caught.value.hint


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text("[gateway\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="is not TOML"):
        load(tmp_path / "gateway.toml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "gateway.toml")


def test_all_problems_are_reported_at_once(files: GatewayFiles) -> None:
    text = CONFIG.replace('"gateway.key"', '"no.key"', 1).replace('["127.0.0.1:11112"]', "[]").replace('"spool"', '"root.pem"')
    config, problems = examine(files.write(text=text))
    assert config is not None
    assert [problem.key for problem in problems] == ["route[0].destinations", "listener[0].key", "audit.spool"]


def test_an_error_shows_nothing_of_a_key_file(files: GatewayFiles) -> None:
    secret = "MHcCAQEEIGPzVmtiZXN0LXNlY3JldA"
    (files.folder / "gateway.key").write_text(f"-----BEGIN EC PRIVATE KEY-----\n{secret}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(files.path)
    assert caught.value.key == "listener[0].key"
    assert secret not in str(caught.value) + caught.value.hint
    assert caught.value.__cause__ is None


def test_dotted_writes_keys_as_operators_read_them() -> None:
    assert dotted(("listener", 0, "trust", 1)) == "listener[0].trust[1]"
    assert dotted(()) == ""


# --- check ----------------------------------------------------------------------------------------------------------


def states(findings: list[Finding], state: State) -> list[tuple[str, str]]:
    return [(finding.key, finding.detail) for finding in findings if finding.state is state]


def test_check_finds_nothing_wrong(files: GatewayFiles) -> None:
    findings = check_gateway(files.path, at=files.pki.now)
    assert states(findings, State.FAILED) == states(findings, State.WARNING) == []
    assert {finding.key for finding in findings} >= {"listener[0].certificate", "listener[0].crls", "policy.folder", "audit.spool"}
    assert not (files.folder / "spool").exists()


def test_check_reports_mistakes_in_the_file(files: GatewayFiles) -> None:
    (finding,) = check_gateway(files.write("certificate = ", "certifcate = "), at=files.pki.now)[:1]
    assert (finding.key, finding.state) == ("listener[0].certifcate", State.FAILED)


def only_failure(files: GatewayFiles, at_offset: timedelta = timedelta()) -> Finding:
    (failed,) = [each for each in check_gateway(files.path, at=files.pki.now + at_offset) if each.state is State.FAILED]
    return failed


def reissue(files: GatewayFiles, profile: CertificateProfile, lifetime: timedelta | None = None) -> None:
    credential = files.pki.credential(profile, "gateway", key_kind="p256", lifetime=lifetime)
    key, certificate = files.pki.write_pem(credential, files.folder / "new")
    key.rename(files.folder / "gateway.key")
    certificate.rename(files.folder / "gateway.pem")
    files.write(text=files.text.rpartition("[[audit.destination]]")[0])


def test_check_finds_an_expired_certificate(files: GatewayFiles) -> None:
    reissue(files, CertificateProfile.GATEWAY_SERVER, timedelta(days=2))
    failed = only_failure(files, timedelta(days=3))
    assert failed.key == "listener[0].certificate"
    assert "expired on" in failed.detail


def test_check_warns_before_a_certificate_expires(files: GatewayFiles) -> None:
    reissue(files, CertificateProfile.GATEWAY_SERVER, timedelta(days=2))
    assert "expires on" in dict(states(check_gateway(files.path, at=files.pki.now), State.WARNING))["listener[0].certificate"]


def test_check_finds_a_certificate_that_is_not_valid_yet(files: GatewayFiles) -> None:
    findings = check_gateway(files.path, at=files.pki.now - timedelta(days=400))
    assert "is not valid before" in dict(states(findings, State.FAILED))["listener[0].certificate"]


def test_check_finds_a_certificate_that_may_not_serve(files: GatewayFiles) -> None:
    reissue(files, CertificateProfile.RADIOLOGIST)
    assert "lacks serverAuth" in only_failure(files).detail


def test_check_finds_the_own_certificate_revoked(files: GatewayFiles) -> None:
    certificate = files.pki.credential(CertificateProfile.GATEWAY_SERVER, "second", key_kind="p256")
    key, path = files.pki.write_pem(certificate)
    key.replace(files.folder / "gateway.key")
    path.replace(files.folder / "gateway.pem")
    files.pki.ca.revoke(certificate.certificate, at=files.pki.now)
    files.pki.write_crls()
    failed = only_failure(files)
    assert (failed.key, "is revoked" in failed.detail) == ("listener[0].certificate", True)


def test_check_finds_a_stale_list(files: GatewayFiles) -> None:
    failed = only_failure(files, timedelta(days=30))
    assert failed.key == "listener[0].crls"
    assert "Issuing CA" in failed.detail
    assert " ended on " in failed.detail


def test_check_finds_a_list_from_the_future(files: GatewayFiles) -> None:
    files.pki.write_crls(at=files.pki.now + timedelta(days=2))
    failed = states(check_gateway(files.path, at=files.pki.now + timedelta(hours=1)), State.FAILED)
    assert {key for key, detail in failed if "from the future" in detail} == {"listener[0].crls"}


def test_check_finds_a_list_with_a_forged_signature(files: GatewayFiles) -> None:
    other = make_pki(files.folder / "other", now=files.pki.now)  # the same names, other keys
    (files.folder / "other").mkdir()
    issuing, _ = other.write_crls(files.folder / "other")
    issuing.replace(files.folder / "issuing.crl")
    assert "is not signed by it" in only_failure(files).detail


def test_check_warns_when_a_list_cannot_be_verified(files: GatewayFiles) -> None:
    other = make_pki(files.folder / "other", name="Other Hospital", now=files.pki.now)
    issuing, _ = other.write_crls(files.folder / "other")
    issuing.replace(files.folder / "issuing.crl")
    assert "cannot be verified" in dict(states(check_gateway(files.path, at=files.pki.now), State.WARNING))["listener[0].crls"]


def test_check_takes_no_authority_of_the_chain_that_no_anchor_issued(files: GatewayFiles) -> None:
    other = make_pki(files.folder / "other", name="Other Hospital", now=files.pki.now)
    with (files.folder / "gateway.pem").open("ab") as chain:
        chain.write(pem_of(other.ca.issuing))
    issuing, _ = other.write_crls(files.folder / "other")
    issuing.replace(files.folder / "issuing.crl")
    assert "cannot be verified" in dict(states(check_gateway(files.path, at=files.pki.now), State.WARNING))["listener[0].crls"]


def test_check_warns_when_nothing_is_known_about_revocation(files: GatewayFiles) -> None:
    files.write('crls = ["issuing.crl", "root.crl"]\n', "")
    warned = states(check_gateway(files.path, at=files.pki.now), State.WARNING)
    assert [key for key, detail in warned if "what it revoked is still accepted" in detail] == ["listener[0].crls"]


def test_check_finds_a_broken_policy(files: GatewayFiles) -> None:
    (files.folder / "policies").mkdir()
    (files.folder / "policies" / "a.cedar").write_text("permit (", encoding="utf-8")
    files.write("[audit]", '[policy]\nfolder = "policies"\n[audit]')
    failed = only_failure(files)
    assert failed.key == "policy.folder"
    assert failed.detail.startswith("a.cedar: ")


def test_check_says_when_a_policy_reads_the_study(files: GatewayFiles) -> None:
    (files.folder / "policies").mkdir()
    text = '@id("a") permit (principal in Role::"modality", action, resource) when { context.patient_id != "" };'
    (files.folder / "policies" / "a.cedar").write_text(text, encoding="utf-8")
    files.write("[audit]", '[policy]\nfolder = "policies"\n[audit]')
    (finding,) = [each for each in check_gateway(files.path, at=files.pki.now) if each.key == "policy.folder"]
    assert finding.detail.endswith("heads of stored objects are held")


def test_check_warns_about_a_role_that_no_policy_knows(files: GatewayFiles) -> None:
    files.write(text=CONFIG.replace('"modality"', '"modalty"') + '\n[[person]]\nemail = "a@b.example"\nroles = ["wizard"]\n')
    warned = states(check_gateway(files.path, at=files.pki.now), State.WARNING)
    assert [key for key, _ in warned] == ["device[0].roles", "person[0].roles"]


def test_check_tries_the_spool(files: GatewayFiles) -> None:
    (files.folder / "spool").mkdir()
    findings = check_gateway(files.path, at=files.pki.now)
    assert [each.detail for each in findings if each.key == "audit.spool"] == [f"{files.folder / 'spool'} is writable"]
    assert list((files.folder / "spool").iterdir()) == []


def test_check_finds_a_spool_that_cannot_be_made(files: GatewayFiles) -> None:
    files.write('spool = "spool"', 'spool = "root.pem/spool"')
    failed = only_failure(files)
    assert (failed.key, "is not writable" in failed.detail) == ("audit.spool", True)


@pytest.mark.skipif(not Path("/proc/self").exists() or os.geteuid() != 0, reason="needs a folder that even root cannot write")
def test_check_finds_a_spool_that_is_not_writable(files: GatewayFiles) -> None:
    files.write('spool = "spool"', 'spool = "/proc/self"')
    assert only_failure(files).key == "audit.spool"


def test_check_warns_when_the_quota_does_not_fit(files: GatewayFiles) -> None:
    files.write('spool = "spool"', 'spool = "spool"\nquota_mb = 1048576')
    free = shutil.disk_usage(files.folder).free
    warned = dict(states(check_gateway(files.path, at=files.pki.now), State.WARNING))
    assert ("audit.quota_mb" in warned) is (free < 1048576 * 1024 * 1024)


def test_check_warns_without_a_repository(files: GatewayFiles) -> None:
    files.write(text=CONFIG.rpartition("[[audit.destination]]")[0])
    assert "audit.destination" in dict(states(check_gateway(files.path, at=files.pki.now), State.WARNING))


def test_check_connects_only_when_asked(files: GatewayFiles) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as archive:
        files.write(
            text=CONFIG.replace("127.0.0.1:11112", f"127.0.0.1:{archive.getsockname()[1]}").replace(
                'host = "localhost"', f'host = "localhost"\nport = {free_port()}'
            )
        )
        assert states(check_gateway(files.path, at=files.pki.now), State.FAILED) == []
        findings = check_gateway(files.path, at=files.pki.now, connect=True)
    assert [key for key, _ in states(findings, State.FAILED)] == ["audit.destination[0]"]
    assert any(each.key == "route[0].destinations[0]" and each.state is State.OK for each in findings)
