"""Who is at the other end of a TLS connection, by the certificate that it has shown."""

from __future__ import annotations

from typing import Any

from appliance.settings import SUBJECT
from appliance.tls.transport import TlsConnection


def names_of(transport: Any, which: str = SUBJECT) -> tuple[str, ...] | None:
    """
    The names in the verified certificate of a connection's client, the best first: C{names_of(transport)[0]} is its
    user, where there is one. Immediate, and cheap to ask for each request.

    @param transport: of the connection; what stands between it and TLS may be given as well.
    @param which: C{SUBJECT}: the common name of the subject, then those of its subjectAltName; C{SAN}: the latter only.
    @return: C{None} where it has shown no certificate, or one that is not believed any more: its authority is gone
        from the listener's C{client_ca_file}, it was revoked, or it has expired.
    """
    while transport is not None and not isinstance(transport, TlsConnection):
        transport = getattr(transport, "transport", None)
    return None if transport is None else transport.client_names(which)
