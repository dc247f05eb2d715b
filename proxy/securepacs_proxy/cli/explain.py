"""`securepacs-proxy gateway explain`: what the policy would say, and why. Asks the policy itself, so it cannot be out of date."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from securepacs.cli import output
from securepacs.errors import AccessDenied, UsageError
from securepacs_proxy.cli.options import CONFIG_OPTION, JSON_OPTION, load_or_exit, moment

if TYPE_CHECKING:
    from cryptography import x509

    from securepacs.policy.cedar import CedarPolicy
    from securepacs.policy.subject import AccessRequest, Decision, Subject
    from securepacs_proxy.config import GatewayConfig

LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")

# What is assumed when the question leaves it out: the SOP class that the service is mostly used with.
ASSUMED_SOP_CLASS = {
    "Associate": "",
    "C-ECHO": "1.2.840.10008.1.1",
    "C-STORE": "1.2.840.10008.5.1.4.1.1.2",
    "C-FIND": "1.2.840.10008.5.1.4.1.2.2.1",
    "C-MOVE": "1.2.840.10008.5.1.4.1.2.2.2",
    "C-GET": "1.2.840.10008.5.1.4.1.2.2.3",
    "C-CANCEL": "",
    "N-EVENT-REPORT": "1.2.840.10008.1.20.1",
    "N-GET": "1.2.840.10008.3.1.2.3.3",
    "N-SET": "1.2.840.10008.3.1.2.3.3",
    "N-ACTION": "1.2.840.10008.1.20.1",
    "N-CREATE": "1.2.840.10008.3.1.2.3.3",
    "N-DELETE": "",
}


class Language(StrEnum):
    """Languages of the role table."""

    ENGLISH = "en"
    KOREAN = "ko"


@output.reports_errors
def explain(
    config: Path = CONFIG_OPTION,
    cert: Path | None = typer.Option(None, "--cert", help="Certificate of the peer (PEM or DER)."),
    action: str = typer.Option("", "--action", help="Associate or a DIMSE service: C-STORE, C-FIND, N-CREATE, ..."),
    calling: str = typer.Option("", "--calling", help="Calling AE title; of a device its first one when left out."),
    called: str = typer.Option("", "--called", help="Called AE title; the first route when left out."),
    sop_class: str = typer.Option("", "--sop-class", help="SOP Class UID; the usual one of the service when left out."),
    level: str = typer.Option("", "--level", help="Query/Retrieve level: PATIENT, STUDY, SERIES or IMAGE."),
    query_key: list[str] = typer.Option(
        [], "--query-key", help="Keyword of a key that the query fills in, such as PatientID; repeatable."
    ),
    move_destination: str = typer.Option("", "--move-destination", help="AE title that a C-MOVE sends to."),
    from_archive: bool = typer.Option(False, "--from-archive", help="The archive sends it: a C-GET sub-operation or a report."),
    at: str = typer.Option(
        "", "--at", help="Moment of the request (RFC 3339), by what was in force then; left out: now, by the files as they are."
    ),
    roles: bool = typer.Option(False, "--roles", help="Print which role may use which service, and exit."),
    lang: Language = typer.Option(Language.ENGLISH, "--language", "--lang", help="Language of the role table."),
    json: bool = JSON_OPTION,
) -> None:
    """Say whether a request would be permitted, by which policies and why. Exit 0 permitted, 1 denied, 2 configuration."""
    from securepacs_proxy.config import read_certificates

    moment_asked = moment(at)
    rules = _rules_at(config, moment_asked if at else None)
    settings, policy = rules.config, rules.policy
    if roles:
        _print_role_table(policy, moment_asked, lang, rules.since, json=json)
        return
    if cert is None or not action:
        raise UsageError("--cert and --action say whom and what to ask about", hint="or --roles for the table of all roles")
    _known("--action", action, tuple(ASSUMED_SOP_CLASS))
    if level:
        _known("--level", level, LEVELS)
    question = _Question(
        action,
        calling,
        called or settings.routes[0].called_ae_title,
        sop_class or ASSUMED_SOP_CLASS[action],
        level,
        frozenset(query_key),
        move_destination,
        not from_archive,
        moment_asked,
    )
    decision, request = _ask(read_certificates(cert, key="--cert"), question, rules)
    if json:
        output.print_json(_as_json(decision, request, rules))
    else:
        _print_decision(decision, request, rules)
    if not decision.permitted:
        raise SystemExit(1)


@dataclasses.dataclass(frozen=True, slots=True)
class _Question:
    action: str
    calling: str
    called: str
    sop_class_uid: str
    level: str
    query_keys: frozenset[str]
    move_destination: str
    toward_archive: bool
    at: datetime

    def about(self, subject: Subject) -> AccessRequest:
        from securepacs.policy.subject import AccessRequest

        return AccessRequest(
            subject=subject,
            action=self.action,
            archive=self.called,
            at=self.at,
            calling_ae_title=self.calling or min(subject.ae_titles, default="VIEWER"),
            sop_class_uid=self.sop_class_uid,
            level=self.level,
            query_keys=self.query_keys,
            move_destination=self.move_destination,
            toward_archive=self.toward_archive,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class _Rules:
    """What answers: settings and policy of one moment, and how a file with certificates is read; `since` is empty for the files."""

    config: GatewayConfig
    policy: CedarPolicy
    read: Callable[..., Sequence[x509.Certificate]]
    since: str = ""


def _rules_at(path: Path, at: datetime | None) -> _Rules:
    """Return what was in force at a moment; the files as they are for none, for the future, and where no gateway has run yet."""
    from securepacs_proxy.config import policy_of, read_certificates
    from securepacs_proxy.history import FOLDER, History, Past

    settings = load_or_exit(path)
    if at is not None and at <= datetime.now(UTC):
        history = History(settings.audit.spool / FOLDER, limit=settings.policy.history_versions)
        version = history.at(at)
        if version is not None:
            past = Past(history, version)
            return _Rules(past.config, past.policy, past.read_certificates, version.since.isoformat(timespec="seconds"))
    return _Rules(settings, policy_of(settings.policy), read_certificates)


def _known(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        near = difflib.get_close_matches(value.upper(), known, n=1)
        raise UsageError(f"{option} {value} is unknown", hint=f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}")


def _ask(shown: Sequence[x509.Certificate], question: _Question, rules: _Rules) -> tuple[Decision, AccessRequest | None]:
    """Return the decision about the first certificate; no request when nobody is identified, or no route leads to the AE title."""
    from securepacs.policy.subject import Decision, Effect
    from securepacs_proxy.blocks import BlockList
    from securepacs_proxy.guard import AssociationPolicy
    from securepacs_proxy.identity import enrolment_of, identify_among, path_of, scopes_of

    config = rules.config
    anchors = [found for listener in config.listeners for path in listener.trust for found in rules.read(path, key="trust")]
    scopes, path = scopes_of(config, rules.read), path_of(shown[0], shown[1:], anchors)
    try:
        subject = identify_among(shown[0], enrolment_of(config), scopes=scopes, chain=path)
    except AccessDenied as error:
        return Decision(Effect.DENY, (), f"{error}: {error.hint}"), None
    if question.called not in {route.called_ae_title for route in config.routes}:
        return Decision(Effect.DENY, (), f"no route leads to the called AE title {question.called}"), None
    request = question.about(subject)
    return AssociationPolicy(rules.policy, BlockList(), scopes).decide(request), request


def _print_decision(decision: Decision, request: AccessRequest | None, rules: _Rules) -> None:
    from securepacs.policy.sop_class import sop_class_name

    rows: list[tuple[str, str]] = [("decision", decision.effect.value), ("reason", decision.reason)]
    rows.append(("decided by", ", ".join(decision.policies) or "no policy: what nothing permits is denied"))
    rows += [(f"obligation {name}", value) for name, value in sorted(decision.obligations.items())]
    if request is not None:
        subject = request.subject
        rows += [
            ("subject", f"{subject.kind.value} {subject.user_id} ({subject.name})"),
            ("roles", ", ".join(sorted(subject.roles)) or "none"),
            ("assurance", subject.assurance),
            ("request", f"{request.action} from {request.calling_ae_title} to {request.archive}"),
        ]
        if request.sop_class_uid:
            rows.append(("SOP class", f"{sop_class_name(request.sop_class_uid)} ({request.sop_class_uid})"))
        if request.level:
            rows.append(("level", request.level))
        if not decision.permitted:
            rows.append(("permitted to roles", ", ".join(sorted(rules.policy.roles_permitted(request))) or "none"))
    rows.append(("policy version", rules.policy.version[:12]))
    rows.append(("in force", f"since {rules.since}" if rules.since else "the files as they are now"))
    output.print_table("Decision", ("", ""), rows)


def _as_json(decision: Decision, request: AccessRequest | None, rules: _Rules) -> dict[str, object]:
    answer: dict[str, object] = {
        "effect": decision.effect.value,
        "reason": decision.reason,
        "policies": list(decision.policies),
        "obligations": dict(decision.obligations),
        "policy_version": rules.policy.version,
        "in_force_since": rules.since,
    }
    if request is not None:
        subject = request.subject
        answer |= {
            "subject": {
                "kind": subject.kind.value,
                "user_id": subject.user_id,
                "name": subject.name,
                "roles": sorted(subject.roles),
                "ignored_roles": sorted(subject.ignored_roles),
                "assurance": subject.assurance,
            },
            "request": {
                "action": request.action,
                "calling_ae_title": request.calling_ae_title,
                "called_ae_title": request.archive,
                "sop_class_uid": request.sop_class_uid,
                "level": request.level,
                "query_keys": sorted(request.query_keys),
                "move_destination": request.move_destination,
                "toward_archive": request.toward_archive,
                "at": request.at.isoformat(),
            },
            "permitted_to_roles": sorted(rules.policy.roles_permitted(request)),
        }
    return answer


def _print_role_table(policy: CedarPolicy, at: datetime, language: Language, since: str, *, json: bool) -> None:
    from securepacs_proxy.cli.role_table import heading, in_force, role_name, role_table, title

    table = role_table(policy, at=at)
    if json:
        for row in table:
            output.print_json({"service": row.service.english, "roles": sorted(row.roles)})
        return
    korean, names = language is Language.KOREAN, sorted(policy.roles)
    columns = [heading(korean=korean), *(role_name(role, korean=korean) for role in names)]
    rows = [
        [row.service.korean if korean else row.service.english, *("yes" if name in row.roles else "-" for name in names)]
        for row in table
    ]
    when = f", {in_force(since, korean=korean)}" if since else ""
    output.print_table(f"{title(korean=korean)} ({policy.version[:12]}{when})", columns, rows)
