"""The agent beside a viewer: plain DICOM in on loopback, mutual TLS with the person's card out to the gateway.

No viewer and no Python can use a smart card for TLS by itself. The agent logs the person in once, opens one TLS connection per
association with the key in the card, and ends everything when the card is pulled. It reads no DICOM beyond the length of PDUs.

1. Only programs of the user who runs the agent are served (`caller`); it listens on loopback and nowhere else.
2. Nothing leaves without a login on record (`door`, `records`); a refusal is an A-ASSOCIATE-RJ that invites to try again.
3. A PIN is asked of a person, tried once, and forgotten: after removal, time-out or restart it is asked again.
"""
