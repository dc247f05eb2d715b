"""UIDs, OIDs and coded terms of the standards: data only.

Editions: DICOM 2024c (PS3.6, PS3.16 CID 400-405, 7007), RFC 3881, ISO 21091 / ISO 17090 for hcRole.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CodedValue:
    """A coded term as audit messages write it: csd-code, codeSystemName, originalText (PS3.15 A.5.1)."""

    csd_code: str
    codeSystemName: str
    originalText: str
    displayName: str = ""


def _dcm(code: str, meaning: str) -> CodedValue:
    return CodedValue(code, "DCM", meaning)


# --- transfer syntaxes (PS3.5 Annex A) ------------------------------------------------------------------------------
IMPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2"
EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN = "1.2.840.10008.1.2.1.99"
EXPLICIT_VR_BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE_TRANSFER_SYNTAXES = frozenset(  # the same values, written down in different ways
    {IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_BIG_ENDIAN}
)

# --- SOP classes the product names itself ---------------------------------------------------------------------------
VERIFICATION_SOP_CLASS = "1.2.840.10008.1.1"
DICOM_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
KEY_OBJECT_SELECTION_DOCUMENT = "1.2.840.10008.5.1.4.1.1.88.59"

# --- audit events, CID 400 ------------------------------------------------------------------------------------------
APPLICATION_ACTIVITY = _dcm("110100", "Application Activity")
AUDIT_LOG_USED = _dcm("110101", "Audit Log Used")
BEGIN_TRANSFERRING_DICOM_INSTANCES = _dcm("110102", "Begin Transferring DICOM Instances")
DICOM_INSTANCES_ACCESSED = _dcm("110103", "DICOM Instances Accessed")
DICOM_INSTANCES_TRANSFERRED = _dcm("110104", "DICOM Instances Transferred")
DICOM_STUDY_DELETED = _dcm("110105", "DICOM Study Deleted")
EXPORT = _dcm("110106", "Export")
IMPORT = _dcm("110107", "Import")
NETWORK_ENTRY = _dcm("110108", "Network Entry")
ORDER_RECORD = _dcm("110109", "Order Record")
PATIENT_RECORD = _dcm("110110", "Patient Record")
PROCEDURE_RECORD = _dcm("110111", "Procedure Record")
QUERY = _dcm("110112", "Query")
SECURITY_ALERT = _dcm("110113", "Security Alert")
USER_AUTHENTICATION = _dcm("110114", "User Authentication")

# --- audit event types, CID 401 and 403 -----------------------------------------------------------------------------
APPLICATION_START = _dcm("110120", "Application Start")
APPLICATION_STOP = _dcm("110121", "Application Stop")
LOGIN = _dcm("110122", "Login")
LOGOUT = _dcm("110123", "Logout")
ATTACH = _dcm("110124", "Attach")
DETACH = _dcm("110125", "Detach")
NODE_AUTHENTICATION = _dcm("110126", "Node Authentication")
EMERGENCY_OVERRIDE_STARTED = _dcm("110127", "Emergency Override Started")
NETWORK_CONFIGURATION = _dcm("110128", "Network Configuration")
SECURITY_CONFIGURATION = _dcm("110129", "Security Configuration")
HARDWARE_CONFIGURATION = _dcm("110130", "Hardware Configuration")
SOFTWARE_CONFIGURATION = _dcm("110131", "Software Configuration")
USE_OF_RESTRICTED_FUNCTION = _dcm("110132", "Use of Restricted Function")
AUDIT_RECORDING_STOPPED = _dcm("110133", "Audit Recording Stopped")
AUDIT_RECORDING_STARTED = _dcm("110134", "Audit Recording Started")
OBJECT_SECURITY_ATTRIBUTES_CHANGED = _dcm("110135", "Object Security Attributes Changed")
SECURITY_ROLES_CHANGED = _dcm("110136", "Security Roles Changed")
USER_SECURITY_ATTRIBUTES_CHANGED = _dcm("110137", "User Security Attributes Changed")
EMERGENCY_OVERRIDE_STOPPED = _dcm("110138", "Emergency Override Stopped")

# --- participant roles, CID 402 -------------------------------------------------------------------------------------
APPLICATION_ROLE = _dcm("110150", "Application")
APPLICATION_LAUNCHER = _dcm("110151", "Application Launcher")
DESTINATION_ROLE_ID = _dcm("110152", "Destination Role ID")
SOURCE_ROLE_ID = _dcm("110153", "Source Role ID")
DESTINATION_MEDIA = _dcm("110154", "Destination Media")
SOURCE_MEDIA = _dcm("110155", "Source Media")

# --- participant object identifier types, CID 404 -------------------------------------------------------------------
STUDY_INSTANCE_UID_TYPE = _dcm("110180", "Study Instance UID")
SOP_CLASS_UID_TYPE = _dcm("110181", "SOP Class UID")
NODE_ID_TYPE = _dcm("110182", "Node ID")
PATIENT_NUMBER_TYPE = CodedValue("2", "RFC-3881", "Patient Number")
URI_TYPE = CodedValue("12", "RFC-3881", "URI")

# --- media, CID 405 -------------------------------------------------------------------------------------------------
FILM = _dcm("110010", "Film")
USB_DISK_EMULATION = _dcm("110030", "USB Disk Emulation")
EMAIL = _dcm("110031", "Email")
CD = _dcm("110032", "CD")
DVD = _dcm("110033", "DVD")
URI_MEDIA = _dcm("110037", "URI")
PAPER_DOCUMENT = _dcm("110038", "Paper Document")

# --- health care roles (ISO 17090-2 hcRole; coding scheme ISO 21298 functional names as used by the shipped policies) -
HCROLE_ATTRIBUTE_OID = "1.0.17090.0.1"
ROLE_MODALITY = "modality"
ROLE_RADIOLOGIST = "radiologist"
ROLE_REFERRING_PHYSICIAN = "referring_physician"
ROLE_AUDITOR = "auditor"
ROLE_ADMINISTRATOR = "administrator"
ROLE_GATEWAY_PEER = "gateway_peer"

# --- CMS content types (RFC 5652 3-8), S/MIME attributes (RFC 2985, RFC 5035) ---------------------------------------
ID_DATA = "1.2.840.113549.1.7.1"
ID_SIGNED_DATA = "1.2.840.113549.1.7.2"
ID_ENVELOPED_DATA = "1.2.840.113549.1.7.3"
ID_DIGESTED_DATA = "1.2.840.113549.1.7.5"
ID_AUTH_ENVELOPED_DATA = "1.2.840.113549.1.9.16.1.23"
ID_CONTENT_TYPE = "1.2.840.113549.1.9.3"
ID_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
ID_SIGNING_TIME = "1.2.840.113549.1.9.5"
ID_SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47"
ID_PWRI_KEK = "1.2.840.113549.1.9.16.3.9"
ID_PBKDF2 = "1.2.840.113549.1.5.12"
ID_HMAC_SHA256 = "1.2.840.113549.2.9"

# --- de-identification, CID 7050 ------------------------------------------------------------------------------------
BASIC_APPLICATION_CONFIDENTIALITY_PROFILE = _dcm("113100", "Basic Application Confidentiality Profile")
CLEAN_DESCRIPTORS_OPTION = _dcm("113105", "Clean Descriptors Option")
RETAIN_FULL_DATES_OPTION = _dcm("113106", "Retain Longitudinal Temporal Information Full Dates Option")
RETAIN_MODIFIED_DATES_OPTION = _dcm("113107", "Retain Longitudinal Temporal Information Modified Dates Option")
RETAIN_PATIENT_CHARACTERISTICS_OPTION = _dcm("113108", "Retain Patient Characteristics Option")
RETAIN_DEVICE_IDENTITY_OPTION = _dcm("113109", "Retain Device Identity Option")
RETAIN_UIDS_OPTION = _dcm("113110", "Retain UIDs Option")
RETAIN_INSTITUTION_IDENTITY_OPTION = _dcm("113112", "Retain Institution Identity Option")
