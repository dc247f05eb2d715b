"""Which role may use which service: one question to the policy for every cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from securepacs.policy.cedar import CedarPolicy
from securepacs.policy.subject import AccessRequest, Subject, SubjectKind

_MWL = "1.2.840.10008.5.1.4.31"
_MPPS = "1.2.840.10008.3.1.2.3.3"
_COMMITMENT = "1.2.840.10008.1.20.1"
_WAY_OUT = {"direction": "egress", "toward_archive": False}
_FILM_SESSION, _UPS = "1.2.840.10008.5.1.1.1", "1.2.840.10008.5.1.4.34.6.1"
_CT, _SR, _PR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.11", "1.2.840.10008.5.1.4.1.1.11.1"
_KO, _PDF = "1.2.840.10008.5.1.4.1.1.88.59", "1.2.840.10008.5.1.4.1.1.104.1"
_FIND, _MOVE, _GET = (f"1.2.840.10008.5.1.4.1.2.2.{number}" for number in (1, 2, 3))

_ROLE_NAMES_KOREAN = {
    "modality": "촬영 장비",
    "radiologist": "영상의학과 의사",
    "referring_physician": "의뢰 의사",
    "auditor": "감사자",
    "administrator": "관리자",
    "gateway_peer": "연계 게이트웨이",
    "archive": "보관소",
}


@dataclass(frozen=True, slots=True)
class Service:
    """One row: what is asked, in both languages, and the request that stands for it."""

    english: str
    korean: str
    action: str
    request: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServiceRow:
    """A service and the roles that the policy permits it to."""

    service: Service
    roles: frozenset[str]


SERVICES = (
    Service("Associate", "연결", "Associate"),
    Service("C-ECHO", "연결 확인 (C-ECHO)", "C-ECHO", {"sop_class_uid": "1.2.840.10008.1.1"}),
    Service("C-STORE image", "영상 저장 (C-STORE)", "C-STORE", {"sop_class_uid": _CT}),
    Service("C-STORE structured report", "구조화 판독문 저장", "C-STORE", {"sop_class_uid": _SR}),
    Service("C-STORE key object selection", "핵심 영상 선택 저장", "C-STORE", {"sop_class_uid": _KO}),
    Service("C-STORE presentation state", "표시 상태 저장", "C-STORE", {"sop_class_uid": _PR}),
    Service("C-STORE encapsulated PDF", "PDF 문서 저장", "C-STORE", {"sop_class_uid": _PDF}),
    Service("C-FIND worklist", "촬영 목록 조회", "C-FIND", {"sop_class_uid": _MWL}),
    Service("C-FIND any study", "전체 검사 검색", "C-FIND", {"sop_class_uid": _FIND, "level": "STUDY"}),
    Service(
        "C-FIND known patient",
        "지정 환자 검색",
        "C-FIND",
        {"sop_class_uid": _FIND, "level": "STUDY", "query_keys": frozenset({"PatientID"})},
    ),
    Service("C-GET study", "검사 조회 (C-GET)", "C-GET", {"sop_class_uid": _GET, "level": "STUDY"}),
    Service("C-MOVE study", "검사 전송 (C-MOVE)", "C-MOVE", {"sop_class_uid": _MOVE, "level": "STUDY"}),
    Service("C-MOVE patient", "환자 전체 전송 (C-MOVE)", "C-MOVE", {"sop_class_uid": _MOVE, "level": "PATIENT"}),
    Service("N-CREATE procedure step", "시술 단계 보고 (N-CREATE)", "N-CREATE", {"sop_class_uid": _MPPS}),
    Service("N-SET procedure step", "시술 단계 갱신 (N-SET)", "N-SET", {"sop_class_uid": _MPPS}),
    Service("N-ACTION storage commitment", "저장 확약 요청 (N-ACTION)", "N-ACTION", {"sop_class_uid": _COMMITMENT}),
    Service("N-ACTION print", "필름 인쇄 (N-ACTION)", "N-ACTION", {"sop_class_uid": _FILM_SESSION}),
    Service("N-ACTION work item (UPS)", "작업 항목 수행 (UPS N-ACTION)", "N-ACTION", {"sop_class_uid": _UPS}),
    Service("archive: C-STORE (of a C-GET)", "보관소: C-GET 영상 전달", "C-STORE", {"sop_class_uid": _CT, "toward_archive": False}),
    Service(
        "archive: N-EVENT-REPORT",
        "보관소: 저장 확약 결과",
        "N-EVENT-REPORT",
        {"sop_class_uid": _COMMITMENT, "toward_archive": False},
    ),
    Service("way out: C-STORE", "외부 전송: C-STORE", "C-STORE", {"sop_class_uid": _CT, **_WAY_OUT}),
    Service("way out: N-EVENT-REPORT", "외부 전송: N-EVENT-REPORT", "N-EVENT-REPORT", {"sop_class_uid": _COMMITMENT, **_WAY_OUT}),
)


def role_table(policy: CedarPolicy, *, at: datetime) -> list[ServiceRow]:
    """Return one row a service with the roles that the policy permits it to, each asked under an AE title of its own."""
    nobody = Subject(SubjectKind.PERSON, "nobody", "nobody")
    return [
        ServiceRow(
            service,
            policy.roles_permitted(
                AccessRequest(nobody, service.action, "ARCHIVE", at, calling_ae_title="STATION", **service.request)
            ),
        )
        for service in SERVICES
    ]


def title(*, korean: bool) -> str:
    """Return the title of the table."""
    return "역할별 허용 서비스, 정책" if korean else "Which role may use which service, policy"


def in_force(since: str, *, korean: bool) -> str:
    """Return the words that say since when the policy of the table was in force."""
    return f"{since}부터 시행" if korean else f"in force since {since}"


def heading(*, korean: bool) -> str:
    """Return the heading of the column of services."""
    return "서비스" if korean else "service"


def role_name(role: str, *, korean: bool) -> str:
    """Return the name of a role in the wanted language; a role without a Korean name keeps its own."""
    return _ROLE_NAMES_KOREAN.get(role, role) if korean else role
