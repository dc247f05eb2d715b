"""What is known about the revocation of peers' certificates, found off the connection path and told to all workers.

`verdicts`: one verdict a certificate, the table of a worker (pure). `sources`: CRLs and OCSP answers, fetched anew at every refresh
and kept on disk for when nobody answers. `judge`: from certificate and data to verdict, with the windows for old data.
"""
