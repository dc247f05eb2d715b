"""The built-in decision point: Cedar policies over the vocabulary of `subject`, prepared once, asked without waiting.

Rules of this file:
1. Nothing permits: DENY. A policy that cannot be evaluated: DENY, whatever the others say. `decide` never raises.
2. A reason names roles, services and policies; never a patient, a study or the text of an evaluation error.
3. Policies are accepted only when the schema approves them; the schema is always the shipped one, because it describes what this
   file puts into a request.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import cedarpy

from securepacs.errors import ConfigError
from securepacs.policy.sop_class import sop_class_name
from securepacs.policy.subject import AccessRequest, Decision, Effect, Subject, SubjectKind

SCHEMA_FILE = "schema.cedarschema"
EVALUATION_FAILED = "evaluation-failed"

_ENTITY_TYPE = {SubjectKind.PERSON: "Person", SubjectKind.DEVICE: "Device"}
_STUDY_ATTRIBUTES = frozenset({"patient_id", "study_instance_uid"})
_OBLIGATION = "obligation_"
_CEDAR_ID = re.compile(r"`(policy\d+)`")
_ACTION = re.compile(r"[A-Z][A-Za-z-]{1,31}")
_SUBJECTS_REMEMBERED = 1024


class CedarPolicy:
    """A set of Cedar policies that implements `policy.subject.Policy`.

    `texts` maps file names to policy text; the object can be rebuilt from them in another process.
    """

    def __init__(self, texts: Mapping[str, str], *, schema: str | None = None) -> None:
        """Parse and validate; ConfigError names the file that is wrong. No policy at all is refused: it would permit nobody."""
        self.texts = dict(sorted(texts.items()))
        self._schema = shipped_schema() if schema is None else schema
        checked = cedarpy.Schema.from_str(self._schema)
        for name, text in self.texts.items():
            _validate(name, text, checked)
        joined = "\n".join(self.texts.values())
        self._policies = cedarpy.PolicySet.from_str(joined)
        document = _document(joined)["staticPolicies"]
        self._annotations: dict[str, dict[str, str]] = {cedar_id: policy["annotations"] for cedar_id, policy in document.items()}
        self.policy_ids = _unique_ids(self.texts)
        if not self.policy_ids:
            raise ConfigError("there is no policy: every request would be refused", key="policy.folder", hint="add *.cedar files")
        self.roles = frozenset(_roles_in(document))
        self._reads_study = _reads_study(document)
        self._version = _digest({**self.texts, SCHEMA_FILE: self._schema})
        self._entities = functools.lru_cache(maxsize=_SUBJECTS_REMEMBERED)(_entities_of)

    @classmethod
    def from_folder(cls, folder: Path | None = None) -> CedarPolicy:
        """Load every `*.cedar` file of `folder`, or the policies that come with the product."""
        return cls(shipped_texts() if folder is None else _texts_in(folder))

    @property
    def schema(self) -> str:
        """The schema by which the policies were checked."""
        return self._schema

    @property
    def version(self) -> str:
        """SHA-256, in hexadecimal, over the names and texts of all policies and the schema."""
        return self._version

    @property
    def reads_study(self) -> bool:
        """Whether any policy reads patient or study; also true when one uses the context as a whole."""
        return self._reads_study

    def decide(self, request: AccessRequest) -> Decision:
        """Return the decision of the policies; pure, some 50 microseconds, never raises."""
        try:
            result = cedarpy.is_authorized(_cedar_request(request), self._policies, self._entities(request.subject))
        except (ValueError, TypeError):
            return Decision(Effect.DENY, (EVALUATION_FAILED,), "the request could not be put to the policy")
        if result.diagnostics.errors:
            return self._failed(result.diagnostics.errors)
        deciding = tuple(sorted(result.diagnostics.reasons, key=_position))
        policies = tuple(self._annotations[cedar_id]["id"] for cedar_id in deciding)
        if result.decision is cedarpy.Decision.Allow:
            return Decision(Effect.PERMIT, policies, self._reason(deciding), self._obligations(deciding))
        if deciding:
            return Decision(Effect.DENY, policies, self._reason(deciding), self._obligations(deciding))
        return Decision(Effect.DENY, (), self._nothing_permits(request))

    def roles_permitted(self, request: AccessRequest) -> frozenset[str]:
        """Return those roles, of all that a policy mentions, which would be permitted the request.

        Each is asked for a subject that has this role alone, is of the kind the role is written for, and uses its own AE title.
        """
        questions = {role: [_as_if(request, kind, role) for kind in SubjectKind] for role in self.roles}
        return frozenset(role for role, asked in questions.items() if any(self.decide(question).permitted for question in asked))

    def _failed(self, errors: list[str]) -> Decision:
        found = {cedar_id for error in errors for cedar_id in _CEDAR_ID.findall(error) if cedar_id in self._annotations}
        policies = tuple(self._annotations[cedar_id]["id"] for cedar_id in sorted(found, key=_position))
        if not policies:
            return Decision(Effect.DENY, (EVALUATION_FAILED,), "the request could not be put to the policy")
        return Decision(Effect.DENY, policies, f"policy {', '.join(policies)} could not be evaluated")

    def _reason(self, deciding: tuple[str, ...]) -> str:
        return "; ".join(self._annotations[cedar_id].get("reason") or self._annotations[cedar_id]["id"] for cedar_id in deciding)

    def _obligations(self, deciding: tuple[str, ...]) -> dict[str, str]:
        """Return those of all deciding policies: different values of one name are joined, none is lost."""
        found: dict[str, dict[str, None]] = {}
        for cedar_id in deciding:
            for name, value in self._annotations[cedar_id].items():
                if name.startswith(_OBLIGATION):
                    found.setdefault(name.removeprefix(_OBLIGATION), {})[value] = None
        return {name: "; ".join(values) for name, values in found.items()}

    def _nothing_permits(self, request: AccessRequest) -> str:
        roles = request.subject.roles
        known, unknown = sorted(roles & self.roles), sorted(roles - self.roles)
        who = f"role {_listed(known)}" if known else f"a {request.subject.kind.value} without a role"
        ignored = f" (ignored, in no policy: {_listed(unknown)})" if unknown else ""
        return f"no policy permits {_what(request)} for {who}{ignored}"


def shipped_texts() -> dict[str, str]:
    """Return the policies that come with the product, by file name."""
    folder = resources.files("securepacs.policy") / "shipped"
    return {entry.name: entry.read_text(encoding="utf-8") for entry in folder.iterdir() if entry.name.endswith(".cedar")}


@functools.cache
def shipped_schema() -> str:
    """Return the Cedar schema of every request that the gateway makes."""
    return (resources.files("securepacs.policy") / "shipped" / SCHEMA_FILE).read_text(encoding="utf-8")


def _texts_in(folder: Path) -> dict[str, str]:
    try:
        files = sorted(path for path in folder.iterdir() if path.suffix == ".cedar")
        texts = {path.name: path.read_text(encoding="utf-8") for path in files}
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(
            f"the policies in {folder} cannot be read: {reason}", key="policy.folder", hint="check folder and files"
        ) from None
    if not texts:
        raise ConfigError(
            f"{folder} holds no *.cedar file", key="policy.folder", hint="leave the setting out for the shipped policies"
        )
    return texts


def _validate(name: str, text: str, schema: cedarpy.Schema) -> None:
    """Raise ConfigError unless `text` is policy text that the schema approves, without templates, each policy with an @id."""
    result = cedarpy.validate_policies(text, schema)
    if not result.validation_passed:
        first = result.errors[0]
        cedar_id = first.policy_id
        where = f"policy {result.id_annotations_by_policy_id.get(cedar_id, cedar_id)}: " if cedar_id else ""
        message = re.sub(r"^for policy `policy\d+`, ", "", first.error)
        raise ConfigError(
            f"{name}: {where}{message}", key="policy.folder", hint=f"the schema is {SCHEMA_FILE} beside the shipped policies"
        )
    document = _document(text)
    if document["templates"]:
        raise ConfigError(
            f"{name} holds a template, which permits nobody", key="policy.folder", hint="write principal, not ?principal"
        )
    for policy in document["staticPolicies"].values():
        if not policy.get("annotations", {}).get("id"):
            raise ConfigError(
                f"{name}: a policy has no @id", key="policy.folder", hint='begin each policy with @id("a-name-for-audit-records")'
            )


def _document(text: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(cedarpy.policies_to_json_str(text))
    return document


def _unique_ids(texts: Mapping[str, str]) -> tuple[str, ...]:
    file_of: dict[str, str] = {}
    for name, text in texts.items():
        for policy in _document(text)["staticPolicies"].values():
            policy_id = policy["annotations"]["id"]
            if policy_id in file_of:
                message = f"{name}: the @id {policy_id} is used in {file_of[policy_id]} already"
                raise ConfigError(message, key="policy.folder", hint="an audit record could not tell the two apart")
            file_of[policy_id] = name
    return tuple(file_of)


def _digest(texts: Mapping[str, str]) -> str:
    """Lengths keep a text that moves from one file to the next from giving the same digest."""
    digest = hashlib.sha256()
    for name, text in sorted(texts.items()):
        for part in (name.encode(), text.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _entities_of(subject: Subject) -> cedarpy.Entities:
    """Return the subject and its roles as Cedar entities, parsed once for a subject."""
    attributes: dict[str, Any] = {"user_id": subject.user_id, "organization": subject.organization, "assurance": subject.assurance}
    if subject.kind is SubjectKind.DEVICE:
        attributes["ae_titles"] = sorted(subject.ae_titles)
    roles = [{"type": "Role", "id": role} for role in sorted(subject.roles)]
    entities = [{"uid": _principal(subject), "attrs": attributes, "parents": roles}]
    return cedarpy.Entities.from_json_str(json.dumps(entities + [{"uid": role, "attrs": {}, "parents": []} for role in roles]))


def _principal(subject: Subject) -> dict[str, str]:
    return {"type": _ENTITY_TYPE[subject.kind], "id": subject.user_id}


def _cedar_request(request: AccessRequest) -> dict[str, Any]:
    return {
        "principal": _principal(request.subject),
        "action": {"type": "Action", "id": request.action},
        "resource": {"type": "Archive", "id": request.archive},
        "context": {
            "calling_ae_title": request.calling_ae_title,
            "sop_class_uid": request.sop_class_uid,
            "level": request.level,
            "query_keys": sorted(request.query_keys),
            "move_destination": request.move_destination,
            "patient_id": request.patient_id,
            "study_instance_uid": request.study_instance_uid,
            "toward_archive": request.toward_archive,
            "tls_version": request.tls_version,
            "direction": request.direction,
            "move_originator": request.move_originator,
            "on_behalf_of": request.on_behalf_of,
            "at": {"__extn": {"fn": "datetime", "arg": request.at.strftime("%Y-%m-%dT%H:%M:%S%z")}},
        },
    }


def _as_if(request: AccessRequest, kind: SubjectKind, role: str) -> AccessRequest:
    subject = Subject(kind, role, role, frozenset({role}), ae_titles=frozenset({request.calling_ae_title}))
    return dataclasses.replace(request, subject=subject)


def _position(cedar_id: str) -> int:
    """Cedar numbers policies in the order of the text."""
    return int(cedar_id.removeprefix("policy"))


def _what(request: AccessRequest) -> str:
    """Say what was asked, from names and constants only: no key value, no patient, no study."""
    of = f" of {sop_class_name(request.sop_class_uid)}" if request.sop_class_uid else ""
    at_level = f" at level {request.level}" if request.level in ("PATIENT", "STUDY", "SERIES", "IMAGE") else ""
    sender = " on its way out" if request.direction == "egress" else "" if request.toward_archive else " sent by the archive"
    action = request.action if _ACTION.fullmatch(request.action) else "an unknown action"
    return f"{action}{of}{at_level}{sender}"


def _listed(roles: list[str]) -> str:
    """Role names come from certificates: print them as one short line."""
    return ", ".join("".join(c if c.isprintable() else "?" for c in role[:64]) for role in roles[:8])


def _nodes(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)


def _roles_in(document: Any) -> Iterator[str]:
    return (node["id"] for node in _nodes(document) if node.get("type") == "Role" and "id" in node)


def _reads_study(document: Any) -> bool:
    """Look at every use of the context: a named attribute, or, to be on the safe side, anything else than a named attribute."""
    uses = sum(node.get("Var") == "context" for node in _nodes(document))
    named = [
        access["attr"]
        for node in _nodes(document)
        for operator, access in node.items()
        if operator in (".", "has") and isinstance(access, dict) and access.get("left") == {"Var": "context"}
    ]
    return uses > len(named) or not _STUDY_ATTRIBUTES.isdisjoint(named)
