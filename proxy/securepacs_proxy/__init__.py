"""A TLS gateway in front of any PACS: it ends TLS, knows who calls, decides who may do what, records it, forwards unchanged."""
