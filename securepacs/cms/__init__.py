"""RFC 5652 messages: SignedData, EnvelopedData, DigestedData. Knows nothing about DICOM, tokens or trust."""
