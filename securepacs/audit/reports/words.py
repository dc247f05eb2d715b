"""The words of reports in English and Korean: data only. Every entry has both; a test reads all of them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from securepacs.errors import UsageError

LANGUAGES = ("en", "ko")

WORDS: Mapping[str, tuple[str, str]] = MappingProxyType({
    # --- titles -----------------------------------------------------------------------------------------------------
    "access": ("Who saw my images", "내 영상을 누가 보았는가"),
    "monthly": ("Monthly check of access records", "접속기록 월간 점검"),
    "emergency": ("Review of emergency access", "응급 접근 검토"),
    "breach": ("Extent of a breach", "침해 범위 조사"),
    # --- page -------------------------------------------------------------------------------------------------------
    "made": ("Made", "작성 시각"),
    "period": ("Period", "기간"),
    "all time": ("everything recorded", "전체 기록"),
    "from": ("from {0}", "{0}부터"),
    "until": ("until {0}", "{0}까지"),
    "records": ("Records", "기록 수"),
    "nothing": ("There is no record of this kind in the period.", "해당 기간에 이러한 기록이 없습니다."),
    "more": ("The first {0} of {1} rows; the CSV has all of them.", "전체 {1}행 중 처음 {0}행입니다. CSV 파일에 전체가 있습니다."),
    "repeats": ("Repeated deliveries left out", "제외한 중복 수신"),
    "unreadable": ("Records that could not be read", "해독할 수 없는 기록"),
    "erased records": ("Lawfully erased records", "법에 따라 삭제된 기록"),
    "checklist": ("Checklist", "점검표"),
    "clear": ("in order", "양호"),
    "act": ("look at it", "확인 필요"),
    "not stated": ("not stated", "기재 없음"),
    # --- columns ----------------------------------------------------------------------------------------------------
    "when": ("When", "일시"),
    "who": ("Who", "접속자"),
    "id": ("User ID", "식별자"),
    "role": ("Role", "역할"),
    "where": ("From where", "접속지"),
    "what": ("What", "수행업무"),
    "to whom": ("To whom", "제공받은 곳"),
    "patient": ("Patient", "환자(정보주체)"),
    "patients": ("Patients", "환자"),
    "study": ("Study", "검사"),
    "studies": ("Studies", "검사"),
    "outcome": ("Outcome", "결과"),
    "reason": ("Reason", "사유"),
    "remark": ("Remark", "비고"),
    "begin": ("Begin", "시작"),
    "end": ("End", "종료"),
    "minutes": ("Minutes", "분"),
    "open": ("not ended in the period", "기간 내 종료되지 않음"),
    "list": ("List", "목록"),
    "item": ("Item", "항목"),
    "count": ("Count", "건수"),
    "value": ("Value", "값"),
    "first": ("First", "최초"),
    "last": ("Last", "최종"),
    "source": ("Reported by", "기록 장비"),
    "in patients": ("Patients, listed", "환자 목록"),
    # --- charts and figures -----------------------------------------------------------------------------------------
    "by day": ("Records by day", "일별 기록 수"),
    "by month": ("Records by month", "월별 기록 수"),
    "by what": ("What was done", "수행업무별"),
    "by who": ("Who did it", "접속자별"),
    "by source": ("Reported by", "기록 장비별"),
    "people": ("Different users", "접속자 수"),
    "distinct patients": ("Different patients", "환자 수"),
    "distinct studies": ("Different studies", "검사 수"),
    "overrides": ("Emergency overrides", "응급 접근 건수"),
    "unended": ("Without an end", "종료 기록 없음"),
    "to review": ("Things to look at", "확인할 사항"),
    "accesses": ("Accesses", "접근 내역"),
    "during": ("Records while it lasted", "진행 중 기록 수"),
    "subject of search": ("Searched for", "조사 대상"),
    "serial": ("certificate serial number", "인증서 일련번호"),
    "subject": ("person or device", "사용자 또는 장비"),
    "peer": ("network address", "네트워크 주소"),
    "ae": ("AE title", "AE 타이틀"),
    "failed ones": ("of these refused or failed", "그중 거부 또는 실패"),
    # --- the monthly check ------------------------------------------------------------------------------------------
    "exports": ("Exports (downloads)", "반출(다운로드)"),
    "logins": ("Failed logins", "로그인 실패"),
    "refusals": ("Refused requests", "거부된 요청"),
    "overrides begun": ("Emergency overrides", "응급 접근"),
    "log used": ("Uses of the audit trail", "접속기록 열람"),
    "check fields": (
        "Do access records name user, time, place, data subject and task?",
        "접속기록에 식별자, 접속일시, 접속지, 정보주체, 수행업무가 포함되어 있는가?",
    ),
    "found fields": (
        "without user {0}, without place {1}, about a patient without naming one {2}, unreadable {3}",
        "식별자 없음 {0}건, 접속지 없음 {1}건, 정보주체 없음 {2}건, 해독 불가 {3}건",
    ),
    "check kept": ("Are records kept for two years at least?", "접속기록을 2년 이상 보관하는가?"),
    "found kept": (
        "oldest record received {0}; {1} records of the period were erased",
        "가장 오래된 기록의 수신 시각 {0}, 해당 기간 기록 중 {1}건 삭제됨",
    ),
    "check downloads": ("Has every download a reason?", "다운로드 사유가 확인되었는가?"),
    "found downloads": ("{0} exports, {1} of them without a purpose of use", "반출 {0}건, 그중 사용 목적이 없는 것 {1}건"),
    "check logins": ("Were failed logins and refusals looked into?", "로그인 실패와 거부된 요청을 확인하였는가?"),
    "found logins": ("{0} failed logins, {1} refused requests", "로그인 실패 {0}건, 거부된 요청 {1}건"),
    "check overrides": ("Was emergency access reviewed?", "응급 접근을 검토하였는가?"),
    "found overrides": ("{0} overrides began; see the emergency report", "응급 접근 {0}건, 응급 접근 보고서 참조"),
    "check safe": ("Are the records safe from forgery and loss?", "접속기록의 위조·변조·도난·분실을 방지하고 있는가?"),
    "found safe": (
        "newest signed checkpoint of the log: {0}; `securepacs audit verify` proves an export against it",
        "서명된 최신 체크포인트: {0}. 내보낸 기록은 `securepacs audit verify`로 검증합니다",
    ),
    "unsigned log": ("the log is not signed", "로그가 서명되지 않음"),
    "auditor": ("Auditor", "점검자"),
    "certificate": ("Certificate", "인증서"),
    "comment": ("Remarks of the auditor", "점검 의견"),
    "csv digest": ("SHA-256 of the CSV", "CSV의 SHA-256"),
    "signature": ("Signature", "서명"),
    "signature text": (
        "CMS (RFC 5652) over this file, beside it with the ending .p7s, and in the audit trail",
        "이 파일에 대한 CMS(RFC 5652) 서명이 확장자 .p7s 파일과 감사 기록에 있습니다",
    ),
    "unsigned": ("This report is not signed by an auditor.", "이 보고서에는 점검자의 서명이 없습니다."),
    # --- outcomes ---------------------------------------------------------------------------------------------------
    "outcome 0": ("success", "성공"),
    "outcome 4": ("minor failure", "경미한 실패"),
    "outcome 8": ("serious failure", "심각한 실패"),
    "outcome 12": ("major failure", "중대한 실패"),
    # --- events (CID 400), with the action where it makes a difference ------------------------------------------------
    "110100": ("program started or stopped", "프로그램 시작/종료"),
    "110101": ("audit trail used", "감사 기록 열람"),
    "110102": ("transfer of images began", "영상 전송 시작"),
    "110103": ("images accessed", "영상 접근"),
    "110103 C": ("images created", "영상 생성"),
    "110103 R": ("images viewed", "영상 열람"),
    "110103 U": ("images changed", "영상 변경"),
    "110103 D": ("images deleted", "영상 삭제"),
    "110104": ("images transferred", "영상 전송"),
    "110105": ("study deleted", "검사 삭제"),
    "110106": ("export", "반출"),
    "110107": ("import", "반입"),
    "110108": ("node joined or left the network", "네트워크 연결/분리"),
    "110109": ("order record", "오더 기록"),
    "110110": ("patient record", "환자 기록"),
    "110111": ("procedure record", "시술 기록"),
    "110112": ("query", "조회"),
    "110113": ("security alert", "보안 경보"),
    "110114": ("login or logout", "로그인/로그아웃"),
    "C": ("{0}: created", "{0}: 생성"),
    "R": ("{0}: read", "{0}: 열람"),
    "U": ("{0}: changed", "{0}: 변경"),
    "D": ("{0}: deleted", "{0}: 삭제"),
})  # fmt: skip

_WITH_ACTION = frozenset(("110109", "110110", "110111"))


class Words:
    """The words of one language. Raises UsageError for a language that reports do not speak."""

    def __init__(self, language: str) -> None:
        if language not in LANGUAGES:
            raise UsageError(f"reports do not speak {language!r}", hint="one of " + ", ".join(LANGUAGES))
        self.language = language
        self._column = LANGUAGES.index(language)

    def __call__(self, key: str, *values: object) -> str:
        """Return a word; `values` fill its places."""
        return WORDS[key][self._column].format(*values)

    def event(self, code: str, action: str, name: str) -> str:
        """Return what an event is in words; its own name where it is none of CID 400."""
        if f"{code} {action}" in WORDS:
            return self(f"{code} {action}")
        if code not in WORDS or not code.isdigit():
            return name or code or self("not stated")
        return self(action, self(code)) if code in _WITH_ACTION and action in ("C", "R", "U", "D") else self(code)

    def outcome(self, value: int | None) -> str:
        """Return an EventOutcomeIndicator in words."""
        return self(f"outcome {value}") if f"outcome {value}" in WORDS else self("not stated")
